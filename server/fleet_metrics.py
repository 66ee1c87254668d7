"""What the fleet gateway tells Prometheus: bytes and outcomes of all members together, and when each was last heard of."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.registry import Collector

MEMBER = "ringfence.member"
"""Where the gateway notes in a request's scope who made it."""

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class FleetMetrics:
    """The gateway's figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "ringfence_fleet_requests",
            "Requests of members, by status of the answer.",
            ["status"],
            registry=self._registry,
        )
        self.bytes_received = Counter(
            "ringfence_fleet_bytes_received", "Bodies of members' requests.", registry=self._registry
        )
        self.bytes_sent = Counter(
            "ringfence_fleet_bytes_sent", "Bodies of answers to members.", registry=self._registry
        )
        self.last_seen = Gauge(
            "ringfence_fleet_member_last_seen_timestamp_seconds",
            "When a member last made a request, since this process serves.",
            ["member"],
            registry=self._registry,
        )

    @property
    def collector(self) -> Collector:
        """What a listener registers."""
        return self._registry


class Metered:
    """ASGI middleware that counts what goes through the gateway.

    Args:
        gateway: the fleet gateway.
        metrics: what counts.
        now: returns seconds since 1970.
    """

    def __init__(
        self, gateway: _Application, metrics: FleetMetrics, *, now: Callable[[], float] = time.time
    ) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._now = now

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass one request on, and count it."""

        async def counting_receive() -> _Message:
            message = await receive()
            self._metrics.bytes_received.inc(len(message.get("body", b"")))
            return message

        async def counting_send(message: _Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
            self._metrics.bytes_sent.inc(len(message.get("body", b"")))
            await send(message)

        await self._gateway(scope, counting_receive, counting_send)
        member = scope.get(MEMBER)
        if member is not None:
            self._metrics.last_seen.labels(member).set(self._now())
