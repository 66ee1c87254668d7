"""When training may run: weekly windows in UTC, written as a person would say them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_FORM = re.compile(r"(?P<days>[a-z,-]+) +(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """A stretch of the week that begins on each of some days.

    Attributes:
        text: as written, such as ``mon-fri 22:00-06:00``.
        days: of the start, 0 for Monday to 6 for Sunday.
        start_minute: of the day, UTC.
        length_minutes: 1 to 1,440; a window may run past midnight into a day that is not named.
    """

    text: str
    days: frozenset[int]
    start_minute: int
    length_minutes: int

    def contains(self, moment: datetime) -> bool:
        """Return whether a moment lies inside; the start does, the end does not.

        Args:
            moment: with a time zone.
        """
        utc = moment.astimezone(UTC)
        minute = utc.weekday() * _DAY_MINUTES + utc.hour * 60 + utc.minute
        return any(
            (minute - day * _DAY_MINUTES - self.start_minute) % _WEEK_MINUTES < self.length_minutes
            for day in self.days
        )


def parse_window(text: object) -> WeeklyWindow:
    """Read a window: days, then start and end, such as ``daily 00:00-24:00``, ``mon-fri 22:00-06:00``, ``sat,sun 08:00-20:00``.

    An end that is not after the start lies on the next day.

    Raises:
        ValueError: this is no such window.
    """
    if isinstance(text, WeeklyWindow):
        return text
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError('must read like "daily 00:00-24:00" or "mon-fri 22:00-06:00"')
    start, end = _minute(found["start"]), _minute(found["end"])
    if start == _DAY_MINUTES:
        raise ValueError("a window cannot start at 24:00")
    length = end - start if end > start else end - start + _DAY_MINUTES
    return WeeklyWindow(found.group(), _days(found["days"]), start, length)


Window = Annotated[
    WeeklyWindow, PlainValidator(parse_window), PlainSerializer(lambda window: window.text, return_type=str)
]


def inside(windows: Iterable[WeeklyWindow], moment: datetime) -> bool:
    """Return whether a moment lies in any of the windows."""
    return any(window.contains(moment) for window in windows)


def _minute(clock: str) -> int:
    hour, minute = int(clock[:2]), int(clock[3:])
    if hour > 24 or minute > 59 or (hour == 24 and minute):
        raise ValueError("a time of day lies between 00:00 and 24:00")
    return hour * 60 + minute


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS or part.endswith("-"):
            raise ValueError(f"days are {', '.join(DAYS)}, ranges of them such as mon-fri, or daily")
        start = DAYS.index(first)
        days |= {(start + step) % 7 for step in range((DAYS.index(last or first) - start) % 7 + 1)}
    return frozenset(days)
