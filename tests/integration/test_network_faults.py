"""What goes wrong between a member and its coordinator, and none of it ends a run, loses a member or charges it twice."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cut_network import CuttableNetwork
from federation_harness import Processes, coordinator_command, end_with_children, make_federation, wait_until
from kill_federation import KillFederation

from ringfence.client.member_settings import load_member_settings, save_member_settings

A_MINUTE_S = 60.0


@dataclass(frozen=True)
class Faulty:
    """A federation of acme, behind a network that can be cut, and beta."""

    federation: KillFederation
    network: CuttableNetwork

    def member(self, command: str, name: str) -> None:
        home = self.federation.federation.coordinator.root
        subprocess.run(coordinator_command("member", command, name, "--home", home), check=True, timeout=120)

    def log(self, name: str) -> str:
        return self.federation.processes.log(name)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    root = tmp_path_factory.mktemp("network-faults")
    made = make_federation(root, members=("acme", "beta"))
    with CuttableNetwork(made.settings.fleet_address) as network, Processes(root / "logs") as processes:
        acme = made.members["acme"]
        settings = load_member_settings(acme).model_copy(update={"fleet_address": network.address})
        save_member_settings(acme, settings=settings)
        federation = KillFederation(made, processes)
        federation.serve()
        for name in made.members:
            federation.start_agent(name)
        wait_until(lambda: len(made.register()) == 2, what="members are known")
        yield Faulty(federation, network)


def cut_while_held(faulty: Faulty, place: str, *, seconds: float) -> None:
    """Cut acme's network while it is at a place of a round, and mend it some time after something was held back."""
    with faulty.federation.run_after_round_one() as run:
        trap = faulty.federation.traps("acme").arm(place)
    trap.wait(or_until=lambda: run.record().status != "running")
    faulty.network.cut()
    try:
        trap.release()
        wait_until(lambda: faulty.network.held_back, what="acme speaks into the void")
        reached = run.rounds_done()
        time.sleep(seconds)
        assert run.rounds_done() <= reached + 1, "the round waits for acme, within its bounds"
    finally:
        faulty.network.mend()
    faulty.federation.wait_for_end(run)
    faulty.federation.check(run)


def test_a_network_that_is_cut_in_an_upload_costs_time_and_nothing_else(faulty: Faulty) -> None:
    cut_while_held(faulty, "in-upload", seconds=2.0)


@pytest.mark.slow
def test_a_network_that_is_cut_for_a_minute_costs_time_and_nothing_else(faulty: Faulty) -> None:
    cut_while_held(faulty, "before-pull", seconds=A_MINUTE_S)


@pytest.mark.slow
def test_a_run_goes_on_without_a_member_that_is_cut_off_and_takes_it_back(faulty: Faulty) -> None:
    with faulty.federation.run_after_round_one(minimum=1, rounds=20) as run:
        faulty.network.cut()
    try:
        reached = run.rounds_done()
        wait_until(lambda: run.rounds_done() >= reached + 2, what="rounds go on without acme")
    finally:
        faulty.network.mend()
    faulty.federation.wait_for_end(run)
    faulty.federation.check(run, complete=False)
    following = faulty.federation.start_run()
    faulty.federation.wait_for_end(following)
    faulty.federation.check(following)


@pytest.mark.slow
def test_a_member_that_is_suspended_in_the_middle_of_a_round_is_in_no_model_after_it(faulty: Faulty) -> None:
    with faulty.federation.run_after_round_one(minimum=1) as run:
        trap = faulty.federation.traps("acme").arm("in-training")
    trap.wait(or_until=lambda: run.record().status != "running")
    reached = run.rounds_done()
    faulty.member("suspend", "acme")
    trap.release()
    faulty.federation.wait_for_end(run)
    faulty.federation.check(run, complete=False)
    counted = {event.round: event.answered for event in run.events() if event.event == "round"}
    assert [counted[round_] for round_ in range(reached + 1, 5)] == [1] * (4 - reached)
    said = len(faulty.log("agent-acme"))
    faulty.member("resume", "acme")
    wait_until(lambda: "connected to" in faulty.log("agent-acme")[said:], what="acme is back")
    following = faulty.federation.start_run()
    faulty.federation.wait_for_end(following)
    faulty.federation.check(following)


@pytest.mark.slow
@pytest.mark.parametrize("skew_s", [-3600, 3600], ids=["an hour behind", "an hour ahead"])
def test_a_member_whose_clock_is_wrong_by_an_hour_is_told_so_and_takes_part_once_it_is_right(
    faulty: Faulty, skew_s: int
) -> None:
    federation = faulty.federation
    end_with_children(federation.processes.running["agent-acme"])
    said = len(faulty.log("agent-acme"))
    federation.start_agent("acme", clock_skew_s=skew_s)
    wait_until(
        lambda: "check that this machine's clock is right" in faulty.log("agent-acme")[said:],
        what="it is told",
    )
    assert "connected to" not in faulty.log("agent-acme")[said:]
    end_with_children(federation.processes.running["agent-acme"])
    federation.start_agent("acme")
    run = federation.start_run()
    federation.wait_for_end(run)
    federation.check(run)


@pytest.mark.slow
def test_a_coordinator_database_that_somebody_holds_for_a_while_ends_no_run(faulty: Faulty) -> None:
    """A backup tool that locks the file for longer than anybody's patience with it."""
    with faulty.federation.run_after_round_one() as run:
        pass
    file = faulty.federation.federation.coordinator.root / "coordinator.db"
    with sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=60, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(15.0)
        holder.execute("ROLLBACK")
    faulty.federation.wait_for_end(run)
    faulty.federation.check(run)
