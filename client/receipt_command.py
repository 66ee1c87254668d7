"""``ringfence budget receipt``: what a member gives to others, so that they can hold a release's evidence against its word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit


def receipt(
    out: Annotated[Path, typer.Option("--out", help="Folder to write MEMBER.pem and MEMBER.head to.")],
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write this member's identity key and its newest ledger head, signed, for others to check evidence against.

    Both are public: a key's public half, and a hash that says nothing of what was charged. Give them away apart from any
    release. Works while the agent runs.
    """
    from ringfence.client.ledger_reading import open_ledger_reader
    from ringfence.client.member_settings import load_member_settings
    from ringfence.model.atomic_file import write_atomically
    from ringfence.model.errors import ConfigError
    from ringfence.model.key_files import load_signing_key, public_pem
    from ringfence.privacy.ledger_anchor import sign_head

    located = MemberHome.locate(home)
    member = load_member_settings(located).member
    key = load_signing_key(located.identity_key_file)
    with open_ledger_reader(located) as reader:
        newest = reader.verified_state().head
    key_file, head_file = out / f"{member}.pem", out / f"{member}.head"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(key_file, public_pem(key.public_key()).encode(), mode=0o644)
        write_atomically(head_file, sign_head(newest, key=key), mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"Cannot write to {out}: {error.strerror}", hint="Choose another folder."
        ) from error
    emit(
        f"Written: {key_file} and {head_file}, of entry {newest.seq} of the ledger.\n"
        f"Next, at whoever has the receipts of several members in one folder: ringfence evidence verify --receipts {out}",
        data={
            "member": member,
            "key": str(key_file),
            "head": str(head_file),
            "entry": newest.seq,
            "hash": newest.hash,
        },
        as_json=as_json,
    )
