"""The fleet gateway: what of Flower a member reaches, and as whom.

Flower's SuperLink serves members, operators and server apps on one HTTP port, and its Control API asks nobody who they
are. The gateway is the only listener that members reach. It

1. asks for a client certificate of the federation (TLS 1.3) and looks its key up among the active members;
2. lets through the Fleet calls that a member needs and nothing else: not registering nodes, not fetching bundles;
3. binds the certificate's key to Flower's node key, and a pushed message's source to that node;
4. limits the size of a request and the rate of a member;
5. holds a question for work, if the member asks for that, until there is some: one for each member.

Each refusal is one line of log with the member and the reason, and an HTTP status without detail.
"""

from __future__ import annotations

import base64
import binascii
import logging
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ringfence.model.errors import PeerError
from ringfence.model.fleet_waiting import LONGEST_WAIT_S, WAIT_HEADER
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
_CERTIFICATE = "ringfence.peer_certificate"

log = logging.getLogger("ringfence.gateway")


class PeerCertificateProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, which also hands the client's certificate to the application."""

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transport
        """Take the certificate from the TLS session as the connection opens."""
        super().connection_made(transport)
        session = transport.get_extra_info("ssl_object")
        certificate = session.getpeercert(binary_form=True) if session is not None else None
        inner = self.app

        async def with_certificate(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_CERTIFICATE] = certificate
            await inner(scope, receive, send)

        self.app = with_certificate


class FleetGateway:
    """ASGI middleware in front of the SuperLink: admits active members to the Fleet calls, as themselves.

    Args:
        application: Flower's SuperLink.
        member_of: returns the active member with this public key (SubjectPublicKeyInfo, PEM), or None.
        max_body_bytes: largest request that is let through.
        rate_limit: requests a second that one member may send.
        mail: what is pushed, by either side; shared with `PrivateRoutes`.
    """

    def __init__(
        self,
        application: Application,
        *,
        member_of: Callable[[bytes], str | None],
        max_body_bytes: int = 64 << 20,
        rate_limit: RateLimit | None = None,
        mail: Mail | None = None,
    ) -> None:
        self._application = application
        self._held = HeldPulls(application, mail or Mail())
        self._member_of = member_of
        self._max_body_bytes = max_body_bytes
        self._rate_limit = rate_limit or RateLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on, or refuse it."""
        if scope["type"] != "http":
            return None
        key = _certificate_key(scope)
        member = self._member_of(key) if key is not None else None
        if key is None or member is None:
            return await _refuse(send, 403, "unknown", "the certificate is not an active member's")
        scope[MEMBER] = member
        # First of what is charged to a member, so that neither refusals nor their log lines are free.
        if not self._rate_limit.allows(member, now=time.monotonic()):
            return await _refuse(send, 429, member, "too many requests")
        if scope["method"] != "POST" or scope["path"] not in ALLOWED_PATHS:
            return await _refuse(send, 404, member, "a path that members may not call")
        if not _node_key_is(scope, key):
            return await _refuse(send, 403, member, "the node key is not the certificate's key")
        # Read here as a whole: Flower does so as well, and answers 500 to a body that is cut off on its way in.
        body = await _read_body(receive, self._max_body_bytes)
        if body is None:
            return await _refuse(send, 413, member, "the request is too large")
        if scope["path"] == _PUSH_MESSAGES:
            try:
                node, sources = message_sources(body)
            except PeerError:
                return await _refuse(send, 400, member, "the request is malformed")
            if not sources or not sources <= {node}:
                return await _refuse(send, 403, member, "a message in another member's name, or none")
        if scope["path"] in PUSHED_MESSAGES or scope["path"] in PUSHED_PARTS:
            return await self._held.push(scope, body, receive, send)
        if scope["path"] == _PULL_MESSAGES and (wait_s := _wait_s(scope)):
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
        if scope["path"] in _CONNECTING:
            self._held.release(member)
        return await self._application(scope, replay(body, receive), send)

    def close(self) -> None:
        """Answer every question that is held, and hold no more: the service is about to stop."""
        self._held.close()

    def _may_ask_again(self, key: bytes, member: str) -> bool:
        """Return whether a member whose question was held is still served, and within its rate."""
        return self._member_of(key) == member and self._rate_limit.allows(member, now=time.monotonic())


class PrivateRoutes:
    """ASGI middleware of the loopback listener: the Control and Runtime calls and nothing else.

    Args:
        application: Flower's SuperLink.
        mail: what is pushed, by either side; shared with `FleetGateway`.
    """

    def __init__(self, application: Application, *, mail: Mail | None = None) -> None:
        self._application = application
        self._held = HeldPulls(application, mail or Mail())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request to a private route, or refuse it."""
        if scope["type"] != "http":
            return await self._application(scope, receive, send)
        path = scope["path"]
        if not path.startswith(PRIVATE_PREFIXES):
            return await _refuse(send, 404, "loopback", "a path that is not served here")
        if path not in (_SERVER_APP_PULL, *PUSHED_MESSAGES, *PUSHED_PARTS):
            return await self._application(scope, receive, send)
        body = await _read_body(receive, _MAX_PRIVATE_BODY_BYTES)
        if body is None:
            return await _refuse(send, 413, "loopback", "the request is too large")
        if path != _SERVER_APP_PULL:
            return await self._held.push(scope, body, receive, send)
        return await self._held.pull(
            scope,
            body,
            receive,
            send,
            holder=tuple(scope.get("client") or ()),
            receiver=SERVER_APP_NODE,
            wait_s=_SERVER_APP_WAIT_S,
        )

    def close(self) -> None:
        """Answer every question that is held, and hold no more: the service is about to stop."""
        self._held.close()


def mutual_tls(*, certificate_file: Path, key_file: Path, ca_file: Path) -> ssl.SSLContext:
    """Return the TLS settings of the gateway: 1.3 only, client certificate of the federation required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file)
    context.load_verify_locations(ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _certificate_key(scope: Scope) -> bytes | None:
    der = scope.get(_CERTIFICATE)
    read = None if der is None else _read_certificate(der)
    if read is None:
        return None
    key, ends_at = read
    if datetime.now(UTC) >= ends_at:
        return None  # it ended while the connection stayed open: no handshake would have let it in
    return key


@lru_cache(maxsize=1024)
def _read_certificate(der: bytes) -> tuple[bytes, datetime] | None:
    """Return the public key of a certificate and when it ends; the same one comes with each request of a connection."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError:
        return None
    key = certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, certificate.not_valid_after_utc


def _node_key_is(scope: Scope, key: bytes) -> bool:
    given = [value for name, value in scope["headers"] if name.lower() == PUBLIC_KEY_HEADER]
    if len(given) != 1:
        return False
    try:
        return base64.b64decode(given[0], validate=True) == key
    except binascii.Error:
        return False


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _wait_s(scope: Scope) -> float:
    """Return for how long a member wants its question held; 0 for not at all."""
    given = [value for name, value in scope["headers"] if name.lower() == WAIT_HEADER.encode()]
    try:
        asked = float(given[0]) if given else 0.0
    except ValueError:
        return 0.0
    return min(asked, LONGEST_WAIT_S) if asked > 0 else 0.0


async def _refuse(send: Send, status: int, member: str, reason: str) -> None:
    log.warning("refused %s: %s", member, reason)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
