"""What goes wrong between a member and its coordinator, and none of it ends a run, loses a member or charges it twice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cut_network import CuttableNetwork
from federation_harness import Processes, coordinator_command, make_federation, wait_until
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
    run = faulty.federation.start_run()
    wait_until(lambda: run.rounds_done() >= 1, what="members answer")
    trap = faulty.federation.traps("acme").arm(place)
    trap.wait()
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
