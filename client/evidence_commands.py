"""``ringfence evidence``: read what a release promises, and recompute it instead of believing it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ringfence.client.evidence_check import Checked
    from ringfence.client.evidence_files import FoundEvidence

application = new_application("evidence", "What a release promises, and whether the numbers are right.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
ReleaseArgument = Annotated[
    str | None,
    typer.Argument(help="A version (the one in use by default), a privacy.json, or a release's folder."),
]


@application.callback()
def _evidence() -> None:
    """What a release promises, and whether the numbers are right."""


@application.command(epilog="Example: ringfence evidence show ringfence-detector-0.1.0")
def show(
    release: ReleaseArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write one HTML page instead, complete in itself.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the evidence on one page, as a data-protection officer needs it."""
    from ringfence.client.evidence_files import find_evidence
    from ringfence.client.evidence_page import page_of, render_text

    found = find_evidence(MemberHome.locate(home), release)
    page = page_of(found.evidence, version=found.version)
    following = f"Next: ringfence evidence verify {release or ''}".rstrip()
    data = {
        "version": found.version,
        "file": str(found.path),
        "promise": found.evidence.promise(),
        "evidence": found.evidence.model_dump(mode="json"),
        "page": None if out is None else str(out),
    }
    if out is None:
        emit(f"{render_text(page)}\n{following}", data=data, as_json=as_json)
        return
    _write_page(out, found)
    emit(f"The page lies in {out}.\n{following}", data=data, as_json=as_json)


@application.command(epilog="Example: ringfence evidence verify ringfence-detector-0.1.0")
def verify(
    release: ReleaseArgument = None,
    receipts: Annotated[
        Path | None,
        typer.Option(
            "--receipts",
            help="Folder of MEMBER.pem (identity keys) and MEMBER.head (signed ledger heads) that members gave you, each written "
            "by its member with: ringfence budget receipt.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="The plan (TOML, or JSON); that of the release's provenance by default."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every number from the evidence alone; hold it against receipts, plan and this member's own ledger.

    Exit code 1 names each number that is wrong.
    """
    from ringfence.client.evidence_check import (
        check_numbers,
        check_plan,
        check_words,
        require_agreement,
    )
    from ringfence.client.evidence_files import find_evidence, find_plan
    from ringfence.client.receipt_check import check_receipts, load_given_receipts

    located = MemberHome.locate(home)
    found = find_evidence(located, release)
    given = None if receipts is None else load_given_receipts(receipts)
    checks = [
        *check_numbers(found.evidence),
        *check_words(found.evidence),
        *check_plan(found.evidence, find_plan(found, plan)),
        *check_receipts(found.evidence, given),
        *_own_ledger(located, found),
    ]
    if any(item.agrees is False for item in checks):
        for line in _table(checks):
            note(line)
        require_agreement(checks)
    emit(
        "\n".join(
            [
                *_table(checks),
                f"Every number of {found.path} follows from its terms.",
                f"Next: ringfence evidence show {release or ''} --out page.html",
            ]
        ),
        data={
            "version": found.version,
            "file": str(found.path),
            "checks": [asdict(item) for item in checks],
            "unchecked": [item.name for item in checks if item.agrees is None],
        },
        as_json=as_json,
    )


def _own_ledger(home: MemberHome, found: FoundEvidence) -> Iterator[Checked]:
    """Yield what this member's own ledger says, where there is one."""
    from ringfence.client.ledger_reading import has_ledger, open_ledger_reader
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.receipt_check import check_own_ledger

    if not home.settings_file.exists() or not has_ledger(home):
        return
    with open_ledger_reader(home) as reader:
        reader.verified_state()
        yield from check_own_ledger(
            found.evidence, member=load_member_settings(home).member, entries=reader.entries()
        )


def _write_page(out: Path, found: FoundEvidence) -> None:
    from ringfence.client.evidence_html import render_html
    from ringfence.client.evidence_page import page_of
    from ringfence.model.atomic_file import write_atomically

    digest = hashlib.sha256(found.path.read_bytes()).hexdigest()
    page = page_of(found.evidence, version=found.version)
    try:
        write_atomically(
            out, render_html(page, source=f"privacy.json (SHA-256 {digest})").encode(), mode=0o644
        )
    except OSError as error:
        raise ConfigError(f"Cannot write {out}: {error.strerror}", hint="Choose another file.") from error


def _table(checks: list[Checked]) -> list[str]:
    marks = {True: "ok", False: "WRONG", None: "-"}
    names = max(len(item.name) for item in checks)
    lines = [f"{'':<6} {'what':<{names}}  {'stated':<28}  recomputed or found"]
    for item in checks:
        lines.append(
            f"{marks[item.agrees]:<6} {item.name:<{names}}  {_short(item.stated, 28):<28}  {_short(item.found, 60)}"
        )
    return lines


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
