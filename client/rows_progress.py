"""How far the making of feature rows is, for the agent's own log: it may take an hour, and a person wants to see it move.

Shares and minutes, never counts: a log may be shown to somebody who is not to know how many conversations there are.
"""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_AFTER_S = 10.0
_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class RowsMade:
    """What the worker tells its agent after each batch.

    Attributes:
        done: conversations whose rows were made.
        of: conversations whose rows were not there.
    """

    done: int
    of: int


class RowsLog:
    """Turns what the worker tells into few lines: none if it is soon over.

    Args:
        began_at: seconds on a clock that only goes forward.
    """

    def __init__(self, *, began_at: float) -> None:
        self._began_at = began_at
        self._due_at = began_at + _FIRST_AFTER_S

    def line(self, made: RowsMade, *, now: float) -> str | None:
        """Return a line for the log, or None if nothing is to be said yet.

        Args:
            made: so far.
            now: seconds on the same clock.
        """
        if now < self._due_at or not 0 < made.done <= made.of:
            return None
        self._due_at = now + _EVERY_S
        minutes = (now - self._began_at) * (made.of - made.done) / made.done / 60
        left = f"about {minutes:.0f} minutes left" if minutes >= 1.5 else "about a minute left"
        return f"making feature rows: {made.done / made.of:.0%}, {left}; they are kept if this is stopped"
