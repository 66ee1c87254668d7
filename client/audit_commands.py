"""``ringfence audit``: see what left this member, and make sure that the list is whole."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note

if TYPE_CHECKING:
    from ringfence.client.audit_chain import AuditEntry

application = new_application("audit", "See what left this member, and make sure that the list is whole.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
_SHOWN = 20


@application.command("list", epilog="Example: ringfence audit list --last 50")
def list_entries(
    last: Annotated[
        int, typer.Option("--last", min=1, help="How many of the newest entries to show.")
    ] = _SHOWN,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what left, the newest last: answers to rounds, join requests, renewals, approvals. Content was never kept."""
    from ringfence.client.audit_log import audit_entries, audit_file

    newest = deque(audit_entries(audit_file(_located(home))), maxlen=last)
    emit(
        "\n".join([_HEADER, *map(_line, newest)]) if newest else "The audit log has no entry.",
        data={"entries": [entry.model_dump() for entry in newest]},
        as_json=as_json,
    )
    note("Next: ringfence audit verify, to make sure that nothing was cut off or changed.")


@application.command(epilog="Example: ringfence audit verify --json")
def verify(
    head: Annotated[
        Path | None, typer.Option("--head", help="A copy of the log's second file that you keep yourself.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the whole log, by itself and against the ledger; name the first entry that was changed, removed or cut off."""
    from ringfence.client.audit_against_ledger import verify_departures

    found = verify_departures(_located(home), head_path=head)
    emit(
        f"The audit log is whole, and agrees with the ledger: {found.seq} entries, the newest {found.hash[:16]}."
        if found.seq
        else "Nothing has left this member: its audit log has no entry, and its ledger knows of no answer that left.",
        data={"entries": found.seq, "head": found.hash if found.seq else ""},
        as_json=as_json,
    )
    note("Next: ringfence audit list")


@application.command(epilog="Example: ringfence audit renew --yes")
def renew(
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the log's second file anew after its disk was lost, if the ledger agrees with every answer in the log."""
    from ringfence.client.audit_against_ledger import renew_second_file
    from ringfence.model.errors import ConfigError

    located = _located(home)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("Nobody is there to confirm.", hint="Say --yes to do it without asking.")
        if not typer.confirm("Is the second file lost, and the log as you last saw it?", err=True):
            raise typer.Abort
    found = renew_second_file(located)
    emit(
        f"The audit log's second file names entry {found.seq} again. By the ledger no answer is missing; whether anything else was "
        "cut off, nobody can say.\nNext: ringfence audit verify",
        data={"entries": found.seq, "head": found.hash if found.seq else ""},
        as_json=as_json,
    )


def _located(home: Path | None) -> MemberHome:
    """Return the member's folder; one that is none would have nothing to show, and look as if nothing had left."""
    from ringfence.client.member_settings import load_member_settings

    located = MemberHome.locate(home)
    load_member_settings(located)
    return located


_HEADER = f"{'entry':>6}  {'time (UTC)':<20} {'what':<16} {'bytes':>8}  {'run':<24} {'round':>5}  digest"


def _line(entry: AuditEntry) -> str:
    round_ = str(entry.round) if entry.round else "-"
    return (
        f"{entry.seq:>6}  {entry.time:<20} {entry.kind:<16} {entry.size_bytes:>8}  "
        f"{entry.run or '-':<24} {round_:>5}  {entry.digest[:16]}"
    )
