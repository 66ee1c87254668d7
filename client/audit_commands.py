"""``ringfence audit``: see what left this member, and make sure that the list is whole."""

from __future__ import annotations

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
    """List what left, the newest last: when, where to, for what, how much. Content was never kept."""
    from ringfence.client.audit_log import audit_entries, audit_file

    newest = deque(audit_entries(audit_file(MemberHome.locate(home))), maxlen=last)
    emit(
        "\n".join([_HEADER, *map(_line, newest)]) if newest else "Nothing has left this member.",
        data={"entries": [entry.model_dump() for entry in newest]},
        as_json=as_json,
    )
    note("Next: ringfence audit verify, to make sure that nothing was cut off or changed.")


@application.command(epilog="Example: ringfence audit verify --json")
def verify(
    head: Annotated[
        Path | None, typer.Option("--head", help="The log's second file, where it lies in another place.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the whole log; name the first entry that was changed, removed or cut off."""
    from ringfence.client.audit_log import audit_file, audit_head_file, verify_audit_log

    path = audit_file(MemberHome.locate(home))
    if not path.exists() and not (head or audit_head_file(path)).exists():
        emit("Nothing has left this member.", data={"entries": 0, "head": ""}, as_json=as_json)
        return
    found = verify_audit_log(path, head_path=head)
    emit(
        f"The audit log is whole: {found.seq} entries, the newest {found.hash[:16]}.",
        data={"entries": found.seq, "head": found.hash},
        as_json=as_json,
    )
    note("Next: ringfence audit list")


_HEADER = f"{'entry':>6}  {'time (UTC)':<20} {'what':<16} {'bytes':>8}  {'run':<24} {'round':>5}  digest"


def _line(entry: AuditEntry) -> str:
    round_ = str(entry.round) if entry.round else "-"
    return (
        f"{entry.seq:>6}  {entry.time:<20} {entry.kind:<16} {entry.size_bytes:>8}  "
        f"{entry.run or '-':<24} {round_:>5}  {entry.digest[:16]}"
    )
