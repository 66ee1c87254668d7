"""Processes that end when the one that started them is gone: an orphan would hold a port or a run against the next one."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: in a forked child only this one call is made.
_LIBC = ctypes.CDLL(None)


def stop_with_parent() -> None:
    """Have this process told to stop (SIGTERM) when its parent dies."""
    _tell(signal.SIGTERM)


def die_with_parent() -> None:
    """Have this process killed when its parent dies. For one that may be killed at any moment without loss."""
    _tell(signal.SIGKILL)


def _tell(number: signal.Signals) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
