"""Bytes that are no call of any protocol, at both HTTP listeners: the sender is cut off, the honest members notice nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator

import psutil
import pytest
from federation_harness import Fleet

from ringfence.server.fleet_service import read_private_address

Honest = Callable[[], None]
MIB = 1 << 20
POST = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n"
GARBAGE = {
    "noise": bytes(range(256)) * 256,
    "a line that never ends": b"G" * (4 * MIB),
    "a header that never ends": POST + b"x-long: " + b"a" * (4 * MIB),
    "headers without end": POST + b"".join(b"x-%d: y\r\n" % number for number in range(50_000)),
    "a length that is no number": POST + b"content-length: many\r\n\r\n",
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "a length past all memory": POST + b"content-length: 99999999999999999999\r\n\r\nx",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "a length and chunks": POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "a body that breaks off": POST + b"content-length: 1000\r\n\r\nabc",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "a call that nobody knows": b"\x00\x01 / HTTP/9.9\r\n\r\n",
    "many calls at once": (POST + b"content-length: 0\r\n\r\n") * 2000,
}


@pytest.fixture(params=["the gateway", "the private listener"])
def listener(request: pytest.FixtureRequest, fleet: Fleet) -> tuple[str, ssl.SSLContext]:
    """Return an address, and TLS settings with which it takes the sender for one of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(fleet.federation.coordinator.ca_file)
    if request.param == "the private listener":
        return read_private_address(fleet.federation.coordinator), context
    home = fleet.member("acme")
    context.load_cert_chain(home.certificate_file, home.key_file)
    return fleet.address, context


@pytest.fixture
def unharmed(fleet: Fleet, honest: Honest) -> Iterator[None]:
    """Hold that the fleet service is the same process afterwards, has not swollen, and serves."""
    process = psutil.Process(fleet.processes.running["fleet"].pid)
    honest()
    before, said = process.memory_info().rss, len(fleet.processes.log("fleet"))
    yield
    honest()
    assert process.is_running()
    assert process.memory_info().rss - before < 64 * MIB
    assert "Traceback" not in fleet.processes.log("fleet")[said:]


def send(address: str, content: bytes, *, tls: ssl.SSLContext | None) -> bytes:
    """Send bytes, end the sending side, and return what comes back until the other side closes, 64 KiB at most."""
    host, _, port = address.rpartition(":")
    received = b""
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=20) as plain:
        connection = tls.wrap_socket(plain, server_hostname=host) if tls is not None else plain
        with contextlib.suppress(OSError):
            connection.sendall(content)
        plain.settimeout(2)
        while len(received) < 65536 and (block := connection.recv(4096)):
            received += block
    return received


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_within_tls_is_answered_with_a_refusal_or_nothing(
    listener: tuple[str, ssl.SSLContext], unharmed: None, name: str
) -> None:
    address, tls = listener
    answer = send(address, GARBAGE[name], tls=tls)
    assert b" 200 " not in answer.split(b"\r\n", 1)[0], answer[:100]


def test_garbage_in_the_place_of_tls_is_cut_off(listener: tuple[str, ssl.SSLContext], unharmed: None) -> None:
    address, _ = listener
    for content in (*GARBAGE.values(), b"\x16\x03\x01\xff\xff" + bytes(70_000)):
        assert b"HTTP/1.1 2" not in send(address, content[:MIB], tls=None)


def test_connections_that_say_nothing_keep_nobody_out(fleet: Fleet, honest: Honest) -> None:
    host, _, port = fleet.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        honest()
