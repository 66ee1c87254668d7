"""What the gateway takes in: how many requests one caller has open, and how much of their bodies lies in memory.

A body is read as a whole before it is passed on, so that its bytes count from their arrival to the end of the request. All
bodies but one kind are small. For that one, the parts of an update, each caller has some room of its own, and a pool
that all share holds what goes beyond: however many callers fill the pool, an update of usual size finds room.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ringfence.server.held_pulls import Message, Receive, Scope

MOST_OPEN_REQUESTS = 8
"""Requests of one caller at a time, held questions included. An agent has two."""
SMALL_BODY_BYTES = 64 << 10
"""Largest body of everything but the parts of an update. An agent's largest, the announcement of an answer, is under 1 KiB."""
STALL_S = 30.0
"""A body whose next bytes do not come within this is given up."""
SLOWEST_BYTES_PER_S = 16 << 10
"""A body that comes more slowly is given up as well: a byte now and then is no way to hold room for ever."""


class RefusedError(Exception):
    """A request that is not served.

    Attributes:
        status: of the HTTP answer.
        reason: for the log.
        is_told: it gets a line of the log.
    """

    def __init__(self, status: int, reason: str, *, is_told: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.is_told = is_told


class Incoming:
    """A request's ``receive``, which knows whether all of the request came.

    A request that is answered earlier must end its connection: the server would take in, and throw away, however much of a body
    still follows.

    Args:
        scope: of the request.
        receive: as ASGI has it.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.is_whole = not _announces_body(scope)

    async def __call__(self) -> Message:
        """Return what comes next."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.is_whole = True
        return message


@dataclass(slots=True)
class Intake:
    """Counts what callers have open.

    Attributes:
        largest_bytes: largest part of an update, and the most that one caller has of them in memory.
        own_bytes: room that each caller has for itself.
        pool_bytes: room beyond that, for all callers together.
        most_open: requests that one caller may have open.
        stall_s: seconds after which a body whose bytes do not come is given up.
    """

    largest_bytes: int = 64 << 20
    own_bytes: int = 4 << 20
    pool_bytes: int = 256 << 20
    most_open: int = MOST_OPEN_REQUESTS
    stall_s: float = STALL_S
    _open: Counter[Hashable] = field(default_factory=Counter)
    _held: Counter[Hashable] = field(default_factory=Counter)
    _pooled: int = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies that count against somebody's room now."""
        return self._held.total()

    @contextmanager
    def request(self, caller: Hashable) -> Iterator[OpenRequest]:
        """Count a request of a caller for the length of the block.

        Raises:
            RefusedError: it has too many open.
        """
        if self._open[caller] >= self.most_open:
            raise RefusedError(429, "too many requests at a time")
        self._open[caller] += 1
        request = OpenRequest(self, caller)
        try:
            yield request
        finally:
            self._change(caller, -request.held_bytes)
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]

    def take(self, caller: Hashable, count: int) -> None:
        """Take room for some bytes.

        Raises:
            RefusedError: there is none: the caller's is used up, or everybody's.
        """
        held = self._held[caller] + count
        if held > self.largest_bytes:
            raise RefusedError(429, "too many bytes at a time")
        beyond = max(0, held - self.own_bytes) - max(0, held - count - self.own_bytes)
        if self._pooled + beyond > self.pool_bytes:
            raise RefusedError(429, "all members together send too many bytes at a time")
        self._change(caller, count)

    def _change(self, caller: Hashable, count: int) -> None:
        before = self._held[caller]
        self._held[caller] = before + count
        self._pooled += max(0, before + count - self.own_bytes) - max(0, before - self.own_bytes)
        if not self._held[caller]:
            del self._held[caller]


@dataclass(slots=True)
class OpenRequest:
    """One request under way.

    Attributes:
        held_bytes: bytes of its body that count against its caller's room.
    """

    _intake: Intake
    _caller: Hashable
    held_bytes: int = 0

    async def body(self, scope: Scope, receive: Receive, *, is_update: bool) -> bytes:
        """Read the request's body as a whole.

        Args:
            scope: of the request.
            receive: as ASGI has it.
            is_update: it is a part of an update, which may be large.

        Raises:
            RefusedError: it is too large, does not come, breaks off, or there is no room for it.
        """
        intake = self._intake
        limit = intake.largest_bytes if is_update else min(SMALL_BODY_BYTES, intake.largest_bytes)
        if _announced_bytes(scope) > limit:
            raise RefusedError(413, "the request is too large")
        content = bytearray()  # and no list of its parts, which may be as small as a byte each
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            async with asyncio.timeout(intake.stall_s) as patience:
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise RefusedError(400, "the request broke off")
                    part = message.get("body", b"")
                    if len(content) + len(part) > limit:
                        raise RefusedError(413, "the request is too large")
                    if is_update:
                        intake.take(self._caller, len(part))
                        self.held_bytes += len(part)
                    content += part
                    if not message.get("more_body", False):
                        return bytes(content)
                    slowest = began_at + intake.stall_s + len(content) / SLOWEST_BYTES_PER_S
                    patience.reschedule(min(loop.time() + intake.stall_s, slowest))
        except TimeoutError as error:
            raise RefusedError(408, "the request did not come in time") from error


def _announces_body(scope: Scope) -> bool:
    """Return whether a request says that a body follows its head: with a length, or in pieces without one."""
    return _announced_bytes(scope) != 0 or any(
        name.lower() == b"transfer-encoding" for name, _ in scope["headers"]
    )


def _announced_bytes(scope: Scope) -> int:
    """Return how large a body says that it is; 0 if it does not say."""
    given = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    try:
        return int(given[0]) if given else 0
    except ValueError:
        return 0
