"""Connections of members: mutual TLS, whose certificate was shown, and how much one bearer of a certificate may open.

What is kept of a connection before the gateway sees a request is bounded here: connections of one key, and bytes that are
not a body. A member whose network drops connections unnoticed is never locked out by them: a new one ends its oldest.
"""

from __future__ import annotations

import itertools
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ringfence.server.held_pulls import Receive, Scope, Send

MOST_CONNECTIONS = 16
"""Connections of one certificate's key at a time. An agent has two; what its network dropped unnoticed lies there for a while."""
MOST_HEAD_BYTES = 64 << 10
"""Bytes of a request that are not its body: its head, and what frames a body that comes in pieces. An agent's head is under 1 KiB."""
_CERTIFICATE = "ringfence.peer_certificate"
_ABORT = "ringfence.abort_connection"
_LOG = logging.getLogger("ringfence.gateway")
_ORDER = itertools.count()


class PeerCertificateProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, which also hands the client's certificate to the application, and bounds its connections."""

    peer_key: bytes | None = None
    order = 0
    _beside_bodies = 0

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transport
        """Take the certificate from the TLS session as the connection opens; end the oldest of its bearer's if there are too many."""
        super().connection_made(transport)
        session = transport.get_extra_info("ssl_object")
        certificate = session.getpeercert(binary_form=True) if session is not None else None
        read = None if certificate is None else _read_certificate(certificate)
        self.peer_key = None if read is None else read[0]
        self.order = next(_ORDER)
        self._end_oldest()
        inner = self.app

        async def with_certificate(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_CERTIFICATE] = certificate
            scope[_ABORT] = transport.abort
            await inner(scope, receive, send)

        self.app = with_certificate

    def data_received(self, data: bytes) -> None:
        """Read on, unless what is no body grows without end: the parser would keep all of it."""
        self._beside_bodies += len(data)
        super().data_received(data)
        if self._beside_bodies > MOST_HEAD_BYTES and not self.transport.is_closing():
            _LOG.warning("ended a connection: the head of its request is too large")
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Take in a part of a body, which may be framed with as many bytes again."""
        self._beside_bodies = max(0, self._beside_bodies - 2 * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to count anew with the next request."""
        self._beside_bodies = 0
        super().on_message_complete()

    def _end_oldest(self) -> None:
        same = [
            other
            for other in self.connections
            if isinstance(other, PeerCertificateProtocol)
            and other.peer_key == self.peer_key
            and not other.transport.is_closing()
        ]
        if self.peer_key is not None and len(same) > MOST_CONNECTIONS:
            min(same, key=lambda each: each.order).transport.abort()


def mutual_tls(*, certificate_file: Path, key_file: Path, ca_file: Path) -> ssl.SSLContext:
    """Return the TLS settings of the gateway: 1.3 only, client certificate of the federation required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file)
    context.load_verify_locations(ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def end_connection(scope: Scope) -> None:
    """End a request's connection at once, after its last answer was sent.

    Where a connection is only closed, TLS waits up to half a minute for the other side to agree, and reads and throws away
    whatever that sends meanwhile.
    """
    abort: Callable[[], None] | None = scope.get(_ABORT)
    if abort is not None:
        abort()


def certificate_key(scope: Scope) -> bytes | None:
    """Return the public key (SubjectPublicKeyInfo, PEM) of the certificate that a request's connection showed, if it still holds."""
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
