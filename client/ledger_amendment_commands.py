"""``ringfence budget amend``, ``sign``, ``officer-key`` and ``close``: how the terms of a ledger change, and how it ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit

if TYPE_CHECKING:
    from ringfence.client.ledger_amendment import Amendment
    from ringfence.privacy.ledger import Ledger

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
_REQUEST = Path("amendment.json")
_SIGNED = Path("amendment-signed.json")


def officer_key(
    file: Annotated[Path, typer.Argument(help="Of the officer's private key; made if it is not there.")],
    as_json: JsonOption = False,
) -> None:
    """Make the data-protection officer's key, or show the public half of one. Run it on the officer's machine."""
    from ringfence.model.key_files import load_signing_key, make_signing_key

    made = not file.exists()
    key = make_signing_key(file) if made else load_signing_key(file)
    public = key.public_key().public_bytes_raw().hex()
    emit(
        f"{'Made' if made else 'Read'} {file}; it stays with the officer. The member writes into its policy.toml, before the "
        f'budget is opened:\n\n[ledger]\ndata_protection_key = "{public}"\n\nNext, at the member: ringfence budget open',
        data={"file": str(file), "made": made, "data_protection_key": public},
        as_json=as_json,
    )


def amend(
    apply: Annotated[
        Path | None, typer.Option("--apply", help="Apply this amendment, which the officer has signed.")
    ] = None,
    same_terms: Annotated[
        bool,
        typer.Option(
            "--same-terms", help="Ask for no change: the officer vouches that this is the newest ledger."
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Where to write the request.")] = _REQUEST,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the data-protection officer for the terms that policy.toml says now, or apply what was signed."""
    located = MemberHome.locate(home)
    if apply is None:
        _ask(located, same_terms=same_terms, out=out, as_json=as_json)
    else:
        _apply(located, apply, as_json=as_json)


def sign(
    request: Annotated[Path, typer.Argument(help="What the member wrote with budget amend.")],
    key: Annotated[Path, typer.Option("--key", help="The officer's private key.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the signed amendment.")] = _SIGNED,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign an amendment, as the data-protection officer, on a machine of one's own. Needs no ledger and no network."""
    from ringfence.client.ledger_amendment import (
        amendment_text,
        load_amendment,
        save_amendment,
        signed_by_officer,
    )
    from ringfence.model.console import note
    from ringfence.model.key_files import load_signing_key

    asked = load_amendment(request)
    signed = signed_by_officer(asked, key=load_signing_key(key))
    for line in amendment_text(asked).splitlines():
        note(line)
    if not yes:
        _confirm("Sign this?")
    save_amendment(out, signed)
    emit(
        f"Signed into {out}.\nNext, at the member: ringfence budget amend --apply {out}",
        data={**_data(signed), "file": str(out)},
        as_json=as_json,
    )


def close(
    yes: Annotated[bool, typer.Option("--yes", help="Close without asking.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the budget of this data for good: nothing more can be charged, and nobody can open it again."""
    located = MemberHome.locate(home)
    with _open_ledger(located) as ledger:
        if not yes:
            _confirm(
                f"Close the ledger of {ledger.state.terms.lineage!r}? No run can use this data afterwards, for ever."
            )
        ledger.close_for_good(now=time.time())
        state = ledger.state
    emit(
        f"The ledger of {state.terms.lineage!r} is closed for good. What was charged can still be read.\n"
        "Next: ringfence budget show",
        data={"ledger": state.head.ledger, "seq": state.head.seq, "closed": state.closed},
        as_json=as_json,
    )


def _ask(home: MemberHome, *, same_terms: bool, out: Path, as_json: bool) -> None:
    from ringfence.client.ledger_amendment import amendment_text, ask_for_amendment, save_amendment
    from ringfence.client.ledger_reading import anchor_file, open_ledger_reader
    from ringfence.client.policy import load_policy
    from ringfence.model.console import note
    from ringfence.privacy.ledger_chain import follow_all
    from ringfence.privacy.ledger_reader import LedgerReader

    anchor = anchor_file(home)
    lost = same_terms and home.ledger_file.exists() and not anchor.exists()
    with (
        LedgerReader.open(home.ledger_file, anchor_path=None) if lost else open_ledger_reader(home) as reader
    ):
        state = (follow_all(reader.entries()) if lost else None) or reader.verified_state()
        request = ask_for_amendment(state, load_policy(home), same_terms=same_terms, second_place_lost=lost)
    save_amendment(out, request)
    if lost:
        note(f"note: {anchor} is not there. If its disk is only not mounted, mount it and send nothing.")
    emit(
        f"{amendment_text(request)}\nWritten to {out}, for the data-protection officer. Leave the agent stopped until it is "
        "applied: after a further charge the request holds no more.\n"
        f"Next, on the officer's machine: ringfence budget sign {out} --key FILE",
        data={**_data(request), "file": str(out)},
        as_json=as_json,
    )


def _apply(home: MemberHome, file: Path, *, as_json: bool) -> None:
    from ringfence.client.ledger_amendment import amendment_text, load_amendment
    from ringfence.client.ledger_reading import anchor_file
    from ringfence.client.member_ledger import make_ledger_folders
    from ringfence.privacy.ledger import Ledger

    signed = load_amendment(file)
    if signed.second_place_lost:
        anchor = anchor_file(home)
        make_ledger_folders(home, anchor_file=anchor)
        with Ledger.open_without_anchor(
            home.ledger_file,
            anchor_path=anchor,
            lineage=signed.wanted_terms.lineage,
            signature=signed.signature,
            now=time.time(),
        ) as ledger:
            state = ledger.state
    else:
        with _open_ledger(home) as ledger:
            ledger.amend(signed.wanted_terms, signature=signed.signature, now=time.time())
            state = ledger.state
    emit(
        f"{amendment_text(signed)}\nApplied, as entry {state.head.seq}.\nNext: ringfence budget show",
        data={**_data(signed), "seq": state.head.seq},
        as_json=as_json,
    )


def _open_ledger(home: MemberHome) -> Ledger:
    """Open the member's ledger to write to it; the agent must not run meanwhile."""
    from ringfence.client.ledger_reading import anchor_file, open_ledger_reader
    from ringfence.privacy.ledger import Ledger

    with open_ledger_reader(home) as reader:  # says more clearly what is wrong where nothing was opened yet
        lineage = reader.verified_state().terms.lineage
    return Ledger.open(home.ledger_file, anchor_path=anchor_file(home), lineage=lineage, now=time.time())


def _confirm(question: str) -> None:
    from ringfence.model.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("Nobody is there to decide.", hint="Say --yes to decide without asking.")
    if not typer.confirm(question, err=True):
        raise typer.Abort


def _data(amendment: Amendment) -> dict[str, object]:
    from ringfence.client.ledger_amendment import changes_of

    return {
        "ledger": amendment.ledger,
        "after": {"seq": amendment.seq, "hash": amendment.hash},
        "changes": changes_of(amendment),
        "headline_epsilon": amendment.wanted_terms.headline_epsilon,
        "fallback_epsilon": amendment.wanted_terms.fallback_epsilon,
        "signed": bool(amendment.signature),
    }
