"""A stop by another program, and a terminal that was closed, made to end a command as Ctrl-C does: what it holds is put away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_PUT_AWAY_S = 5.0
"""For how long another stop is taken for the same: a terminal that closes sends two, and what is put away is put away whole."""


@contextmanager
def stops_as_ctrl_c() -> Iterator[None]:
    """Have a stop raise KeyboardInterrupt in here, and nothing else, if it would end this process without a word.

    One that this process was started to ignore stays ignored (``nohup``), and whoever hears it already goes on hearing it.
    Signals reach the main thread alone; in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {number: usual for number, usual in _USUAL.items() if signal.getsignal(number) is usual}
    stopped_at: float | None = None

    def stop(number: int, _: object) -> None:
        nonlocal stopped_at
        now = time.monotonic()
        if stopped_at is None or now - stopped_at > _PUT_AWAY_S:
            stopped_at = now
            raise KeyboardInterrupt

    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    except Exception:
        if stopped_at is None:
            raise
        raise KeyboardInterrupt from None  # a library made an error of its own of it
    finally:
        for number, usual in ours.items():
            signal.signal(number, usual)
