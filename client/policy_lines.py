"""On which line of a TOML text each key stands; the standard parser does not say."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping


def line_numbers(text: str) -> dict[str, int]:
    """Return the 1-based line on which each key and each table begins, by dotted name (``section.key``).

    The text is parsed once for every line, always from its beginning: the first beginning that parses and has the key
    contains its last line, and the line after the last shorter beginning that parsed is its first. So whatever TOML
    allows is found where the parser itself finds it: dotted keys, inline tables, values over many lines.

    Args:
        text: TOML that parses; a policy of some dozen lines, since the work grows with the square of its length.
    """
    found: dict[str, int] = {}
    lines = text.split("\n")
    complete = 0
    for count in range(1, len(lines) + 1):
        try:
            values = tomllib.loads("\n".join(lines[:count]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
        for name in _names(values):
            found.setdefault(name, complete + 1)
        complete = count
    return found


def _names(values: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{key}.")
