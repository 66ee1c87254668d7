"""How much one member may send and hold: size, rate, requests, connections; in front of an application that only counts."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from federation_harness import wait_until
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from gateway_door import Counting, Door, open_door

from ringfence.client.identity import make_request
from ringfence.model.errors import StorageError
from ringfence.server.certificate_authority import load_certificate_authority
from ringfence.server.fleet_connections import (
    MOST_CONNECTIONS,
    MOST_HEAD_BYTES,
)
from ringfence.server.fleet_gateway import ALLOWED_PATHS, FleetGateway
from ringfence.server.fleet_intake import SMALL_BODY_BYTES, Intake
from ringfence.server.rate_limit import RateLimit

LIMIT_BYTES = 4096
BURST = 5
PULL = "/v1/fleet/pull-messages"
PUSH = "/v1/fleet/push-messages"
PART = "/v1/fleet/push-object"
MIB = 1 << 20


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    intake, rate_limit = Intake(largest_bytes=LIMIT_BYTES), RateLimit(per_second=0.0, burst=BURST)
    with open_door(tmp_path, intake=intake, rate_limit=rate_limit) as made:
        yield made


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


def status_of(connection: ssl.SSLSocket) -> int:
    """Wait for the status of the answer on a connection; 0 if it is ended without one."""
    try:
        line = connection.recv(64)
    except TimeoutError:
        raise
    except OSError:
        return 0
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize("path", sorted(ALLOWED_PATHS - {PART}))
def test_only_a_part_of_an_update_may_be_large(tmp_path: Path, path: str) -> None:
    """The largest call of another kind in a real round had 442 bytes."""
    with open_door(tmp_path, intake=Intake()) as door, door.caller("acme") as acme:
        assert acme.call(path, b"x" * (SMALL_BODY_BYTES + 1)).status_code == 413
        assert acme.call(path, b"x" * (SMALL_BODY_BYTES + 1), chunked=True).status_code == 413
        # What it announces is refused before it is sent.
        assert status_of(acme.begin(path, announced=SMALL_BODY_BYTES + 1, sent=0)) == 413
        assert acme.call(PART, b"x" * (SMALL_BODY_BYTES + 1)).status_code == 200


def test_a_member_holds_no_more_than_its_share_with_half_sent_parts(tmp_path: Path) -> None:
    intake = Intake(largest_bytes=MIB, own_bytes=MIB)
    with open_door(tmp_path, intake=intake) as door, door.caller("acme") as acme, door.caller("beta") as beta:
        begun = [acme.begin(PART, announced=MIB, sent=MIB // 2) for _ in range(2)]
        wait_until(lambda: intake.held_bytes == MIB, what="both halves are held")
        assert status_of(acme.begin(PART, announced=MIB, sent=MIB // 2)) == 429
        assert intake.held_bytes == MIB
        assert beta.call(PART, b"x" * MIB).status_code == 200
        for connection in begun:
            connection.close()
        wait_until(lambda: intake.held_bytes == 0, what="what broke off is held no more")
        assert acme.call(PART, b"x" * MIB).status_code == 200
    assert door.reached.bodies == [b"x" * MIB] * 2


def test_all_members_together_hold_no_more_than_the_pool_and_each_keeps_room_of_its_own(
    tmp_path: Path,
) -> None:
    own = 64 << 10
    intake = Intake(largest_bytes=MIB, own_bytes=own, pool_bytes=MIB)
    with (
        open_door(tmp_path, intake=intake) as door,
        door.caller("acme") as acme,
        door.caller("beta") as beta,
        door.caller("gamma") as gamma,
    ):
        first = acme.begin(PART, announced=MIB, sent=MIB - 1)
        wait_until(lambda: intake.held_bytes == MIB - 1, what="acme's is held")
        assert status_of(beta.begin(PART, announced=MIB, sent=MIB - 1)) == 429
        assert gamma.call(PART, b"x" * own).status_code == 200
        first.close()
        wait_until(lambda: intake.held_bytes == 0, what="the pool is empty")
        assert beta.call(PART, b"x" * MIB).status_code == 200


def test_a_member_has_no_more_requests_open_than_agreed(tmp_path: Path) -> None:
    with (
        open_door(tmp_path, intake=Intake(most_open=3)) as door,
        door.caller("acme") as acme,
        door.caller("beta") as beta,
    ):
        begun = [acme.begin(PULL, announced=10, sent=5) for _ in range(3)]
        wait_until(lambda: acme.call(PULL).status_code == 429, what="three are open")
        assert beta.call(PULL).status_code == 200
        begun[0].sendall(b"12345")
        assert status_of(begun[0]) == 200
        assert acme.call(PULL).status_code == 200


@pytest.mark.parametrize("drips", [False, True], ids=["nothing", "a byte now and then"])
@pytest.mark.parametrize("path", [PULL, PART])
def test_a_body_that_does_not_come_is_given_up_with_its_connection(
    tmp_path: Path, path: str, drips: bool
) -> None:
    intake = Intake(stall_s=1.0)
    with open_door(tmp_path, intake=intake) as door, door.caller("acme") as acme:
        begun = acme.begin(path, announced=1000, sent=1)
        begun.settimeout(0.1 if drips else 60)
        deadline, answer = time.monotonic() + 60, b""
        while not answer and time.monotonic() < deadline:
            try:
                answer = begun.recv(4096)
            except TimeoutError:
                begun.sendall(b"x")
        assert answer.startswith(b"HTTP/1.1 408")
        begun.settimeout(60)
        assert begun.recv(4096) == b""
        wait_until(lambda: intake.held_bytes == 0, what="nothing is held")
    assert door.reached.bodies == []


def test_a_body_that_breaks_off_is_not_called_too_large(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "ringfence.gateway"),
        open_door(tmp_path, intake=Intake()) as door,
        door.caller("acme") as acme,
    ):
        begun = acme.begin(PART, announced=1000, sent=10)
        wait_until(lambda: acme.call(PULL).status_code == 200, what="it was read")
        begun.close()
        wait_until(lambda: "refused acme: the request broke off" in caplog.text, what="it is said")
    assert "too large" not in caplog.text


def test_one_connection_more_ends_the_members_oldest_and_nobody_elses(tmp_path: Path) -> None:
    """A member whose network drops connections unnoticed is not locked out by those that it left."""
    with (
        open_door(tmp_path, intake=Intake()) as door,
        door.caller("acme") as acme,
        door.caller("beta") as beta,
    ):
        others = beta.connect()
        held = [acme.connect() for _ in range(MOST_CONNECTIONS)]
        assert acme.call(PULL).status_code == 200
        assert status_of(held[0]) == 0
        for connection in (*held[1:], others):
            connection.settimeout(0.01)
            with pytest.raises(TimeoutError):
                connection.recv(1)


@pytest.mark.parametrize("where", ["head", "target", "trailer", "frame of a body"])
def test_a_request_without_end_is_cut_off(tmp_path: Path, where: str) -> None:
    beginning = {
        "head": b"POST /x HTTP/1.1\r\nendless: ",
        "target": b"POST /",
        "trailer": b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nendless: ",
        "frame of a body": b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5;",
    }
    with open_door(tmp_path, intake=Intake()) as door, door.caller("acme") as acme:
        connection = acme.connect()
        connection.sendall(beginning[where])
        sent = 0

        def pour() -> None:
            nonlocal sent
            while sent < 100 * MOST_HEAD_BYTES:
                connection.sendall(b"x" * 4096)
                sent += 4096

        with pytest.raises(OSError, match=r"."):
            pour()
        assert acme.call(PULL).status_code == 200


def test_a_look_at_the_database_that_hangs_holds_up_its_own_request_alone(tmp_path: Path) -> None:
    asked, answers = threading.Event(), threading.Event()

    def hang(member: str) -> None:
        if member == "acme":
            asked.set()
            answers.wait(120)

    with (
        open_door(tmp_path, intake=Intake(), before_look=hang) as door,
        door.caller("acme") as acme,
        door.caller("beta") as beta,
    ):
        waiting = acme.begin(PULL, announced=0, sent=0)
        assert asked.wait(60)
        assert beta.call(PULL).status_code == 200
        waiting.settimeout(0.01)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        answers.set()
        waiting.settimeout(60)
        assert status_of(waiting) == 200


def test_while_the_database_cannot_be_used_every_call_is_told_and_the_log_says_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = ["The database is gone."]

    def fail(_member: str) -> None:
        for each in trouble:
            raise StorageError(each, hint="Start it.")

    with (
        caplog.at_level(logging.WARNING, "ringfence.gateway"),
        open_door(tmp_path, intake=Intake(), before_look=fail) as door,
        door.caller("acme") as acme,
        door.caller("beta") as beta,
    ):
        assert [each.call(PULL).status_code for each in (acme, beta, acme, beta)] == [503] * 4
        assert caplog.messages == ["no member can be looked up: The database is gone."]
        trouble.clear()
        assert acme.call(PULL).status_code == 200
        assert caplog.messages[1:] == ["members are looked up again"]
    assert door.reached.bodies == [b""]
