"""The federation as its people run it: one coordinator, three agents, real processes, and what kills them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from federation_harness import (
    MadeFederation,
    Processes,
    accepts,
    coordinator_command,
    end_with_children,
    make_federation,
    make_plan,
    wait_until,
)

from ringfence.model.plan import Plan
from ringfence.model.settings_file import toml_text
from ringfence.server.run_store import Run, RunStore


@dataclass(frozen=True)
class Running:
    """A federation that serves, with its agents connected."""

    federation: MadeFederation
    processes: Processes

    def serve(self) -> None:
        self.processes.start(
            "serve", coordinator_command("serve", "--home", self.federation.coordinator.root)
        )
        wait_until(lambda: accepts(self.federation.settings.fleet_address), what="the gateway listens")

    def start_run(self, plan: Plan, name: str) -> Run:
        file = self.federation.root / f"{name}.toml"
        file.write_text(toml_text(plan.model_dump(mode="json")))
        wait_until(lambda: self.command("run", "start", file, "--name", name, "--json")[0] == 0, what=name)
        return RunStore.of(self.federation.coordinator, settings=self.federation.settings).open(name)

    def command(self, *arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [*coordinator_command(*arguments), "--home", str(self.federation.coordinator.root)],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return done.returncode, done.stdout

    def rounds(self, run: Run) -> list[tuple[int, int]]:
        """Return round and answers of each finished round."""
        return [(event.round, event.answered) for event in run.events() if event.event == "round"]

    def log(self, name: str) -> str:
        return self.processes.log(name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("federation")
    federation = make_federation(root)
    with Processes(root / "logs") as processes:
        made = Running(federation, processes)
        made.serve()
        for home in federation.members.values():
            processes.start_agent(home)
        wait_until(lambda: len(federation.register()) == 3, what="members are known")
        yield made


def listening(process: subprocess.Popen[bytes]) -> set[tuple[str, int]]:
    """Return what a process and everything below it listen on, as ``ss -ltnp`` would."""
    found = set()
    for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a child that ended meanwhile listens nowhere
            for connection in one.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type.name == "SOCK_DGRAM":
                    found.add((connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port))
    return found


def check_listeners(running: Running) -> None:
    """Members listen nowhere; the coordinator on its two addresses, and for itself on loopback only."""
    for name in running.federation.members:
        agent = running.processes.running[f"agent-{name}"]
        assert psutil.Process(agent.pid).children(recursive=True), "the worker is there to be looked at"
        assert listening(agent) == set()
    private = (running.federation.coordinator.flower / "private.address").read_text()
    settings = running.federation.settings
    expected = {settings.fleet_address, settings.release_address, settings.enrolment_address}
    serving = listening(running.processes.running["serve"])
    assert {f"{ip}:{port}" for ip, port in serving} == expected | {private}
    assert private.startswith("127.0.0.1:")


def test_members_listen_nowhere_and_one_that_is_killed_in_a_run_is_left_out_and_may_come_back(
    running: Running,
) -> None:
    # Enough that the run is not over before the agent is killed, however fast the machine is.
    rounds = 40
    run = running.start_run(make_plan(rounds=rounds, minimum=2, deadline_s=15, attempts=5), "one-less")
    wait_until(lambda: run.rounds_done() >= 1, what="a round is done")
    check_listeners(running)
    end_with_children(running.processes.running["agent-gamma"])
    reached = run.rounds_done()
    assert reached + 2 <= rounds, "the agent was killed in the midst of the run"
    wait_until(lambda: run.rounds_done() > reached + 1, what="rounds go on without it")
    said_before = len(running.log("agent-gamma"))
    running.processes.start_agent(running.federation.members["gamma"])
    code, output = running.command("run", "watch", "one-less", "--json", "--timeout", 150)
    assert code == 0, output
    assert json.loads(output)["data"]["status"] == "completed"
    answered = running.rounds(run)
    assert [round_ for round_, _ in answered] == list(range(1, rounds + 1))
    assert min(count for _, count in answered) == 2
    wait_until(lambda: "connected to" in running.log("agent-gamma")[said_before:], what="gamma is back")
    # Flower counts a killed node as connected for up to a minute, and lets it in at once all the same.
    assert "Next try" not in running.log("agent-gamma")[said_before:].partition("connected to")[0]


def test_a_coordinator_that_is_killed_in_a_run_goes_on_with_it_when_it_serves_again(
    running: Running,
) -> None:
    run = running.start_run(make_plan(rounds=4, minimum=2, deadline_s=20, attempts=5), "power-cut")
    wait_until(lambda: run.rounds_done() >= 1, what="a round is done")
    end_with_children(running.processes.running["serve"])
    before = [model.tobytes() for model in run.history()]
    wait_until(lambda: not run.has_worker(), what="nobody works on the run")
    running.serve()
    code, output = running.command("run", "watch", "power-cut", "--json", "--timeout", 150)
    assert code == 0, output
    history = run.history()
    assert len(history) == 5
    assert [model.tobytes() for model in history[: len(before)]] == before
    assert [round_ for round_, _ in running.rounds(run)] == [1, 2, 3, 4]
    # Whatever was asked twice was answered once: no member spent privacy twice on one round.
    for name, home in running.federation.members.items():
        charged = charges_of(home.ledger_file, run="power-cut")
        assert len(charged) == len(set(charged)), name
        assert len(charged) <= 4, name
    assert sum(len(charges_of(home.ledger_file, run="power-cut")) for home in members(running)) >= 8


def test_nothing_that_went_wrong_left_a_traceback_or_a_word_of_a_conversation(running: Running) -> None:
    for log in running.processes.logs.glob("*.log"):
        content = log.read_text(errors="replace")
        assert "Traceback" not in content, log.name
        assert "please keep this" not in content, log.name
    for path in running.federation.coordinator.root.rglob("*"):
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # a database's side file that went meanwhile
                assert b"please keep this" not in path.read_bytes(), path.name


def members(running: Running) -> list:
    return list(running.federation.members.values())


def charges_of(ledger: Path, *, run: str) -> list[str]:
    """Return the keys of a run's charges in a member's ledger."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT key FROM entry WHERE kind = 'charge'").fetchall()
    return [key for (key,) in rows if f"/{run}" in key]
