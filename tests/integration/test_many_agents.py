"""Twenty members train together, and fifty connect at once, also after the coordinator was away for a moment."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from federation_harness import Fleet, Processes, make_federation, make_plan, wait_until
from scripted_coordinator import ScriptedCoordinator

from ringfence.model.round_messages import Refusal, RefusalCode

pytestmark = pytest.mark.slow

START_S = 600.0
"""For dozens of Python processes that start at once on two cores."""


def names(count: int) -> list[str]:
    return [f"member-{number:02d}" for number in range(count)]


def start(root: Path, processes: Processes, *, members: Sequence[str]) -> Fleet:
    federation = make_federation(root, members=members, conversations=8)
    processes.start_fleet(federation)
    return Fleet(federation, processes, federation.register())


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path / "logs") as started:
        yield started


def connections(fleet: Fleet) -> dict[str, int]:
    """Return how often each agent connected."""
    return {
        name: fleet.processes.log(f"agent-{name}").count("connected to") for name in fleet.federation.members
    }


def check_logs(fleet: Fleet) -> None:
    """Nothing went wrong anywhere, and the gateway refused nobody: no limit is too low for so many."""
    for log in fleet.processes.logs.glob("*.log"):
        lines = log.read_text(errors="replace").splitlines()
        # A coordinator that stopped counts those that were connected as connected, and lets them in at their second try.
        content = "\n".join(line for line in lines if "could not be activated" not in line)
        for trouble in ("Traceback", "ERROR", "too many requests", "refused member-"):
            assert trouble not in content, f"{log.name}: {trouble}"


def test_twenty_members_carry_out_rounds_together(tmp_path: Path, processes: Processes) -> None:
    fleet = start(tmp_path, processes, members=names(20))
    processes.start_superexec(fleet.federation)
    for home in fleet.federation.members.values():
        processes.start_agent(home)
    wait_until(lambda: all(connections(fleet).values()), what="all are connected", timeout_s=START_S)
    launcher = fleet.federation.launcher
    run = launcher.prepare(make_plan(rounds=2, minimum=20, deadline_s=START_S), name="twenty")
    launcher.start(run)
    wait_until(lambda: run.record().status != "running", what="the run ends", timeout_s=2 * START_S)
    assert run.record().status == "completed", run.record().reason
    rounds = [event for event in run.events() if event.event == "round"]
    assert [(event.round, event.answered, event.missing, event.refused) for event in rounds] == [
        (1, 20, 0, 0),
        (2, 20, 0, 0),
    ]
    assert len(run.contributors()) == 20
    check_logs(fleet)


def test_fifty_members_connect_at_once_and_each_answers(tmp_path: Path, processes: Processes) -> None:
    fleet = start(tmp_path, processes, members=names(50))
    for home in fleet.federation.members.values():
        processes.start_agent(home)
    wait_until(lambda: all(connections(fleet).values()), what="all are connected", timeout_s=START_S)
    check_logs(fleet)
    with ScriptedCoordinator(fleet.federation) as coordinator:
        ask_all(fleet, coordinator)
    # All of them come back within the same seconds.
    fleet.processes.running["fleet"].send_signal(signal.SIGTERM)
    assert fleet.processes.running["fleet"].wait(120) == 0
    processes.start_fleet(fleet.federation)
    wait_until(
        lambda: min(connections(fleet).values()) >= 2, what="all are connected again", timeout_s=START_S
    )
    with ScriptedCoordinator(fleet.federation) as coordinator:
        ask_all(fleet, coordinator)
    check_logs(fleet)
    assert re.search(r"Cancel [1-9]", processes.log("fleet")) is None


def ask_all(fleet: Fleet, coordinator: ScriptedCoordinator) -> None:
    """Ask every member something that it answers with a code, without starting what it trains with."""
    request = coordinator.request(make_plan(), signature=b"x" * 64)
    for node in fleet.nodes.values():
        coordinator.ask(node, request)
    answers = coordinator.collect(count=len(fleet.nodes), timeout_s=START_S)
    assert {answer.node_id for answer in answers} == set(fleet.nodes.values())
    assert {answer.answer for answer in answers} == {Refusal(RefusalCode.BAD_REQUEST)}
