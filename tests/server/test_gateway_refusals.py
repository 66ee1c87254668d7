"""What the gateway refuses costs it little: no more of the request is read, and its log does not grow with the refusals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_door import Door, open_door

from ringfence.model.errors import StorageError
from ringfence.server import fleet_gateway
from ringfence.server.fleet_gateway import PrivateRoutes
from ringfence.server.fleet_intake import SMALL_BODY_BYTES, Intake
from ringfence.server.rate_limit import RateLimit

PULL = "/v1/fleet/pull-messages"
PART = "/v1/fleet/push-object"
MIB = 1 << 20
CHUNK = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
MUCH = 64 * MIB
"""Far more than what lies in the sockets' buffers on both sides."""


def head(door: Door, name: str, path: str, *more: str, node_key: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: coordinator", *more]
    if node_key:
        with door.caller(name) as caller:
            lines += [f"{key}: {value}" for key, value in caller.node_headers().items()]
    return "\r\n".join([*lines, "", ""]).encode()


def taken_of_the_rest(connection: ssl.SSLSocket, *, chunked: bool) -> int:
    """Pour on, and return how many bytes were taken before the connection was ended."""
    block, taken = CHUNK if chunked else b"\0" * 0x10000, 0
    try:
        while taken < MUCH:
            connection.sendall(block)
            taken += len(block)
    except OSError:
        return taken
    return taken


def ask(connection: ssl.SSLSocket, request: bytes) -> bytes:
    """Send as much of a request as is taken, and return the answer."""
    with contextlib.suppress(OSError):
        connection.sendall(request)
    return connection.recv(4096)


def status_of(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    intake = Intake(largest_bytes=2 * MIB, own_bytes=MIB, pool_bytes=0)
    with open_door(tmp_path_factory.mktemp("door"), intake=intake) as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "first", "status"),
    [
        (PULL, CHUNK * 2, 413),
        (PART, CHUNK * 20, 429),
        ("/v1/control/list-nodes", CHUNK, 404),
        ("no node key", CHUNK, 403),
    ],
    ids=["too large", "no room", "another path", "another's key"],
)
def test_of_a_refused_request_the_rest_is_not_taken(door: Door, path: str, first: bytes, status: int) -> None:
    with door.caller("acme") as acme:
        connection = acme.connect()
    known = path.startswith("/")
    begun = head(door, "acme", path if known else PULL, "transfer-encoding: chunked", node_key=known)
    answer = ask(connection, begun + first)
    assert status_of(answer) == status
    assert b"connection: close" in answer
    assert taken_of_the_rest(connection, chunked=True) < MUCH


def test_what_a_body_announces_is_not_taken_either(door: Door) -> None:
    with door.caller("acme") as acme:
        connection = acme.connect()
    assert status_of(ask(connection, head(door, "acme", PULL, f"content-length: {MUCH}"))) == 413
    assert taken_of_the_rest(connection, chunked=False) < MUCH


def test_over_the_rate_the_rest_is_not_taken_and_what_has_no_rest_keeps_its_connection(
    tmp_path: Path,
) -> None:
    with open_door(tmp_path, rate_limit=RateLimit(per_second=0.0, burst=1.0)) as door:
        with door.caller("acme") as acme:
            connection = acme.connect()
        empty = head(door, "acme", PULL, "content-length: 0")
        statuses = []
        for _ in range(3):
            answer = ask(connection, empty)
            assert b"connection: close" not in answer
            statuses.append(status_of(answer))
        assert statuses == [200, 429, 429]
        assert (
            status_of(ask(connection, head(door, "acme", PULL, "transfer-encoding: chunked") + CHUNK)) == 429
        )
        assert taken_of_the_rest(connection, chunked=True) < MUCH


def test_while_the_database_cannot_be_used_no_body_is_taken_for_nothing(tmp_path: Path) -> None:
    def gone(_member: str) -> None:
        raise StorageError("The database is gone.", hint="Start it.")

    with open_door(tmp_path, before_look=gone) as door:
        with door.caller("acme") as acme:
            connection = acme.connect()
        assert (
            status_of(ask(connection, head(door, "acme", PART, "transfer-encoding: chunked") + CHUNK)) == 503
        )
        assert taken_of_the_rest(connection, chunked=True) < MUCH


def test_a_refusal_of_what_was_read_whole_keeps_the_connection(door: Door) -> None:
    with door.caller("acme") as acme:
        connection = acme.connect()
    for _ in range(2):
        begun = head(door, "acme", "/v1/fleet/push-messages", "content-length: 2")
        answer = ask(connection, begun + b"\xff\xff")
        assert status_of(answer) == 400
        assert b"connection: close" not in answer


def test_on_loopback_as_well_a_refusal_ends_what_was_not_read() -> None:
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"\0" * (SMALL_BODY_BYTES + 1), "more_body": True}

    async def never(scope, receive, send) -> None:
        raise AssertionError

    scope = {"type": "http", "path": "/docs", "headers": [(b"transfer-encoding", b"chunked")]}
    asyncio.run(PrivateRoutes(never)(scope, receive, send))
    assert sent[0]["status"] == 404
    assert (b"connection", b"close") in sent[0]["headers"]


def test_however_often_a_member_is_over_its_rate_the_log_says_it_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [1000.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return seconds[0]

    monkeypatch.setattr(fleet_gateway, "time", Clock)
    with (
        caplog.at_level(logging.WARNING, "ringfence.gateway"),
        open_door(tmp_path, rate_limit=RateLimit(per_second=0.0, burst=1.0)) as door,
        door.caller("acme") as acme,
        door.caller("beta") as beta,
    ):
        for caller in (acme, beta):
            assert [caller.call(PULL).status_code for _ in range(30)] == [200] + [429] * 29
        assert caplog.messages == ["refused acme: too many requests", "refused beta: too many requests"]
        seconds[0] += 61.0
        for _ in range(30):
            acme.call(PULL)
        assert caplog.messages[2:] == ["refused acme: too many requests"]


def test_a_certificate_that_ends_on_an_open_connection_ends_it_with_one_line_of_log(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with door.caller("acme") as acme:
        connection = acme.connect()
    empty = head(door, "acme", PULL, "content-length: 0")
    assert status_of(ask(connection, empty)) == 200
    monkeypatch.setattr(fleet_gateway, "certificate_key", lambda scope: None)
    with caplog.at_level(logging.WARNING, "ringfence.gateway"):
        answers = ask(connection, empty * 50)
        with contextlib.suppress(OSError):
            while answer := connection.recv(4096):
                answers += answer
    assert answers.count(b"HTTP/1.1") == answers.count(b"HTTP/1.1 403") == 1
    assert caplog.messages == ["refused unknown: the certificate does not hold, or no more"]
