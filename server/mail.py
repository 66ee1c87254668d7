"""Who has mail: when a message that one side pushes through the coordinator has become whole, whoever waits for it is told.

Flower announces a message first and takes its parts one by one. Told at the announcement, the receiver would ask for parts
that are not there yet. What is known here is lost with the process and may be: a receiver asks Flower before it waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Announced:
    receiver: int
    missing: set[str]


class Mail:
    """Counts the messages that became whole, by receiver. Lives in one event loop.

    Args:
        most_missing: parts that are waited for at most; the oldest are given up first, and their receivers told.
    """

    def __init__(self, *, most_missing: int = 65_536) -> None:
        self._most_missing = most_missing
        self._whole: Counter[int] = Counter()
        self._missing: dict[str, list[_Announced]] = {}
        self._waiting: defaultdict[int, set[asyncio.Future[None]]] = defaultdict(set)

    def count(self, receiver: int) -> int:
        """Return how many messages became whole for a receiver so far."""
        return self._whole[receiver]

    def announce(self, receiver: int, *, missing: Collection[str]) -> None:
        """Take note of a message, and of its parts that are still to come."""
        message = _Announced(receiver, set(missing))
        if not message.missing:
            return self._tell(receiver)
        for part in message.missing:
            self._missing.setdefault(part, []).append(message)
        while len(self._missing) > self._most_missing:
            for given_up in self._missing.pop(next(iter(self._missing))):
                self._tell(given_up.receiver)
        return None

    def part_came(self, part: str) -> None:
        """Take note of a part; more than one message may have waited for it."""
        for message in self._missing.pop(part, ()):
            message.missing.discard(part)
            if not message.missing:
                self._tell(message.receiver)

    def next(self, receiver: int, *, after: int) -> asyncio.Future[None]:
        """Return a future that is done as soon as more than ``after`` messages became whole. Cancel it when it is of no use."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._whole[receiver] > after:
            told.set_result(None)
            return told
        self._waiting[receiver].add(told)
        told.add_done_callback(lambda done: self._forget(receiver, done))
        return told

    def waiting(self) -> int:
        """Return how many wait."""
        return sum(len(futures) for futures in self._waiting.values())

    def _tell(self, receiver: int) -> None:
        self._whole[receiver] += 1
        for told in list(self._waiting.get(receiver, ())):
            if not told.done():
                told.set_result(None)

    def _forget(self, receiver: int, told: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(receiver)
        if waiting is not None:
            waiting.discard(told)
            if not waiting:
                del self._waiting[receiver]
