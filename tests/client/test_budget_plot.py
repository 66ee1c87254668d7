"""The budget as a picture: the right height at the right time, whatever the terminal."""

from __future__ import annotations

import pytest

from ringfence.client.budget_plot import SpentLine, SpentPoint, svg_plot, terminal_plot

YEAR_S = 365 * 86_400.0
LINE = SpentLine("all", [SpentPoint(0, 0.0), SpentPoint(0.5 * YEAR_S, 0.5), SpentPoint(0.75 * YEAR_S, 1.0)])


def test_a_column_is_as_high_as_the_share_used_up_by_then() -> None:
    rows = terminal_plot(LINE, until=YEAR_S, width=40, height=4).splitlines()
    columns = list(zip(*(row.split("|", 1)[1] for row in rows[:4]), strict=True))
    assert columns[0] == columns[19] == (" ", " ", " ", " ")
    assert columns[20] == columns[29] == (" ", " ", "█", "█")
    assert columns[30] == columns[39] == ("█", "█", "█", "█")
    assert rows[0].startswith("100 %")
    assert rows[-1].split() == ["1970-01-01", "1971-01-01"]


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.2, 1.0])
@pytest.mark.parametrize("until", [0.0, 1.0, YEAR_S, 1e18])
def test_any_budget_can_be_drawn(share: float, until: float) -> None:
    line = SpentLine("<all> & more", [SpentPoint(0, share)])
    rows = terminal_plot(line, until=until, ascii_only=True)
    assert rows.isascii()
    assert ("#" in rows or ":" in rows or "." in rows) == (share > 0)
    assert "&lt;all&gt; &amp; more" in svg_plot([line], until=until, title="x")
