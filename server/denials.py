"""The deny list: which members are refused, since when and why. The member's status in the registry is what listeners ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from ringfence.server.database import Database
from ringfence.server.tables import denials


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a member is refused.

    Attributes:
        member: whom.
        reason: in the words of whoever did it.
        denied_at: since when, UTC.
    """

    member: str
    reason: str
    denied_at: datetime


class Denials:
    """The deny list of one federation.

    Args:
        database: the coordinator's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def deny(self, member: str, *, reason: str, now: datetime) -> None:
        """Add a member; inside a transaction, this holds if that one does."""
        with self._database.transaction() as connection:
            connection.execute(denials.insert().values(member=member, reason=reason, denied_at=now))

    def lift(self, member: str, *, now: datetime) -> None:
        """Take a member off."""
        with self._database.transaction() as connection:
            connection.execute(
                denials.update()
                .where((denials.c.member == member) & denials.c.lifted_at.is_(None))
                .values(lifted_at=now)
            )

    def present(self, member: str) -> Denial | None:
        """Return why a member is refused now, or None."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(denials.c.member, denials.c.reason, denials.c.denied_at)
                .where((denials.c.member == member) & denials.c.lifted_at.is_(None))
                .order_by(denials.c.number.desc())
            ).first()
        return None if row is None else Denial(row.member, row.reason, row.denied_at)
