"""The budget over time as a picture: of characters for a terminal, or SVG for a report. Pure; no drawing library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from xml.sax.saxutils import escape

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:#"
_LATEST_S = 253_402_300_799.0  # the end of the year 9999, past which there are no dates
_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_COLOURS = ("#1f5fa8", "#b3541e")

_Scale: TypeAlias = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class SpentPoint:
    """How much was used up from a moment on.

    Attributes:
        time: seconds since the epoch.
        share: of the budget, in [0, 1].
    """

    time: float
    share: float


@dataclass(frozen=True, slots=True)
class SpentLine:
    """One line of the picture.

    Attributes:
        name: for the legend.
        points: in the order of time, at least one; between two of them the share stays.
    """

    name: str
    points: Sequence[SpentPoint]

    def share_at(self, time: float) -> float:
        """Return the share used up at a moment; 0 before the first point."""
        return next((point.share for point in reversed(self.points) if point.time <= time), 0.0)


def terminal_plot(
    line: SpentLine, *, until: float, width: int = 60, height: int = 8, ascii_only: bool = False
) -> str:
    """Return a column chart of one line, up to ``until``, with percent of the budget on its left and dates below.

    Args:
        line: what to draw.
        until: seconds since the epoch, the right edge.
        width: columns, at least 20.
        height: rows, at least 2.
        ascii_only: for terminals without block characters.
    """
    blocks = _ASCII if ascii_only else _BLOCKS
    start, end = _span(line, until)
    step = (end - start) / max(1, width - 1)
    shares = [line.share_at(start + column * step) for column in range(width)]
    rows = []
    for row in reversed(range(height)):
        label = (
            f"{100 * (row + 1) / height:3.0f} % " if row == height - 1 or row == height // 2 - 1 else "      "
        )
        cells = "".join(_block(share * height - row, blocks) for share in shares)
        rows.append(f"{label}|{cells}")
    first, last = _date(start), _date(end)
    axis = "  0 % +" + "-" * width
    return "\n".join([*rows, axis, " " * 7 + first + " " * max(1, width - len(first) - len(last)) + last])


def svg_plot(lines: Sequence[SpentLine], *, until: float, title: str) -> str:
    """Return an SVG image of several lines against the whole budget; it refers to nothing outside itself.

    Args:
        lines: at least one.
        until: seconds since the epoch, the right edge.
        title: above the picture.
    """
    spans = [_span(line, until) for line in lines]
    start, end = min(span[0] for span in spans), max(span[1] for span in spans)

    def x(time: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (time - start) / (end - start)

    def y(share: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - share)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" role="img" font-family="sans-serif" font-size="12">'
        ),
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for percent in (0, 25, 50, 75, 100):
        height = y(percent / 100)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" '
            f'stroke="{"#a00" if percent == 100 else "#ddd"}"/>'
            f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{percent} %</text>'
        )
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            f'<path d="{_steps(line, x, y, end)}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{_LEFT + 8}" y="{_TOP + 16 + 16 * number}" fill="{colour}">{escape(line.name)}</text>'
        )
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 16}">{_date(start)}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 16}" text-anchor="end">{_date(end)}</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _steps(line: SpentLine, x: _Scale, y: _Scale, end: float) -> str:
    first = line.points[0]
    path = [f"M{x(first.time):.1f} {y(first.share):.1f}"]
    path += [f"H{x(point.time):.1f}V{y(point.share):.1f}" for point in line.points[1:]]
    return "".join([*path, f"H{x(end):.1f}"])


def _span(line: SpentLine, until: float) -> tuple[float, float]:
    start = line.points[0].time
    return start, max(until, line.points[-1].time, start + 1.0)


def _block(level: float, blocks: str) -> str:
    if level <= 0.0:
        return blocks[0]
    return blocks[min(len(blocks) - 1, max(1, round(level * (len(blocks) - 1))))]


def _date(time: float) -> str:
    return datetime.fromtimestamp(min(time, _LATEST_S), tz=UTC).date().isoformat()
