"""The Unix socket of the coordinator's own commands: only the coordinator's account can open it.

A Unix socket's address has room for about a hundred bytes. A longer path is reached through an open handle of its folder.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio

from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.server.coordinator_home import CoordinatorHome

_ROOM_BYTES = 100
_RETRY_S = 0.2
_FORBIDDEN = stat.S_IRWXG | stat.S_IRWXO


def add_admin_port(server: grpc.aio.Server, home: CoordinatorHome) -> None:
    """Let a server listen on the coordinator's socket, mode 0600.

    Raises:
        ConfigError: the socket cannot be made, or others could open it. The operator's to mend.
    """
    path = home.admin_socket
    before = os.umask(0o177)
    try:
        with _reachable(path) as address:
            server.add_secure_port(
                f"unix:{address}", grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
            )
        mode = path.lstat().st_mode
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"Cannot listen on {path}.", hint="Check the owner and mode of --home.") from error
    finally:
        os.umask(before)
    if not stat.S_ISSOCK(mode) or mode & _FORBIDDEN:
        raise ConfigError(f"Others can open {path}.", hint="Put --home on a file system that keeps modes.")


def not_serving() -> ConnectionFailedError:
    """Return the error for a command that needs a coordinator that serves."""
    return ConnectionFailedError(
        "The coordinator does not serve.", hint="Start it: ringfence-coordinator serve"
    )


@contextmanager
def open_admin_channel(home: CoordinatorHome, *, patience_s: float = 20.0) -> Iterator[grpc.Channel]:
    """Open a channel to the coordinator that serves from this folder.

    Args:
        home: the coordinator's folder.
        patience_s: seconds to wait for a coordinator that is starting, or starting again.

    Raises:
        ConnectionFailedError: none serves.
    """
    deadline = time.monotonic() + patience_s
    with _reachable(home.admin_socket) as address:
        while not _accepts(address):
            # Without the fleet's address nobody has begun to serve: there is nothing to wait for.
            if not (home.flower / "private.address").exists() or time.monotonic() >= deadline:
                raise not_serving()
            time.sleep(_RETRY_S)
        credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
        with grpc.secure_channel(f"unix:{address}", credentials) as channel:
            yield channel


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """Give an address of a socket that fits, for the length of the block."""
    if len(os.fsencode(path)) <= _ROOM_BYTES:
        yield str(path)
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"Cannot open {path.parent}: {error.strerror}", hint="Check --home.") from error
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _accepts(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True
