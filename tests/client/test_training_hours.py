"""Windows of the week: across midnight, across the week's end, and in UTC whatever zone a clock is in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ringfence.client.training_hours import inside, parse_window

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday, 00:00


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        ("daily 00:00-24:00", at(0, 0), True),
        ("daily 00:00-24:00", at(6, 23, 59), True),
        ("daily 08:00-08:00", at(3, 7, 59), True),
        ("mon-fri 22:00-06:00", at(0, 21, 59), False),
        ("mon-fri 22:00-06:00", at(0, 22), True),
        ("mon-fri 22:00-06:00", at(1, 5, 59), True),
        ("mon-fri 22:00-06:00", at(1, 6), False),
        ("mon-fri 22:00-06:00", at(0, 3), False),  # Monday's small hours belong to Sunday, which is not named
        ("mon-fri 22:00-06:00", at(5, 3), True),  # Saturday's belong to Friday
        ("mon-fri 22:00-06:00", at(5, 23), False),
        ("sun 20:00-04:00", at(6, 21), True),
        ("sun 20:00-04:00", at(0, 3, 59), True),  # the week begins anew
        ("sun 20:00-04:00", at(0, 4), False),
        ("sat,sun 00:00-24:00", at(4, 23, 59), False),
        ("sat,sun 00:00-24:00", at(5, 0), True),
        ("sat,sun 00:00-24:00", at(6, 23, 59), True),
        ("sat,sun 00:00-24:00", at(7, 0), False),
        ("fri-mon 10:00-11:00", at(6, 10, 30), True),
        ("fri-mon 10:00-11:00", at(2, 10, 30), False),
        ("wed 12:00-12:01", at(2, 12), True),
        ("wed 12:00-12:01", at(2, 12, 1), False),
    ],
)
def test_a_moment_is_inside_or_outside(window: str, moment: datetime, expected: bool) -> None:
    assert inside([parse_window(window)], moment) is expected


def test_a_moment_in_another_zone_is_the_same_moment() -> None:
    window = parse_window("mon 00:00-01:00")
    tokyo = timezone(timedelta(hours=9))
    assert window.contains(datetime(2026, 3, 2, 9, 30, tzinfo=tokyo))
    assert not window.contains(datetime(2026, 3, 2, 0, 30, tzinfo=tokyo))


def test_no_window_is_never_and_any_window_suffices() -> None:
    assert not inside([], at(0, 0))
    assert inside([parse_window("tue 01:00-02:00"), parse_window("mon 01:00-02:00")], at(0, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "daily",
        "22:00-06:00",
        "mon 22:00",
        "mon 25:00-06:00",
        "mon 22:60-06:00",
        "mon 24:00-06:00",
        "mon 00:00-24:01",
        "monday 22:00-06:00",
        "mon- 22:00-06:00",
        "mon,,tue 22:00-06:00",
        "mon-daily 22:00-06:00",
        "mon 22:00-06:00 CET",
        "mon ２２:００-０６:００",
        7,
        None,
    ],
)
def test_what_is_no_window_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_window(text)
