"""How much one member may send: size and rate, each member by itself, in front of an application that only counts."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from federation_harness import MadeFederation, make_federation, wait_until
from fleet_attacker import Credentials, RawCaller
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node

from ringfence.client.identity import make_request
from ringfence.server.certificate_authority import load_certificate_authority
from ringfence.server.fleet_gateway import (
    FleetGateway,
    PeerCertificateProtocol,
    mutual_tls,
)
from ringfence.server.rate_limit import RateLimit

LIMIT_BYTES = 4096
BURST = 5
PULL = "/v1/fleet/pull-messages"
PUSH = "/v1/fleet/push-messages"


@dataclass
class Counting:
    """Stands where the SuperLink stands, and keeps what reaches it."""

    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@dataclass(frozen=True)
class Door:
    federation: MadeFederation
    address: str
    reached: Counting

    def caller(self, name: str) -> RawCaller:
        home = self.federation.members[name]
        return RawCaller(
            self.address,
            ca_file=home.ca_file,
            credentials=Credentials.of(home),
            node_key_file=home.key_file,
        )


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    federation = make_federation(tmp_path, conversations=2)
    registry, home, counting = federation.registry, federation.coordinator, Counting()

    def member_of(key: bytes) -> str | None:
        member = registry.find_by_public_key(key)
        return member.id if member is not None and member.status == "active" else None

    gateway = FleetGateway(
        counting,
        member_of=member_of,
        max_body_bytes=LIMIT_BYTES,
        rate_limit=RateLimit(per_second=0.0, burst=BURST),
    )
    tls = mutual_tls(
        certificate_file=home.server_certificate_file, key_file=home.server_key_file, ca_file=home.ca_file
    )
    config = uvicorn.Config(
        gateway,
        port=0,
        http=PeerCertificateProtocol,
        lifespan="off",
        log_config=None,
        ssl_certfile=str(home.server_certificate_file),
        ssl_keyfile=str(home.server_key_file),
        ssl_context_factory=lambda _config, _default: tls,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the gateway listens", timeout_s=20)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Door(federation, f"127.0.0.1:{port}", counting)
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("path", [PULL, "/v1/fleet/push-object"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT_BYTES, 200), (LIMIT_BYTES + 1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(
    door: Door, path: str, size: int, status: int, chunked: bool
) -> None:
    with door.caller("acme") as acme:
        assert acme.call(path, b"x" * size, chunked=chunked).status_code == status
    assert door.reached.bodies == ([b"x" * size] if status == 200 else [])


def test_what_passes_reaches_the_application_byte_for_byte(door: Door) -> None:
    body = bytes(range(256)) * 10
    with door.caller("acme") as acme:
        acme.call("/v1/fleet/push-object", body, chunked=True)
    assert door.reached.bodies == [body]


def test_a_member_over_its_rate_is_refused_and_another_is_not(door: Door) -> None:
    with door.caller("acme") as acme, door.caller("beta") as beta:
        assert [acme.call(PULL).status_code for _ in range(BURST + 2)] == [200] * BURST + [429] * 2
        assert beta.call(PULL).status_code == 200


def test_refused_calls_count_towards_the_rate(door: Door) -> None:
    with door.caller("acme") as acme:
        statuses = [acme.call("/v1/control/list-nodes").status_code for _ in range(BURST + 1)]
    assert statuses == [404] * BURST + [429]


def _push(node_id: int, *sources: int) -> bytes:
    return PushMessagesRequest(
        node=Node(node_id=node_id),
        messages_list=[Message(metadata=Metadata(src_node_id=source)) for source in sources],
    ).SerializeToString()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (_push(7, 7), 200),
        (_push(7, 8), 403),
        (_push(7, 7, 8), 403),
        (_push(7), 403),
        (b"\xff\xff", 400),
    ],
    ids=["its own", "another's", "its own and another's", "nobody's", "not a request"],
)
def test_a_pushed_message_must_come_from_the_node_that_pushes_it(
    door: Door, body: bytes, status: int
) -> None:
    with door.caller("acme") as acme:
        assert acme.call(PUSH, body).status_code == status
    assert door.reached.bodies == ([body] if status == 200 else [])


def test_an_upgrade_to_a_websocket_reaches_nothing(door: Door) -> None:
    with door.caller("acme") as acme:
        response = acme.call(
            PULL,
            method="GET",
            headers={
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
            },
        )
    assert response.status_code >= 400
    assert door.reached.bodies == []


def test_a_bucket_fills_again_at_its_rate_and_never_over_its_burst() -> None:
    limit = RateLimit(per_second=2.0, burst=3.0)
    assert [limit.allows("acme", now=0.0) for _ in range(4)] == [True, True, True, False]
    assert [limit.allows("acme", now=1.0) for _ in range(3)] == [True, True, False]
    assert [limit.allows("acme", now=1000.0) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(("days_ago", "status"), [(0, 200), (8, 403)])
def test_a_certificate_that_ends_while_its_connection_stays_open_opens_nothing_more(
    door: Door, days_ago: int, status: int
) -> None:
    home, federation = door.federation.coordinator, door.federation.settings.federation
    authority = load_certificate_authority(home, federation=federation)
    request = make_request(door.federation.members["acme"]).csr.encode()
    # Its handshake was long ago: what matters is when the request comes.
    moment = datetime.now(UTC) - timedelta(days=days_ago, hours=-12 if days_ago else 0)
    chain = authority.issue_member_certificate(request, member="acme", now=moment)
    certificate = x509.load_pem_x509_certificate(chain)
    key = certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    answers: list[int] = []

    async def send(message) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": PULL,
        "headers": [(b"flwr-public-key", base64.b64encode(key))],
        "ringfence.peer_certificate": certificate.public_bytes(serialization.Encoding.DER),
    }
    asyncio.run(FleetGateway(Counting(), member_of=lambda _key: "acme")(scope, receive, send))
    assert answers == [status]
