"""A wait that ends when the agent is to stop: a question that the coordinator holds may take twenty seconds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
_LOOK_S = 0.25


def unless_stopped(call: Callable[[], Result], *, stop: threading.Event) -> Result | None:
    """Return what a call returns, or None as soon as ``stop`` is set; the call then goes on by itself, to no effect.

    Raises:
        Exception: whatever the call raises.
    """
    outcome: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def carry_out() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            outcome.put((None, error))

    threading.Thread(target=carry_out, name="held-question", daemon=True).start()
    while not stop.is_set():
        try:
            result, error = outcome.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        return result
    return None
