"""The signals that stop a demonstration: each once, and never in the midst of what must be done whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a stop by another program, and a terminal that was closed."""


def stop_as_ctrl_c_does() -> None:
    """Have every stop raise KeyboardInterrupt, less those that this process was started to ignore (``nohup``)."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def stops_wait() -> Iterator[None]:
    """Have a stop that comes in here take effect only afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    came: list[int] = []
    heard = {number: signal.getsignal(number) for number in STOPS}
    try:
        for number, handler in heard.items():
            # An ignored one stays ignored, for whatever is started in here too. None: not ours to put back.
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, lambda received, _: came.append(received))
        yield
    finally:
        for number, handler in heard.items():
            if handler is not None:
                signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
