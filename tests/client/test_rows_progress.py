"""How far the making of rows is: few lines, none for what is soon over, and never a count."""

from __future__ import annotations

import re

from ringfence.client.rows_progress import RowsLog, RowsMade


def lines(*, of: int, a_second: float) -> list[str]:
    """The lines while rows are made at a steady pace, each told of."""
    log = RowsLog(began_at=1_000.0)
    found = (log.line(RowsMade(done, of), now=1_000.0 + done / a_second) for done in range(1, of + 1))
    return [line for line in found if line is not None]


def test_what_is_soon_over_needs_no_line() -> None:
    assert lines(of=900, a_second=100) == []


def test_an_hour_is_told_of_once_a_minute_with_what_is_left() -> None:
    said = lines(of=36_000, a_second=10)
    assert 55 <= len(said) <= 61
    assert "about 60 minutes left" in said[0]
    assert "about a minute left" in said[-1]
    assert "50%" in said[30]


def test_shares_are_told_and_never_counts() -> None:
    for line in lines(of=36_017, a_second=10):
        assert not re.search(r"\d{3,}", line.replace("100%", ""))


def test_what_makes_no_sense_is_not_told() -> None:
    log = RowsLog(began_at=0.0)
    assert [log.line(RowsMade(done, of), now=1e6) for done, of in ((0, 0), (0, 5), (7, 5), (-1, 5))] == [
        None
    ] * 4
