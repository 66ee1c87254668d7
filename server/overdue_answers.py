"""A PostgreSQL that was asked and never answers: the connection is ended, and whoever waits for it is told that it is lost.

PostgreSQL's own timeouts run in the server, and TCP's end with the other system's word that it received something. A server
that stands still, or something between that keeps a dead connection open, is past both.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from sqlalchemy import Connection

LONGEST_ANSWER_S = 70.0
"""Longer than any statement may take at the server (`ringfence.server.database`): what comes later never comes."""
_LOOK_EVERY_S = 0.25


class _Wait:
    """Somebody who waits for an answer on a socket; the number is a duplicate, and so nobody else's meanwhile."""

    def __init__(self, number: int, *, ends_at: float) -> None:
        self.number = number
        self.ends_at = ends_at


class _Waits:
    """Who waits for an answer in this process, and a thread, for as long as somebody does, that ends what is overdue."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, number: int, *, longest_s: float) -> Iterator[None]:
        """End what passes over a socket unless the block is through in time."""
        wait = _Wait(os.dup(number), ends_at=time.monotonic() + longest_s)
        with self._lock:
            self._waits.add(wait)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="overdue answers", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waits.discard(wait)
                os.close(wait.number)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            with self._lock:
                if not self._waits:
                    self._thread = None
                    return
                now = time.monotonic()
                for wait in self._waits:
                    if now >= wait.ends_at:
                        _hang_up(wait.number)


_WAITS = _Waits()


class AnsweredConnection(psycopg.Connection[Any]):
    """A connection to PostgreSQL on which no wait is without end."""

    longest_answer_s = LONGEST_ANSWER_S

    def wait(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the driver's own
        """Wait for an answer, for as long as it may take.

        Raises:
            psycopg.OperationalError: it did not come in time, and the connection is lost.
        """
        with _WAITS.within(self.fileno(), longest_s=self.longest_answer_s):
            return super().wait(*arguments, **options)


@contextmanager
def answers_within(connection: Connection, *, longest_s: float) -> Iterator[None]:
    """Wait for no answer on this connection for longer while the block lasts; one that does not come ends it."""
    driver: object = None
    if not connection.closed and not connection.invalidated:
        driver = connection.connection.dbapi_connection
    if not isinstance(driver, AnsweredConnection):
        yield
        return
    before, driver.longest_answer_s = driver.longest_answer_s, longest_s
    try:
        yield
    finally:
        driver.longest_answer_s = before


def _hang_up(number: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as line:
        line.shutdown(socket.SHUT_RDWR)
