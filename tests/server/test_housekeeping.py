"""While the coordinator serves: Flower knows the active members and nobody else, and each run has somebody at work on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from databases import run_store
from federation_harness import MadeFederation, make_federation
from round_table import table_plan

from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError, StorageBusyError
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.flower_adapter import RunState
from ringfence.server.housekeeping import RunKeeper, register_members
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import Run, RunStore, SignedPlan, event_now

TICKS_OF_PATIENCE = 8
TICKS_OF_STARTING = 240
MAX_RESTARTS = 5


@dataclass
class FakeControl:
    """Flower's Control API, in memory."""

    nodes: dict[bytes, int] = field(default_factory=dict)
    unregistered: set[bytes] = field(default_factory=set)
    removed: list[int] = field(default_factory=list)
    state: RunState | None = None
    started: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    refuses: Exception | None = None
    meanwhile: Callable[[], object] = lambda: None

    def node_ids(self) -> dict[bytes, int]:
        return dict(self.nodes)

    def register_node(self, public_key_pem: bytes, *, name: str) -> int:
        if public_key_pem in self.unregistered:
            raise PeerError("Public key already in use.")
        return self.nodes.setdefault(public_key_pem, 100 + len(self.nodes))

    def unregister_node(self, node_id: int) -> None:
        self.unregistered |= {key for key, node in self.nodes.items() if node == node_id}
        self.nodes = {key: node for key, node in self.nodes.items() if node != node_id}
        self.removed.append(node_id)

    def run_state(self, run_id: int) -> RunState | None:
        return self.state

    def start_run(self, run: str) -> int:
        self.meanwhile()
        if self.refuses is not None:
            raise self.refuses
        self.started.append(run)
        return 1000 + len(self.started)

    def stop_run(self, run_id: int) -> bool:
        self.stopped.append(run_id)
        return True


class FakeLauncher(Launcher):
    """A launcher whose Flower is a `FakeControl`."""

    fake: FakeControl

    @property
    def runs(self) -> RunStore:
        return run_store(self.home.root)

    def control(self) -> FakeControl:  # type: ignore[override]
        return self.fake


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def keeper(tmp_path: Path, control: FakeControl) -> RunKeeper:
    launcher = FakeLauncher(home=CoordinatorHome(tmp_path), settings=None)  # type: ignore[arg-type]
    object.__setattr__(launcher, "fake", control)
    return RunKeeper(launcher=launcher, since=datetime.now(UTC) - timedelta(hours=1))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = run_store(tmp_path).create("tiny", signed=SignedPlan(table_plan(), b"s" * 64), initial=np.zeros(2))
    made.update(status="running", flower_run_id=7)
    made.add_event(event_now("started"))
    return made


def ticks(keeper: RunKeeper, count: int) -> None:
    for _ in range(count):
        keeper.tick()


FINISHED = RunState(status="finished", outcome="failed", details="")
UNDER_WAY = RunState(status="starting", outcome="", details="")


def test_a_run_whose_server_app_died_is_started_again(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.state = FINISHED
    ticks(keeper, TICKS_OF_PATIENCE - 1)
    assert control.started == []
    ticks(keeper, 1)
    assert control.started == ["tiny"]
    assert (run.record().status, run.record().flower_run_id) == ("running", 1001)


def test_a_run_of_which_flower_knows_nothing_is_started_again(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    ticks(keeper, TICKS_OF_PATIENCE)
    assert control.started == ["tiny"]


def test_a_server_app_that_is_slow_to_start_is_waited_for(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    """On a busy machine it takes many seconds; starting another each time would never let one begin."""
    control.state = UNDER_WAY
    ticks(keeper, TICKS_OF_STARTING - 1)
    assert control.started == []


def test_a_server_app_that_never_arrives_is_given_up(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.state = UNDER_WAY
    ticks(keeper, TICKS_OF_STARTING)
    assert control.started == ["tiny"]
    assert control.stopped == [7]


def test_a_run_that_was_started_before_the_coordinator_died_is_not_waited_for(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    """Flower's database still says that somebody is on the way: that somebody died with the coordinator."""
    control.state = UNDER_WAY
    keeper.since = datetime.now(UTC) + timedelta(seconds=1)
    ticks(keeper, TICKS_OF_PATIENCE)
    assert control.started == ["tiny"]
    assert control.stopped == [7]


def test_a_run_with_somebody_at_work_is_left_alone(keeper: RunKeeper, control: FakeControl, run: Run) -> None:
    with run.work():
        ticks(keeper, 3 * TICKS_OF_PATIENCE)
    assert control.started == []


def test_patience_begins_anew_when_somebody_was_at_work(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    ticks(keeper, TICKS_OF_PATIENCE - 1)
    with run.work():
        ticks(keeper, 1)
    ticks(keeper, TICKS_OF_PATIENCE - 1)
    assert control.started == []


def test_a_server_app_that_came_and_died_is_not_waited_for_as_if_it_were_on_its_way(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    """Flower misses a dead server app only when its heartbeat has been away for a minute."""
    control.state = RunState(status="running", outcome="", details="")
    with run.work():
        ticks(keeper, 1)
    ticks(keeper, TICKS_OF_PATIENCE - 1)
    assert control.started == []
    ticks(keeper, 1)
    assert control.started == ["tiny"]
    ticks(keeper, TICKS_OF_STARTING - 1)
    assert control.started == ["tiny"], "the next one is waited for"


def test_a_run_that_was_resumed_between_two_looks_waits_for_its_new_server_app(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.state = UNDER_WAY
    with run.work():
        ticks(keeper, 1)
    run.update(flower_run_id=8)
    ticks(keeper, TICKS_OF_STARTING - 1)
    assert control.started == []


@pytest.mark.parametrize("status", ["created", "completed", "failed", "stopped"])
def test_only_a_run_that_should_run_is_started(
    keeper: RunKeeper, control: FakeControl, run: Run, status: str
) -> None:
    run.update(status=status)
    ticks(keeper, 3 * TICKS_OF_PATIENCE)
    assert control.started == []


def test_a_run_that_dies_again_and_again_at_one_round_fails_and_nobody_is_left_to_work_on_it(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.state = FINISHED
    ticks(keeper, (MAX_RESTARTS + 3) * TICKS_OF_PATIENCE)
    assert len(control.started) == MAX_RESTARTS
    assert run.record().status == "failed"
    assert "after round 0" in run.record().reason
    assert control.stopped[-1] == run.record().flower_run_id
    assert [event.event for event in run.events()][-2:] == ["started", "failed"]


def test_a_run_that_cannot_be_read_does_not_keep_the_others_from_being_looked_after(
    keeper: RunKeeper, control: FakeControl, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = run_store(tmp_path)
    store.create("damaged", signed=SignedPlan(table_plan(), b"s" * 64), initial=np.zeros(2))
    read = Run.record

    def reading(self: Run) -> object:
        if self.name == "damaged":
            raise ConfigError("It cannot be read.")
        return read(self)

    monkeypatch.setattr(Run, "record", reading)
    ticks(keeper, TICKS_OF_PATIENCE)
    assert control.started == ["tiny"]


def test_a_run_is_given_up_also_when_flower_is_away(
    keeper: RunKeeper, control: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: FakeControl, run_id: int) -> bool:
        raise ConnectionFailedError("away")

    monkeypatch.setattr(FakeControl, "stop_run", away)
    keeper.launcher.give_up(run, reason="it stopped again and again")
    assert run.record().status == "failed"


def test_progress_clears_the_count_of_restarts(keeper: RunKeeper, control: FakeControl, run: Run) -> None:
    control.state = FINISHED
    for round_ in range(1, 2 * MAX_RESTARTS):
        ticks(keeper, TICKS_OF_PATIENCE)
        run.save_round(round_, np.zeros(2))
    assert run.record().status == "running"
    assert len(control.started) == 2 * MAX_RESTARTS - 1


def test_a_start_that_flower_refuses_leaves_the_run_as_it_was(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.refuses = PeerError("Refused.")
    ticks(keeper, TICKS_OF_PATIENCE)
    assert (run.record().status, run.record().flower_run_id) == ("running", 7)


@pytest.mark.parametrize("refuses", [None, PeerError("Refused.")], ids=["started", "refused"])
@pytest.mark.parametrize("decided", ["stopped", "failed"])
def test_what_an_operator_decides_while_a_run_is_started_again_holds(
    keeper: RunKeeper, control: FakeControl, run: Run, refuses: Exception | None, decided: str
) -> None:
    control.refuses = refuses
    control.meanwhile = lambda: run.update(status=decided, reason="by hand")
    ticks(keeper, 3 * TICKS_OF_PATIENCE)
    assert (run.record().status, run.record().reason) == (decided, "by hand")
    assert control.stopped == ([1001] if refuses is None else []), "nobody is left to work on it"


def test_a_run_that_is_stopped_before_it_is_started_again_is_not_started(
    keeper: RunKeeper, control: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_meanwhile(self: FakeControl, run_id: int) -> None:
        run.update(status="stopped")

    control.state = FINISHED
    monkeypatch.setattr(FakeControl, "run_state", stopped_meanwhile)
    keeper.launcher.start(run)
    assert control.started == []
    assert run.record().status == "stopped"


@pytest.mark.parametrize("reads", [(Run, "history"), (FakeControl, "run_state")], ids=lambda value: value[1])
def test_a_run_that_is_stopped_while_it_is_looked_at_stays_stopped(
    keeper: RunKeeper,
    control: FakeControl,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    reads: tuple[type, str],
) -> None:
    """Looking takes a while: every checkpoint is read, and Flower is asked. Starting a stopped run would resume it."""
    kind, name = reads
    read = getattr(kind, name)

    def stopped_meanwhile(*given: object) -> object:
        if run.record().status == "running":
            keeper.launcher.stop(run)
        return read(*given)

    control.state = FINISHED
    monkeypatch.setattr(kind, name, stopped_meanwhile)
    ticks(keeper, 3 * TICKS_OF_PATIENCE)
    assert run.record().status == "stopped"
    assert control.started == []


def test_a_run_that_is_stopped_is_not_given_up(keeper: RunKeeper, run: Run) -> None:
    run.update(status="stopped")
    assert not keeper.launcher.give_up(run, reason="it stopped again and again")
    assert run.record().status == "stopped"


def test_a_database_that_is_locked_for_however_long_fails_no_run(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.refuses = StorageBusyError("Locked.")
    for _ in range(20 * TICKS_OF_PATIENCE):
        with suppress(StorageBusyError):
            keeper.tick()
    assert run.record().status == "running"
    control.refuses = None
    ticks(keeper, TICKS_OF_PATIENCE)
    assert control.started == ["tiny"]


def test_a_run_that_was_just_stopped_is_resumed_when_its_worker_has_ended(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    run.update(status="stopped")
    let_go = threading.Event()

    def work() -> None:
        with run.work():
            working.set()
            let_go.wait(60)

    working = threading.Event()
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert working.wait(60)
    threading.Timer(0.3, let_go.set).start()
    keeper.launcher.start(run)
    worker.join(60)
    assert run.record().status == "running"


def test_a_fleet_service_that_is_away_is_told_to_the_caller(
    keeper: RunKeeper, control: FakeControl, run: Run
) -> None:
    control.refuses = ConnectionFailedError("Away.")
    with pytest.raises(ConnectionFailedError):
        ticks(keeper, TICKS_OF_PATIENCE)


@pytest.fixture
def federation(tmp_path: Path) -> MadeFederation:
    return make_federation(tmp_path, conversations=2)


def key_of(federation: MadeFederation, name: str) -> bytes:
    return federation.registry.get(name).certificate_public_key.encode()


def test_active_members_are_registered_once_and_keep_their_node(
    federation: MadeFederation, control: FakeControl
) -> None:
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    first = {member.id: member.node_id for member in federation.registry.all()}
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    assert {member.id: member.node_id for member in federation.registry.all()} == first
    assert set(first.values()) == set(control.nodes.values())
    assert len(control.nodes) == 3


def test_a_suspended_member_is_not_counted_on_and_comes_back_when_it_is_resumed(
    federation: MadeFederation, control: FakeControl
) -> None:
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    node = federation.registry.get("beta").node_id
    federation.registry.suspend("beta")
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    # Flower never takes an unregistered key again; the gateway is what keeps it out.
    assert control.removed == []
    assert federation.registry.get("beta").node_id is None
    federation.registry.resume("beta")
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    assert federation.registry.get("beta").node_id == node == control.nodes[key_of(federation, "beta")]


def test_a_key_that_flower_refuses_keeps_no_other_member_out(
    federation: MadeFederation, control: FakeControl
) -> None:
    control.unregistered.add(key_of(federation, "acme"))
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    found = {member.id: member.node_id is not None for member in federation.registry.all()}
    assert found == {"acme": False, "beta": True, "gamma": True}


def _forget(control: FakeControl) -> None:
    control.nodes.clear()


def _renumber(control: FakeControl) -> None:
    control.nodes = {key: node + 50 for key, node in control.nodes.items()}


@pytest.mark.parametrize("loss", [_forget, _renumber])
def test_members_get_their_nodes_again_after_flower_lost_its_database(
    federation: MadeFederation, control: FakeControl, loss: Callable[[FakeControl], None]
) -> None:
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    loss(control)
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    for member in federation.registry.all():
        assert member.node_id == control.nodes[member.certificate_public_key.encode()]


def test_a_node_that_is_no_members_is_removed(federation: MadeFederation, control: FakeControl) -> None:
    control.nodes[b"somebody else's key"] = 666
    register_members(federation.registry, control=control)  # type: ignore[arg-type]
    assert control.removed == [666]
    assert len(control.nodes) == 3
