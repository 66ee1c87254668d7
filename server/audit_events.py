"""What people did as coordinator, one row each; the database refuses to change or to remove one."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from ringfence.server.database import Database
from ringfence.server.tables import audit_events


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that somebody did.

    Attributes:
        number: place in the order of events, from 1.
        at: UTC.
        actor: account on the coordinator's machine, ``member:<id>`` for what a member did over the wire, or
            ``invitation:<id>`` for whoever showed an invitation and was not let in.
        action: such as "member.suspend".
        subject: whom it concerns.
        detail: the rest, for people; empty if there is nothing to say.
    """

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str


class AuditEvents:
    """The coordinator's audit trail.

    Args:
        database: the coordinator's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, action: str, *, subject: str, now: datetime, detail: str = "", actor: str | None = None
    ) -> None:
        """Add an event; inside a transaction, it is kept if that one is.

        Args:
            action: such as "member.suspend".
            subject: whom it concerns.
            now: the present, UTC.
            detail: the rest, for people.
            actor: who did it; by default the account that runs this process.
        """
        with self._database.transaction() as connection:
            connection.execute(
                audit_events.insert().values(
                    at=now, actor=actor or _account(), action=action, subject=subject, detail=detail
                )
            )

    def count(self, action: str, *, actor: str) -> int:
        """Return how many events of a kind an actor brought about."""
        wanted = (
            select(func.count())
            .select_from(audit_events)
            .where((audit_events.c.action == action) & (audit_events.c.actor == actor))
        )
        with self._database.reading() as connection:
            return connection.scalar(wanted) or 0

    def all(self) -> tuple[AuditEvent, ...]:
        """Return every event, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(audit_events).order_by(audit_events.c.number)).mappings().all()
        return tuple(AuditEvent(**row) for row in rows)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
