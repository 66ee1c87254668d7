"""The fleet service: Flower's SuperLink in our own process, behind two listeners.

* public: mutual TLS, only what `ringfence.server.fleet_gateway` lets through, for members;
* private: loopback TLS for the coordinator's own control client and for the server app, each with its own secret.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError, ConnectionFailedError, RingfenceError
from ringfence.model.settings_file import split_address
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.fleet_connections import PeerCertificateProtocol, mutual_tls
from ringfence.server.fleet_gateway import FleetGateway, PrivateRoutes
from ringfence.server.fleet_metrics import FleetMetrics, Metered
from ringfence.server.flower_adapter import create_superlink, quiet_environment
from ringfence.server.listening_certificate import ListeningCertificate
from ringfence.server.mail import Mail
from ringfence.server.metrics_listener import serve_metrics

log = logging.getLogger("ringfence.fleet")
_GRACE_S = 5
_RELOAD_S = 30.0
_ADDRESS_FILE = "private.address"


@dataclass(frozen=True, slots=True)
class FleetSecrets:
    """What the coordinator's own processes show the private listener.

    Attributes:
        control_token: bearer token of the Control API.
        superexec_file: file of the secret of the process that starts server apps.
    """

    control_token: str
    superexec_file: Path


def ensure_secrets(home: CoordinatorHome) -> FleetSecrets:
    """Return the secrets of the private listener, made on first use with mode 0600."""
    control = _secret_file(home.flower / "control.token")
    superexec = home.flower / "superexec.secret"
    _secret_file(superexec)
    return FleetSecrets(control_token=control, superexec_file=superexec)


def read_private_address(home: CoordinatorHome) -> str:
    """Return host:port of the private listener of the fleet service that runs now.

    Raises:
        ConnectionFailedError: none has started.
    """
    try:
        return (home.flower / _ADDRESS_FILE).read_text()
    except OSError as error:
        raise ConnectionFailedError(
            "The coordinator does not serve.", hint="Start it: ringfence-coordinator serve"
        ) from error


async def serve_fleet(
    home: CoordinatorHome,
    *,
    public: tuple[str, int],
    private: tuple[str, int],
    member_of: Callable[[bytes], str | None],
    metrics_address: str | None = None,
) -> None:
    """Serve the fleet until SIGINT or SIGTERM.

    Args:
        home: the coordinator's folder, with certificates made.
        public: host and port of the listener for members.
        private: loopback host and port of the listener for the coordinator's own processes.
        member_of: returns the active member with this public key (SubjectPublicKeyInfo, PEM), or None; it may wait.
        metrics_address: loopback host:port for Prometheus; None: nowhere.

    Raises:
        ConfigError: a port is taken, or the certificates are missing. The operator's to mend.
    """
    os.environ.update(quiet_environment(home.flower))
    for file in (home.ca_file, home.server_certificate_file, home.server_key_file):
        if not file.is_file():
            raise ConfigError(
                f"{file} is missing.", hint="Bring it back, or restore a backup made --with-keys."
            )
    known = ensure_secrets(home)
    superlink = create_superlink(
        host=private[0],
        port=private[1],
        database=home.flower / "superlink.db",
        ca_file=home.ca_file,
        certificate_file=home.server_certificate_file,
        key_file=home.server_key_file,
        control_token=known.control_token,
        superexec_secret=known.superexec_file.read_bytes().strip(),
    )
    tls = mutual_tls(
        certificate_file=home.server_certificate_file, key_file=home.server_key_file, ca_file=home.ca_file
    )
    common: dict[str, Any] = {
        "log_level": "warning",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
        "timeout_graceful_shutdown": _GRACE_S,
        "timeout_keep_alive": 75,
        "ssl_certfile": str(home.server_certificate_file),
        "ssl_keyfile": str(home.server_key_file),
    }
    metrics = FleetMetrics()
    mail = Mail()
    routes = PrivateRoutes(superlink, mail=mail)
    gateway = FleetGateway(superlink, member_of=member_of, mail=mail)
    inner = _Server(uvicorn.Config(routes, lifespan="on", **common))
    outer = _Server(
        uvicorn.Config(
            Metered(gateway, metrics),
            http=PeerCertificateProtocol,
            lifespan="off",
            ssl_context_factory=lambda _config, _default: tls,
            **common,
        )
    )
    with (
        listen_privately(home, private) as inner_socket,
        _listen(public) as outer_socket,
        serve_metrics(metrics_address, metrics.collector),
    ):
        host, port = inner_socket.getsockname()[:2]
        write_atomically(home.flower / _ADDRESS_FILE, f"{host}:{port}".encode())
        shown = ListeningCertificate(home)
        renewing = asyncio.create_task(_show_renewed(shown, lambda: (tls, inner.config.ssl)), name="renewal")
        try:
            await _serve_both(
                inner, inner_socket, outer, outer_socket, before_stop=(routes.close, gateway.close)
            )
        finally:
            renewing.cancel()


async def _show_renewed(
    shown: ListeningCertificate, contexts: Callable[[], Sequence[ssl.SSLContext | None]]
) -> None:
    while True:
        await asyncio.sleep(_RELOAD_S)
        try:
            if shown.reload_into(*(context for context in contexts() if context is not None)):
                log.info("the listeners show a renewed certificate")
        except (ConfigError, OSError) as error:
            log.error("the renewed certificate cannot be shown: %s", error)


def listen_privately(home: CoordinatorHome, configured: tuple[str, int]) -> socket.socket:
    """Listen where the life before this one did, if the port is free: server apps that outlived it find it again.

    Args:
        home: the coordinator's folder.
        configured: loopback host and port; port 0 lets the system choose.

    Raises:
        ConfigError: the configured port is taken. The operator's to mend.
    """
    host, port = configured
    if port == 0:
        with suppress(RingfenceError, ValueError):
            return _listen((host, split_address(read_private_address(home))[1]))
    return _listen(configured)


class _Server(uvicorn.Server):
    """A server that leaves signals to the one loop that owns both servers."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Capture nothing: `_serve_both` handles signals."""
        return nullcontext()


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            hint="Another program may hold the port: change the addresses in coordinator.toml.",
        ) from error
    # Taken over by each connection. asyncio sets it only on sockets that name their protocol, and these do not: an answer's
    # body would wait some 40 ms for the other side to acknowledge its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _serve_both(
    inner: _Server,
    inner_socket: socket.socket,
    outer: _Server,
    outer_socket: socket.socket,
    *,
    before_stop: Iterable[Callable[[], None]],
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    first = asyncio.create_task(inner.serve(sockets=[inner_socket]), name="private")
    # Members are let in only when Flower's state is open: otherwise their first call would fail.
    while not inner.started and not first.done() and not stopping.is_set():
        await asyncio.sleep(0.02)
    _settle_in()
    second = asyncio.create_task(outer.serve(sockets=[outer_socket]), name="public")
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    try:
        await asyncio.wait({first, second, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for step in before_stop:
            step()
        inner.should_exit = outer.should_exit = True
        waiting.cancel()
        results = await asyncio.gather(first, second, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _settle_in() -> None:
    """Prepare this process for many members: every file handle that it may have, and no search through what never goes.

    Flower brings hundreds of thousands of objects that live as long as the process. Looking through all of them for
    garbage stops every request for up to half a second.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.collect()
    gc.freeze()


def _secret_file(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text().strip()
