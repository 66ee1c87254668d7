"""The coordinator's three listeners as anybody meets them: TLS 1.3 or nothing, and no line in the log that is not in its form."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from federation_harness import (
    MadeFederation,
    accepts,
    coordinator_command,
    end_with_children,
    make_federation,
    make_plan,
    wait_until,
)

from ringfence.model.settings_file import toml_text
from ringfence.server.run_store import RunStore

LISTENERS = ("fleet_address", "release_address", "enrolment_address")
CLOSED = "closed"


@dataclass(frozen=True)
class Serving:
    """A coordinator that serves and logs for machines."""

    federation: MadeFederation
    process: subprocess.Popen[bytes]
    log: Path

    def address(self, listener: str) -> tuple[str, int]:
        host, _, port = str(getattr(self.federation.settings, listener)).rpartition(":")
        return host, int(port)

    def handshake(self, listener: str, *, version: ssl.TLSVersion, member: bool = True) -> str:
        """Return the version of TLS that was agreed on and worked, or that the connection was closed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.federation.coordinator.ca_file)
        context.minimum_version = context.maximum_version = version
        if listener == "fleet_address":
            said = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        else:
            context.set_alpn_protocols(["h2"])
            said = b""  # the server speaks first
        if member:
            home = self.federation.members["acme"]
            context.load_cert_chain(home.certificate_file, home.key_file)
        host, port = self.address(listener)
        try:
            with (
                socket.create_connection((host, port), timeout=60) as raw,
                context.wrap_socket(raw, server_hostname=host) as session,
            ):
                session.sendall(said)
                # In TLS 1.3 a refusal of the client's certificate comes after its side of the handshake is done.
                return session.version() or CLOSED if session.recv(1) else CLOSED
        except (ssl.SSLError, ConnectionError):
            return CLOSED


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("listeners")
    federation = make_federation(root, members=("acme",), conversations=2)
    log = root / "serve.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            coordinator_command("serve", "--home", federation.coordinator.root, "--log-format", "json"),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    made = Serving(federation, process, log)
    try:
        for listener in LISTENERS:
            address = str(getattr(federation.settings, listener))
            wait_until(lambda address=address: accepts(address), what=listener)
        yield made
    finally:
        end_with_children(process)


@pytest.mark.parametrize("listener", LISTENERS)
def test_each_listener_speaks_tls_1_3_and_nothing_older(serving: Serving, listener: str) -> None:
    assert serving.handshake(listener, version=ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert serving.handshake(listener, version=ssl.TLSVersion.TLSv1_2) == CLOSED


def test_every_line_of_the_log_is_an_object_whatever_strangers_do(serving: Serving) -> None:
    family = psutil.Process(serving.process.pid)

    def asks_for_work(process: psutil.Process) -> bool:
        private = (serving.federation.coordinator.flower / "private.address").read_text()
        with contextlib.suppress(psutil.Error):  # it ends meanwhile
            return any("flower_superexec" in word for word in process.cmdline()) and any(
                f"{each.raddr.ip}:{each.raddr.port}" == private
                for each in process.net_connections()
                if each.raddr
            )
        return False

    def run_starter_works() -> bool:
        return any(asks_for_work(each) for each in family.children(recursive=True))

    wait_until(run_starter_works, what="the run starter asks for work")
    for listener in LISTENERS:
        assert serving.handshake(listener, version=ssl.TLSVersion.TLSv1_2) == CLOSED
        serving.handshake(listener, version=ssl.TLSVersion.TLSv1_3, member=False)
        with socket.create_connection(serving.address(listener), timeout=60) as raw:
            raw.sendall(b"no TLS at all\r\n\r\n" * 10)
            with contextlib.suppress(ConnectionError):
                raw.recv(100)
    _fail_a_run(serving)
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(120) == 0
    lines = serving.log.read_text().splitlines()
    assert [line for line in lines if not _is_object(line)] == []
    assert any(json.loads(line)["logger"] == "ringfence.control" for line in lines)


def _fail_a_run(serving: Serving) -> None:
    """Have a server app start and give up: no member is there."""
    home = serving.federation.coordinator
    file = serving.federation.root / "plan.toml"
    file.write_text(toml_text(make_plan(deadline_s=1.0).model_dump(mode="json")))
    command = coordinator_command("run", "start", file, "--name", "tiny", "--home", home.root)

    def starts() -> bool:
        return subprocess.run(command, capture_output=True, timeout=180, check=False).returncode == 0

    wait_until(starts, what="the run is started")
    run = RunStore.of(home, settings=serving.federation.settings).open("tiny")
    wait_until(lambda: any(event.event == "failed" for event in run.events()), what="the run has failed")
    family = psutil.Process(serving.process.pid)
    wait_until(
        lambda: not [each for each in family.children(recursive=True) if _is_server_app(each)],
        what="it ended",
    )


def _is_server_app(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):  # it ends meanwhile
        return any("flwr-serverapp" in word for word in process.cmdline())
    return False


def _is_object(line: str) -> bool:
    try:
        return set(json.loads(line)) >= {"at", "level", "logger", "message"}
    except ValueError:
        return False
