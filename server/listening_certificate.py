"""The listeners' certificate as it is on disk now: one that is renewed is shown from the next handshake on."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from ringfence.model.errors import ConfigError
from ringfence.server.coordinator_home import CoordinatorHome

_Stamp = tuple[int, int, int]
_BRING_BACK = "Bring it back, or restore a backup made --with-keys."


@dataclass(frozen=True, slots=True)
class _Pair:
    stamp: _Stamp
    key: bytes
    chain: bytes


class ListeningCertificate:
    """Key and certificate chain of the listeners.

    Args:
        home: the coordinator's folder.

    Raises:
        ConfigError: they cannot be read. The operator's to mend.
    """

    def __init__(self, home: CoordinatorHome) -> None:
        self._key_file = home.server_key_file
        self._certificate_file = home.server_certificate_file
        self._ca = _read(home.ca_file)
        self._shown = self._load()

    def credentials(self, *, ask_callers: bool) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC listener.

        Args:
            ask_callers: let in only bearers of the federation's certificates.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(ask_callers=ask_callers),
            lambda: self._changed(ask_callers=ask_callers),  # type: ignore[arg-type,return-value]  # None: as before
            require_client_authentication=ask_callers,
        )

    def reload_into(self, *contexts: ssl.SSLContext) -> bool:
        """Show a renewed certificate from the next handshake of TLS contexts on; return whether there was one."""
        if not self._is_changed():
            return False
        self._shown = self._load()
        for context in contexts:
            context.load_cert_chain(self._certificate_file, self._key_file)
        return True

    def _changed(self, *, ask_callers: bool) -> grpc.ServerCertificateConfiguration | None:
        try:
            if not self._is_changed():
                return None
            self._shown = self._load()
        except (ConfigError, OSError):
            return None  # the old one is good for a while yet; whoever renews it says what is wrong
        return self._configuration(ask_callers=ask_callers)

    def _configuration(self, *, ask_callers: bool) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self._shown.key, self._shown.chain)], root_certificates=self._ca if ask_callers else None
        )

    def _is_changed(self) -> bool:
        return _stamp(self._certificate_file) != self._shown.stamp

    def _load(self) -> _Pair:
        return _Pair(_stamp(self._certificate_file), _read(self._key_file), _read(self._certificate_file))


def add_port(server: grpc.aio.Server, *, address: str, credentials: grpc.ServerCredentials) -> int:
    """Let a server listen, and return the port.

    Args:
        server: not started.
        address: host:port; port 0 lets the system choose.
        credentials: of the listener.

    Raises:
        ConfigError: the address is taken. The operator's to mend.
    """
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"Cannot listen on {address}.",
            hint="Check that the address is this machine's and that nothing uses it.",
        ) from error


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint=_BRING_BACK) from error
    # Files are only ever replaced whole, so that a change always shows in the inode.
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint=_BRING_BACK) from error
