"""Channels and servers of gRPC, made in one place: TLS both ways, keep-alive, message size, deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ringfence.model.errors import ConfigError

CALL_DEADLINE_S = 15.0
STREAM_DEADLINE_S = 120.0
LARGEST_MESSAGE_BYTES = 4 << 20
CHUNK_BYTES = 256 << 10
KEEP_ALIVE_S = 30
LONGEST_CONNECTION_S = 3600
_MOST_CONCURRENT_CALLS = 1024

_Option = tuple[str, int | str]

_SHARED: tuple[_Option, ...] = (
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEP_ALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_CLIENT: tuple[_Option, ...] = (
    *_SHARED,
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    # One process, one connection: a renewed certificate must not meet a connection of the old one.
    ("grpc.use_local_subchannel_pool", 1),
    # After a cut, the next attempt of a caller should meet a connection, not gRPC's own waiting.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Proxies of the environment would see where a member connects to, and break mutual TLS.
    ("grpc.enable_http_proxy", 0),
)
_SERVER: tuple[_Option, ...] = (
    *_SHARED,
    ("grpc.so_reuseport", 0),  # two coordinators on one port would take turns unnoticed
    ("grpc.http2.min_ping_interval_without_data_ms", KEEP_ALIVE_S * 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_age_grace_ms", int(STREAM_DEADLINE_S * 1000)),
    ("grpc.max_concurrent_streams", 64),
)


def open_channel(address: str, *, ca_file: Path, key_file: Path, certificate_file: Path) -> grpc.Channel:
    """Return a channel to the coordinator over mutual TLS; it connects on the first call.

    Args:
        address: host:port.
        ca_file: the federation's CA certificates, PEM.
        key_file: this side's private key, PEM.
        certificate_file: its certificate chain, PEM.

    Raises:
        ConfigError: a file cannot be read. The operator's to mend.
    """
    credentials = grpc.ssl_channel_credentials(_read(ca_file), _read(key_file), _read(certificate_file))
    return grpc.secure_channel(address, credentials, options=_CLIENT)


def open_server_tls_channel(address: str, *, ca: bytes) -> grpc.Channel:
    """Return a channel on which the coordinator shows who it is and this side does not yet; it connects on the first call.

    Args:
        address: host:port.
        ca: certificates that vouch for the coordinator, PEM.
    """
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=_CLIENT)


def new_server(
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]],
    longest_connection_s: float = LONGEST_CONNECTION_S,
    largest_message_bytes: int = LARGEST_MESSAGE_BYTES,
) -> grpc.aio.Server:
    """Return an asynchronous server without a port yet.

    Args:
        interceptors: what calls pass first.
        longest_connection_s: seconds after which a connection is ended, so that nobody stays whom a new handshake
            would refuse; calls under way have some time to end.
        largest_message_bytes: larger requests are refused before they are read.
    """
    options = (
        *_SERVER,
        ("grpc.max_connection_age_ms", int(longest_connection_s * 1000)),
        ("grpc.max_receive_message_length", largest_message_bytes),
    )
    return grpc.aio.server(
        interceptors=interceptors, options=options, maximum_concurrent_rpcs=_MOST_CONCURRENT_CALLS
    )


def add_mutual_tls_port(
    server: grpc.aio.Server, *, address: str, ca_file: Path, key_file: Path, certificate_file: Path
) -> int:
    """Let a server listen where only bearers of the CA's certificates are let in, and return the port.

    Args:
        server: the server, not started.
        address: host:port; port 0 lets the system choose.
        ca_file: certificates that vouch for callers, PEM.
        key_file: the listener's private key, PEM.
        certificate_file: its certificate chain, PEM.

    Raises:
        ConfigError: a file cannot be read, or the address is taken. The operator's to mend.
    """
    credentials = grpc.ssl_server_credentials(
        [(_read(key_file), _read(certificate_file))],
        root_certificates=_read(ca_file),
        require_client_auth=True,
    )
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"Cannot listen on {address}.",
            hint="Check that the address is this machine's and that nothing uses it.",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint="Set this side up first.") from error
