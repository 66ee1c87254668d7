"""Work that may have to wait, done in a thread beside a loop that must not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait


class WorkBeside:
    """One piece of work again and again, each time in a thread of its own; it holds up neither the loop nor the process's end.

    Args:
        work: what is done; never twice at a time.
        clock: returns monotonic seconds.
    """

    def __init__(self, work: Callable[[], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._clock = clock
        self._under_way: Future[None] | None = None
        self._since = 0.0

    @property
    def under_way_s(self) -> float:
        """For how long it has been under way; 0 while it is not."""
        if self._under_way is None or self._under_way.done():
            return 0.0
        return self._clock() - self._since

    def turn(self) -> None:
        """Begin it anew unless it is under way. What it raised is raised here."""
        if self._under_way is not None:
            if not self._under_way.done():
                return
            done, self._under_way = self._under_way, None
            done.result()
        self._under_way, self._since = Future(), self._clock()
        threading.Thread(target=self._do, args=(self._under_way,), name="beside", daemon=True).start()

    def settle(self, *, timeout_s: float) -> None:
        """Wait until it is under way no more, but no longer than this."""
        if self._under_way is not None:
            wait([self._under_way], timeout=timeout_s)

    def _do(self, future: Future[None]) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the loop's to judge
            future.set_exception(error)
        else:
            future.set_result(None)
