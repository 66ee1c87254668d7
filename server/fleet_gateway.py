"""The fleet gateway: what of Flower a member reaches, and as whom.

Flower's SuperLink serves members, operators and server apps on one HTTP port, and its Control API asks nobody who they
are. The gateway is the only listener that members reach. It

1. asks for a client certificate of the federation (TLS 1.3) and looks its key up among the active members;
2. lets through the Fleet calls that a member needs and nothing else: not registering nodes, not fetching bundles;
3. binds the certificate's key to Flower's node key, and a pushed message's source to that node;
4. limits a member's connections, its rate, the requests that it has open and the bytes of them that are kept;
5. holds a question for work, if the member asks for that, until there is some: one for each member.

Each refusal is an HTTP status without detail and one line of log with the member and the reason; over its rate, a member
gets one line a minute. One that is answered before all of its request came, or without a certificate that still holds, ends the
connection: what is refused must cost whoever sends it more than whoever refuses it.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable

from ringfence.model.errors import PeerError, StorageError
from ringfence.model.fleet_waiting import LONGEST_WAIT_S, WAIT_HEADER
from ringfence.server.fleet_connections import certificate_key, end_connection
from ringfence.server.fleet_intake import Incoming, Intake, OpenRequest, RefusedError
from ringfence.server.fleet_metrics import MEMBER
from ringfence.server.flower_adapter import (
    PUBLIC_KEY_HEADER,
    SERVER_APP_NODE,
    asking_node,
    message_sources,
)
from ringfence.server.held_pulls import (
    PUSHED_MESSAGES,
    PUSHED_PARTS,
    Application,
    HeldPulls,
    Receive,
    Scope,
    Send,
    replay,
)
from ringfence.server.mail import Mail
from ringfence.server.member_lookup import MemberLookup
from ringfence.server.rate_limit import RateLimit

ALLOWED_PATHS = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
PRIVATE_PREFIXES = ("/v1/control/", "/v1/runtime/", "/health")
_PUSH_MESSAGES = "/v1/fleet/push-messages"
_PULL_MESSAGES = "/v1/fleet/pull-messages"
_CONNECTING = ("/v1/fleet/activate-node", "/v1/fleet/deactivate-node")
_SERVER_APP_PULL = "/v1/runtime/pull-messages"
_SERVER_APP_WAIT_S = 0.5
"""Short: between two questions for answers the server app looks whether it was stopped and who is connected."""
_MAX_PRIVATE_BODY_BYTES = 512 << 20
_TOLD_EVERY_S = 60.0
"""Seconds between two lines of log about one certificate's key whose requests come too often."""

log = logging.getLogger("ringfence.gateway")


class FleetGateway:
    """ASGI middleware in front of the SuperLink: admits active members to the Fleet calls, as themselves.

    Args:
        application: Flower's SuperLink.
        member_of: returns the active member with this public key (SubjectPublicKeyInfo, PEM), or None; it may wait.
        intake: what one member, and all of them, may have open.
        rate_limit: requests a second that one member may send.
        mail: what is pushed, by either side; shared with `PrivateRoutes`.
    """

    def __init__(
        self,
        application: Application,
        *,
        member_of: Callable[[bytes], str | None],
        intake: Intake | None = None,
        rate_limit: RateLimit | None = None,
        mail: Mail | None = None,
    ) -> None:
        self._application = application
        self._held = HeldPulls(application, mail or Mail())
        self._members = MemberLookup(member_of)
        self._intake = intake or Intake()
        self._rate_limit = rate_limit or RateLimit()
        self._told = RateLimit(per_second=1 / _TOLD_EVERY_S, burst=1.0)
        self._names: dict[bytes, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on, or refuse it."""
        if scope["type"] != "http":
            return
        key = certificate_key(scope)
        incoming = Incoming(scope, receive)
        try:
            if key is None:
                raise RefusedError(403, "the certificate does not hold, or no more")
            # First of all, so that neither looks at the database nor refusals nor their log lines are free.
            now = time.monotonic()
            if not self._rate_limit.allows(key, now=now):
                raise RefusedError(429, "too many requests", is_told=self._told.allows(key, now=now))
            with self._intake.request(key) as request:
                await self._admit(request, key, scope, incoming, send)
        except StorageError:
            await _answer(scope, send, 503, incoming=incoming)  # said once in the log, as the trouble began
        except RefusedError as refusal:
            if refusal.is_told:
                name = self._names.get(key, "unknown") if key is not None else "unknown"
                log.warning("refused %s: %s", name, refusal.reason)
            # Without a certificate that holds there is no rate: its one request more would be free as well.
            await _answer(scope, send, refusal.status, incoming=incoming, ends_connection=key is None)

    async def _admit(
        self, request: OpenRequest, key: bytes, scope: Scope, receive: Incoming, send: Send
    ) -> None:
        member = await self._members.find(key)
        if member is None:
            self._names.pop(key, None)
            raise RefusedError(403, "the certificate is not an active member's")
        scope[MEMBER] = self._names[key] = member
        path = scope["path"]
        if (scope["method"], path) == ("GET", "/"):
            # A member's doctor looks who answers here; nothing is amiss.
            return await _answer(scope, send, 404, incoming=receive)
        if scope["method"] != "POST" or path not in ALLOWED_PATHS:
            raise RefusedError(404, "a path that members may not call")
        if not _node_key_is(scope, key):
            raise RefusedError(403, "the node key is not the certificate's key")
        # Read here as a whole: Flower does so as well, and answers 500 to a body that is cut off on its way in.
        body = await request.body(scope, receive, is_update=path in PUSHED_PARTS)
        if path == _PUSH_MESSAGES:
            _require_own_messages(body)
        if path in PUSHED_MESSAGES or path in PUSHED_PARTS:
            return await self._held.push(scope, body, receive, send)
        if path == _PULL_MESSAGES and (wait_s := _wait_s(scope)):
            return await self._held.pull(
                scope,
                body,
                receive,
                send,
                holder=member,
                receiver=asking_node(body),
                wait_s=wait_s,
                may_ask_again=lambda: self._may_ask_again(key, member),
            )
        if path in _CONNECTING:
            self._held.release(member)
        return await self._application(scope, replay(body, receive), send)

    def close(self) -> None:
        """Answer every question that is held, and hold no more: the service is about to stop."""
        self._held.close()

    async def _may_ask_again(self, key: bytes, member: str) -> bool:
        """Return whether a member whose question was held is still served, and within its rate."""
        if not self._rate_limit.allows(key, now=time.monotonic()):
            return False
        try:
            return await self._members.find(key) == member
        except StorageError:
            return False  # its next question is answered with what is wrong


class PrivateRoutes:
    """ASGI middleware of the loopback listener: the Control and Runtime calls and nothing else.

    Args:
        application: Flower's SuperLink.
        mail: what is pushed, by either side; shared with `FleetGateway`.
    """

    def __init__(self, application: Application, *, mail: Mail | None = None) -> None:
        self._application = application
        self._held = HeldPulls(application, mail or Mail())
        self._intake = Intake(largest_bytes=_MAX_PRIVATE_BODY_BYTES, own_bytes=_MAX_PRIVATE_BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request to a private route, or refuse it."""
        if scope["type"] != "http":
            return await self._application(scope, receive, send)
        path = scope["path"]
        incoming = Incoming(scope, receive)
        try:
            if not path.startswith(PRIVATE_PREFIXES):
                raise RefusedError(404, "a path that is not served here")
            if path not in (_SERVER_APP_PULL, *PUSHED_MESSAGES, *PUSHED_PARTS):
                return await self._application(scope, receive, send)
            caller = tuple(scope.get("client") or ())
            with self._intake.request(caller) as request:
                # A server app asks for the answers of a whole cohort at once.
                body = await request.body(scope, incoming, is_update=True)
                if path != _SERVER_APP_PULL:
                    return await self._held.push(scope, body, receive, send)
                return await self._held.pull(
                    scope,
                    body,
                    receive,
                    send,
                    holder=caller,
                    receiver=SERVER_APP_NODE,
                    wait_s=_SERVER_APP_WAIT_S,
                )
        except RefusedError as refusal:
            log.warning("refused loopback: %s", refusal.reason)
            return await _answer(scope, send, refusal.status, incoming=incoming)

    def close(self) -> None:
        """Answer every question that is held, and hold no more: the service is about to stop."""
        self._held.close()


def _require_own_messages(body: bytes) -> None:
    try:
        node, sources = message_sources(body)
    except PeerError as error:
        raise RefusedError(400, "the request is malformed") from error
    if not sources or not sources <= {node}:
        raise RefusedError(403, "a message in another member's name, or none")


def _node_key_is(scope: Scope, key: bytes) -> bool:
    given = [value for name, value in scope["headers"] if name.lower() == PUBLIC_KEY_HEADER]
    if len(given) != 1:
        return False
    try:
        return base64.b64decode(given[0], validate=True) == key
    except binascii.Error:
        return False


def _wait_s(scope: Scope) -> float:
    """Return for how long a member wants its question held; 0 for not at all."""
    given = [value for name, value in scope["headers"] if name.lower() == WAIT_HEADER.encode()]
    try:
        asked = float(given[0]) if given else 0.0
    except ValueError:
        return 0.0
    return min(asked, LONGEST_WAIT_S) if asked > 0 else 0.0


async def _answer(
    scope: Scope, send: Send, status: int, *, incoming: Incoming, ends_connection: bool = False
) -> None:
    """Answer without content; end the connection as well where some of the request may still be on its way."""
    ends = ends_connection or not incoming.is_whole
    headers = [(b"content-length", b"0"), *([(b"connection", b"close")] if ends else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
    if ends:
        end_connection(scope)
