"""``ringfence-coordinator audit``: what people did as coordinator."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ringfence.model.console import JsonOption, emit
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption


def audit(
    last: Annotated[int, typer.Option("--last", min=1, help="How many of the newest entries.")] = 50,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who did what as coordinator, the newest last. The database refuses to change or remove an entry."""
    from ringfence.server.audit_events import AuditEvents
    from ringfence.server.coordinator_database import open_database

    events = AuditEvents(open_database(CoordinatorHome.locate(home))).all()[-last:]
    lines = [
        f"{event.at:%Y-%m-%d %H:%M} {event.actor:<16} {event.action:<20} {event.subject} {event.detail}".rstrip()
        for event in events
    ] or ["Nothing was done yet."]
    emit(
        "\n".join([*lines, "Next: ringfence-coordinator member list"]),
        data={"events": [{**asdict(event), "at": event.at.isoformat()} for event in events]},
        as_json=as_json,
    )
