"""What an attacker may send to the control plane: bytes that are no message, too many of them, calls of another kind."""

from __future__ import annotations

import importlib
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trust_harness import TrustFederation, make_trust_federation

from ringfence.model.channels import LARGEST_MESSAGE_BYTES
from ringfence.model.errors import ConnectionFailedError, PeerError
from ringfence.model.settings_file import split_address
from ringfence.model.wire import federation_service_pb2 as wire
from ringfence.model.wire.federation_service_pb2_grpc import FederationServiceStub
from ringfence.model.wire_errors import from_call
from ringfence.server.control_plane import MEMBER_SERVICES

NO_MESSAGE = b"\x0a\xff\xff\xff\xff\x0f not a message"


def methods() -> list[MethodDescriptor]:
    """Return every method that members reach, from the descriptors."""
    found = []
    for service in MEMBER_SERVICES:
        name = service.rsplit(".", 1)[1]
        stem = "".join(f"_{one.lower()}" if one.isupper() else one for one in name).lstrip("_")
        file = importlib.import_module(f"ringfence.model.wire.{stem}_pb2").DESCRIPTOR
        found += file.services_by_name[name].methods
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TrustFederation:
    return make_trust_federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def address(federation: TrustFederation) -> Iterator[str]:
    with federation.serving() as served:
        yield served


def call_raw(channel: grpc.Channel, method: MethodDescriptor, content: bytes) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.server_streaming:
        list(channel.unary_stream(path)(content, timeout=30))
    else:
        channel.unary_unary(path)(content, timeout=30)


def check_honest(federation: TrustFederation, address: str) -> None:
    with federation.channel("beta", address) as channel:
        FederationServiceStub(channel).ListRuns(wire.ListRunsRequest(), timeout=30)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_bytes_that_are_no_message_are_refused_in_our_words(
    method: MethodDescriptor,
    federation: TrustFederation,
    address: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A listing takes nothing, so that any bytes with well-formed fields would do: these have none.
    with (
        caplog.at_level(logging.DEBUG),
        federation.channel("acme", address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        call_raw(channel, method, NO_MESSAGE)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert type(from_call(caught.value)) is PeerError
    assert "Traceback" not in caplog.text
    check_honest(federation, address)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_message_over_the_limit_is_refused(
    method: MethodDescriptor, federation: TrustFederation, address: str
) -> None:
    size = LARGEST_MESSAGE_BYTES + 1
    content = b"\x0a" + _varint(size) + bytes(size)  # field 1, as so many bytes: well-formed but for its size
    with federation.channel("acme", address) as channel, pytest.raises(grpc.RpcError) as caught:
        call_raw(channel, method, content)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    check_honest(federation, address)


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        b"\x00" * 70_000,
    ],
    ids=["HTTP/1.1", "a broken preface", "zeros"],
)
def test_bytes_that_are_no_http_2_harm_nobody(
    content: bytes, federation: TrustFederation, address: str
) -> None:
    home = federation.members["acme"]
    context = ssl.create_default_context(cafile=home.ca_file)
    context.load_cert_chain(home.certificate_file, home.key_file)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(split_address(address), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        try:
            tls.sendall(content)
            while tls.recv(65_536):
                pass
        except OSError:
            pass
    check_honest(federation, address)


def test_bytes_that_are_no_tls_harm_nobody(federation: TrustFederation, address: str) -> None:
    with socket.create_connection(split_address(address), timeout=30) as plain:
        plain.sendall(b"\x16\x03\x01\xff\xff" + b"\xaa" * 2000)
    check_honest(federation, address)


@pytest.mark.parametrize(
    "path",
    [
        "/ringfence.v1.FederationService/DropRuns",
        "/ringfence.v1.AdminService/SuspendMember",
        "/ringfence.v1.AdminService/GetCondition",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/",
        "/ringfence.v1.FederationService/",
    ],
)
def test_a_member_reaches_no_method_that_is_not_for_members(
    path: str, federation: TrustFederation, address: str
) -> None:
    with federation.channel("acme", address) as channel:
        for call in (
            lambda: channel.unary_unary(path)(b"", timeout=30),
            lambda: list(channel.unary_stream(path)(b"", timeout=30)),
            lambda: list(channel.stream_stream(path)(iter([b""]), timeout=30)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    check_honest(federation, address)


def test_a_suspended_member_is_refused_on_every_service_health_included(
    federation: TrustFederation, address: str
) -> None:
    federation.registry.suspend("gamma")
    try:
        with federation.channel("gamma", address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            calls = [
                lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=30),
                lambda: next(stub.Watch(health_pb2.HealthCheckRequest())),
                *(lambda method=method: call_raw(channel, method, b"") for method in methods()),
            ]
            for call in calls:
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert type(from_call(caught.value)) is ConnectionFailedError
    finally:
        federation.registry.resume("gamma")


def test_health_says_that_the_coordinator_goes_before_it_goes(tmp_path: Path) -> None:
    federation = make_trust_federation(tmp_path)
    with federation.serving() as address:
        channel = federation.channel("acme", address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="ringfence.v1.FederationService")
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    channel.close()


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
