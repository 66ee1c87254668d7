"""The coordinator's own commands reach the coordinator that serves, over a socket that nobody else can open."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from federation_harness import make_plan
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from trust_harness import TrustFederation, make_trust_federation

from ringfence.client.federation_client import FederationClient
from ringfence.model.channels import new_server
from ringfence.model.errors import ConfigError, ConnectionFailedError, DeadlineError, PeerError
from ringfence.model.plan import Plan
from ringfence.model.wire import admin_service_pb2 as wire
from ringfence.model.wire.admin_service_pb2_grpc import AdminServiceStub
from ringfence.model.wire_errors import from_call
from ringfence.server.admin_client import AdminClient, open_admin
from ringfence.server.admin_socket import add_admin_port, open_admin_channel
from ringfence.server.audit_events import AuditEvents
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import RunStore, SignedPlan


@dataclass
class FakeControl:
    """Flower's control interface: starts whatever it is asked to."""

    started: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    away: bool = False
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go_on.set()

    def node_ids(self) -> dict[bytes, int]:
        if self.away:
            raise ConnectionFailedError("The coordinator does not serve.")
        return {b"one": 1, b"two": 2}

    def start_run(self, run: str) -> int:
        self.entered.set()
        assert self.go_on.wait(60)
        self.started.append(run)
        return len(self.started)

    def run_state(self, run_id: int) -> None:
        return None

    def stop_run(self, run_id: int) -> bool:
        if self.away:
            raise ConnectionFailedError("The coordinator does not serve.")
        self.stopped.append(run_id)
        return True


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    made = FakeControl()
    monkeypatch.setattr(Launcher, "control", lambda self: made)
    return made


@pytest.fixture
def federation(tmp_path: Path, control: FakeControl) -> TrustFederation:
    return make_trust_federation(tmp_path)


@pytest.fixture
def admin(federation: TrustFederation) -> Iterator[AdminClient]:
    with federation.serving(), open_admin(federation.home) as client:
        yield client


def plan(federation: TrustFederation, **changes: object) -> Plan:
    return make_plan(federation=federation.settings.federation, **changes)


def signed(federation: TrustFederation, **changes: object) -> SignedPlan:
    return Launcher(home=federation.home, settings=federation.settings).sign(plan(federation, **changes))


def test_a_run_is_started_stopped_and_resumed(
    federation: TrustFederation, admin: AdminClient, control: FakeControl
) -> None:
    started = admin.start_run(signed(federation))
    assert (started.name, started.status, started.rounds) == ("tiny-1", "running", 3)
    run = RunStore.of(federation.home, settings=federation.settings).open("tiny-1")
    assert run.signed_plan() == signed(federation)
    assert run.record().flower_run_id == 1
    assert admin.stop_run("tiny-1").status == "stopped"
    assert control.stopped == [1]
    assert admin.resume_run("tiny-1").status == "running"
    assert control.started == ["tiny-1", "tiny-1"]
    assert admin.start_run(signed(federation), name="other").name == "other"
    done = [(event.action, event.subject) for event in AuditEvents(open_database(federation.home)).all()]
    assert done[-4:] == [
        ("run.start", "tiny-1"),
        ("run.stop", "tiny-1"),
        ("run.resume", "tiny-1"),
        ("run.start", "other"),
    ]


def test_the_socket_opens_for_the_coordinators_account_alone(
    federation: TrustFederation, admin: AdminClient
) -> None:
    status = federation.home.admin_socket.lstat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.getuid()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter, so that a socket's own mode is what refuses."""
    with tempfile.TemporaryDirectory(prefix="ringfence-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def with_a_socket(home: CoordinatorHome, then: Callable[[], None]) -> None:
    server = new_server(interceptors=[])
    add_admin_port(server, home)
    await server.start()
    try:
        await asyncio.to_thread(then)
    finally:
        await server.stop(0)


AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except PermissionError:
    sys.exit(13)
"""


def test_another_account_cannot_open_the_socket(open_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody else")
    home = CoordinatorHome(open_folder)
    codes: list[int] = []

    def try_it() -> None:
        command = [sys.executable, "-c", AS_NOBODY, str(home.admin_socket)]
        codes.append(subprocess.run(command, timeout=120, check=False).returncode)

    def try_twice() -> None:
        try_it()
        home.admin_socket.chmod(0o666)
        try_it()

    asyncio.run(with_a_socket(home, try_twice))
    assert codes == [13, 0]


def test_a_socket_that_others_could_open_is_not_served(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that keeps no modes."""
    before = os.umask(0)
    monkeypatch.setattr(os, "umask", lambda mask: 0)
    try:
        with pytest.raises(ConfigError, match="Others can open"):
            asyncio.run(with_a_socket(CoordinatorHome(open_folder), lambda: None))
    finally:
        monkeypatch.undo()
        os.umask(before)


def test_a_path_that_is_too_long_for_a_socket_is_reached_all_the_same(
    tmp_path: Path, control: FakeControl
) -> None:
    root = tmp_path / ("x" * 60) / ("y" * 60)
    root.mkdir(parents=True)
    federation = make_trust_federation(root)
    assert len(str(federation.home.admin_socket)) > 120
    with federation.serving(), open_admin(federation.home) as admin:
        assert admin.condition().fleet_answers
    assert not federation.home.admin_socket.exists()


def test_when_nobody_serves_a_command_says_so_at_once(federation: TrustFederation) -> None:
    with pytest.raises(ConnectionFailedError) as caught, open_admin(federation.home, patience_s=1000):
        pass
    assert "ringfence-coordinator serve" in caught.value.hint


def test_a_socket_of_an_earlier_life_is_not_taken_for_a_coordinator(federation: TrustFederation) -> None:
    import socket

    left = socket.socket(socket.AF_UNIX)
    left.bind(str(federation.home.admin_socket))
    left.close()
    (federation.home.flower / "private.address").write_text("127.0.0.1:1")
    with pytest.raises(ConnectionFailedError), open_admin(federation.home, patience_s=0.5):
        pass
    with federation.serving(), open_admin(federation.home) as admin:
        assert admin.members()


def test_a_command_waits_for_a_coordinator_that_is_starting(federation: TrustFederation) -> None:
    (federation.home.flower / "private.address").write_text("127.0.0.1:1")
    found: list[int] = []

    def ask() -> None:
        with open_admin(federation.home, patience_s=120) as admin:
            found.append(len(admin.members()))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    with federation.serving():
        asking.join(120)
    assert found == [3]


def test_nothing_is_made_of_a_run_that_cannot_start(
    federation: TrustFederation, admin: AdminClient, control: FakeControl
) -> None:
    control.away = True
    with pytest.raises(ConnectionFailedError):
        admin.start_run(signed(federation), name="spring")
    assert RunStore.of(federation.home, settings=federation.settings).all() == []
    control.away = False
    assert admin.start_run(signed(federation), name="spring").status == "running"


def test_a_run_is_stopped_also_when_flower_is_away(
    federation: TrustFederation, admin: AdminClient, control: FakeControl
) -> None:
    admin.start_run(signed(federation))
    control.away = True
    assert admin.stop_run("tiny-1").status == "stopped"


def test_two_commands_at_once_are_carried_out_one_after_another(
    federation: TrustFederation, admin: AdminClient, control: FakeControl
) -> None:
    admin.start_run(signed(federation))
    admin.stop_run("tiny-1")
    control.entered.clear()
    control.go_on.clear()
    results: list[object] = []

    def ask(what: str) -> None:
        with open_admin(federation.home) as mine:
            results.append((what, getattr(mine, what)("tiny-1").status))

    threads = [threading.Thread(target=ask, args=(what,), daemon=True) for what in ("resume_run",)]
    threads[0].start()
    assert control.entered.wait(60)
    threads.append(threading.Thread(target=ask, args=("stop_run",), daemon=True))
    threads[1].start()
    threads[1].join(0.5)
    assert results == []  # the stop waits for the start that is under way
    control.go_on.set()
    for thread in threads:
        thread.join(60)
    assert set(results) == {("resume_run", "running"), ("stop_run", "stopped")}
    assert control.stopped == [1, 2]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (wire.StartRunRequest(plan=b"{}"), ConfigError),
        (wire.StartRunRequest(plan=b"\xff\xfe"), ConfigError),
        (wire.StartRunRequest(), ConfigError),
    ],
)
def test_what_is_no_plan_is_refused_with_the_field(
    federation: TrustFederation,
    admin: AdminClient,
    request_: wire.StartRunRequest,
    expected: type[Exception],
) -> None:
    with open_admin_channel(federation.home) as channel, pytest.raises(grpc.RpcError) as caught:
        AdminServiceStub(channel).StartRun(request_, timeout=30)
    assert type(from_call(caught.value)) is expected


def test_a_plan_of_another_federation_is_refused_in_full_words(
    federation: TrustFederation, admin: AdminClient
) -> None:
    other = Launcher(home=federation.home, settings=federation.settings).sign(make_plan(federation="other"))
    with pytest.raises(ConfigError) as caught:
        admin.start_run(other)
    assert "The plan is for the federation other" in caught.value.message


def test_members_are_listed_with_their_last_call_suspended_and_served_again(
    federation: TrustFederation, control: FakeControl
) -> None:
    with federation.serving() as address, open_admin(federation.home) as admin:
        FederationClient(federation.channel("beta", address)).list_runs()
        listed = {member.id: member for member in admin.members()}
        assert set(listed) == {"acme", "beta", "gamma"}
        assert listed["acme"].last_call_at is None
        assert listed["beta"].last_call_at is not None
        assert admin.suspend_member("beta").status == "suspended"
        with pytest.raises(ConnectionFailedError):
            FederationClient(federation.channel("beta", address)).list_runs()
        assert admin.resume_member("beta").status == "active"
        FederationClient(federation.channel("beta", address)).list_runs()
        with pytest.raises(ConfigError):
            admin.suspend_member("nobody")


def test_the_condition_says_what_a_doctor_asks(
    federation: TrustFederation, admin: AdminClient, control: FakeControl
) -> None:
    condition = admin.condition()
    assert (condition.fleet_answers, condition.known_nodes) == (True, 2)
    assert condition.version
    members, _, commands = condition.listeners
    assert members.certificate_expires_at is not None
    assert members.certificate_expires_at > federation.clock[0] + timedelta(hours=1)
    assert (commands.address, commands.certificate_expires_at) == (str(federation.home.admin_socket), None)
    control.away = True
    assert not admin.condition().fleet_answers


def test_the_socket_answers_health_and_lists_its_services(
    federation: TrustFederation, admin: AdminClient
) -> None:
    with open_admin_channel(federation.home) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="ringfence.v1.AdminService")
        assert stub.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=30)
    names = {service.name for service in answer.list_services_response.service}
    assert "ringfence.v1.AdminService" in names


def test_malformed_oversize_and_endless_calls_are_refused_here_too(
    federation: TrustFederation, admin: AdminClient
) -> None:
    path = "/ringfence.v1.AdminService/StopRun"
    with open_admin_channel(federation.home) as channel:
        call = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x0a\xff\xff", timeout=30)
        assert type(from_call(caught.value)) is PeerError
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(5 << 20), timeout=30)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
        assert type(from_call(caught.value)) is DeadlineError
    assert admin.members()
