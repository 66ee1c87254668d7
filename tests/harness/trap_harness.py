"""Holding a process of the product at a place of a round, for a test that kills something meanwhile.

A folder of traps belongs to a tree of processes. To set a trap is to make ``<place>.<number>.armed``; the first process that
comes there turns it into ``.holding``, which holds its process id, and waits for ``.released``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from federation_harness import wait_until

_WRAPPER = Path(__file__).parent / "traps"
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Trap:
    """One trap: it catches whoever comes to its place first, once."""

    folder: Path
    name: str

    def caught(self) -> int | None:
        """Return the process id of who is held, or None."""
        holding = self.folder / f"{self.name}.holding"
        return int(holding.read_text()) if holding.exists() else None

    def wait(self, *, or_until: Callable[[], object] = lambda: False) -> None:
        """Wait until somebody is held; fail when something else comes first."""
        wait_until(lambda: self.caught() or or_until(), what=f"a process comes to {self.name}")
        assert self.caught(), f"nobody came to {self.name}"

    def release(self) -> None:
        """Let go of who is held, if it lives."""
        (self.folder / f"{self.name}.released").touch()


@dataclass(frozen=True)
class Traps:
    """The traps of one tree of processes."""

    folder: Path

    def environment(self) -> Mapping[str, str]:
        """Return what processes need in their environment to be caught."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return {"PYTHONPATH": str(_WRAPPER), "RINGFENCE_TEST_TRAPS": str(self.folder)}

    def arm(self, place: str) -> Trap:
        """Set a trap at a place."""
        trap = Trap(self.folder, f"{place}.{next(_NUMBERS)}")
        (self.folder / f"{trap.name}.armed").touch()
        return trap
