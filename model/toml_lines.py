"""Where in a TOML file a key stands, so that an error can name the line. A reading aid: TOML itself is read by tomllib."""

from __future__ import annotations

from collections.abc import Sequence


def line_of_key(text: str, path: Sequence[str | int]) -> int | None:
    """Return the line, from 1, of the key that a path leads to, or of the nearest table above it; None if neither is there.

    Args:
        text: of the file.
        path: keys from the outermost on; a number, and what follows it, is a place within a list.
    """
    wanted = []
    for step in path:
        if not isinstance(step, str):
            break
        wanted.append(step)
    table: list[str] = []
    nearest: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("[") and "]" in stripped:
            found = table = _keys(stripped[: stripped.index("]")].lstrip("["))
        elif "=" in stripped and not stripped.startswith("#"):
            found = table + _keys(stripped.split("=", 1)[0])
        else:
            continue
        if found and wanted[: len(found)] == found and (nearest is None or len(found) > nearest[0]):
            nearest = (len(found), number)
    return nearest[1] if nearest else None


def _keys(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in text.split(".") if part.strip()]
