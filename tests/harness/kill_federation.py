"""A whole federation that is killed piece by piece, and what must be true of its runs and budgets afterwards."""

from __future__ import annotations

import itertools
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
from federation_harness import (
    MadeFederation,
    Processes,
    accepts,
    coordinator_command,
    make_plan,
    member_command,
    wait_until,
)
from trap_harness import Traps

from ringfence.client.stored_answer import StoredAnswer, question_digest
from ringfence.model.plan import PrivacyTerms
from ringfence.model.round_messages import TrainRequest
from ringfence.privacy.update_grid import dequantise_update
from ringfence.server.aggregation import average_updates
from ringfence.server.run_store import Run

ROUNDS = 4
TRAPPED = "acme"
_MARKS = {
    "fleet": "serve-fleet",
    "control": "serve-releases",
    "superexec": "flower_superexec",
    "serverapp": "flwr-serverapp",
}
PROCESSES = ("fleet", "superexec", "control", "worker", "agent", "serverapp", "coordinator")
_ROUND_OF_KEY = re.compile(r"/round/(\d+)/attempt/(\d+)$")


@dataclass
class KillFederation:
    """A coordinator and its members, each a tree of processes; acme and the coordinator can be held at a place."""

    federation: MadeFederation
    processes: Processes
    _runs: itertools.count = field(default_factory=lambda: itertools.count(1))

    def traps(self, tree: str) -> Traps:
        return Traps(self.federation.root / "traps" / tree)

    def serve(self) -> None:
        command = coordinator_command("serve", "--home", self.federation.coordinator.root)
        self.processes.start("serve", command, environment=self.traps("coordinator").environment())
        wait_until(lambda: accepts(self.federation.settings.fleet_address), what="the gateway listens")

    def start_agent(self, name: str, *, clock_skew_s: int = 0) -> None:
        home = self.federation.members[name].root
        command = member_command("agent", "run", "--home", home, "--poll", 0.1)
        environment = dict(self.traps(name).environment()) if name == TRAPPED else {}
        if clock_skew_s:
            environment["RINGFENCE_TEST_CLOCK_SKEW_S"] = str(clock_skew_s)
        self.processes.start(f"agent-{name}", command, environment=environment)

    def start_run(self, *, minimum: int | None = None, rounds: int = ROUNDS) -> Run:
        plan = make_plan(
            rounds=rounds,
            minimum=minimum or len(self.federation.members),
            deadline_s=15,
            attempts=20,
            privacy=PrivacyTerms(noise_multiplier=5000.0),
        )
        launcher = self.federation.launcher
        wait_until(lambda: launcher.control().node_ids(), what="Flower answers")
        run = launcher.prepare(plan, name=f"run-{next(self._runs)}")
        wait_until(lambda: launcher.start(run) is None, what="the run starts")
        return run

    @contextmanager
    def run_after_round_one(self, **terms: int) -> Iterator[Run]:
        """Start a run and hold it after its first round while the block prepares what is to happen in the next ones."""
        trap = self.traps("coordinator").arm("after-checkpoint")
        try:
            run = self.start_run(**terms)
            trap.wait(or_until=lambda: run.record().status != "running")
            yield run
        finally:
            trap.release()

    def wait_for_end(self, run: Run) -> None:
        wait_until(lambda: run.record().status != "running", what="the run ends", timeout_s=240)
        assert run.record().status == "completed", run.record().reason

    def find(self, process: str) -> psutil.Process | None:
        """Return the one process of a kind, of the coordinator's tree or of acme's; None while there is none or two."""
        if process in ("coordinator", "agent", "worker"):
            top = psutil.Process(
                self.processes.running["serve" if process == "coordinator" else f"agent-{TRAPPED}"].pid
            )
            marked = (
                [top] if process != "worker" else [one for one in top.children() if _is(one, "spawn_main")]
            )
        else:
            marked = self._of_coordinator(process)
        return marked[0] if len(marked) == 1 else None

    def _of_coordinator(self, *kinds: str) -> list[psutil.Process]:
        # By the mark of the command and the folder, not by parentage: a child outlives its parent.
        home = str(self.federation.coordinator.root)
        return [
            one for one in psutil.process_iter() if any(_is(one, _MARKS[kind], home=home) for kind in kinds)
        ]

    def find_at_work(self, process: str) -> psutil.Process | None:
        """Return the one process of a kind once it does its work: not what a killed coordinator left, not one that starts."""
        found = self.find(process)
        if found is None or process not in ("fleet", "control", "superexec"):
            return found
        try:
            if found.ppid() != self.processes.running["serve"].pid:
                return None
            return found if process != "fleet" or self._listens(found) else None
        except psutil.NoSuchProcess:
            return None

    def _listens(self, gateway: psutil.Process) -> bool:
        port = int(self.federation.settings.fleet_address.rpartition(":")[2])
        return any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port
            for one in gateway.net_connections(kind="tcp")
        )

    def kill(self, process: str) -> None:
        """Kill one process and nothing else, as the system does when it is out of memory."""
        killed: list[psutil.Process] = []

        def is_killed() -> bool:
            victim = self.find_at_work(process)
            if victim is not None:
                with suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile: somebody follows it
                    victim.send_signal(signal.SIGKILL)
                    killed.append(victim)
            return bool(killed)

        wait_until(is_killed, what=f"{process} is there to be killed")
        wait_until(lambda: _is_dead(killed[0]), what=f"{process} is dead", timeout_s=60)

    def restart(self, process: str) -> None:
        """Start again what nobody of ours starts: on a member's or coordinator's host, systemd does."""
        if process == "agent":
            self.processes.running[f"agent-{TRAPPED}"].wait(60)
            self.start_agent(TRAPPED)
        elif process == "coordinator":
            self.processes.running["serve"].wait(60)
            # systemd begins when the whole unit is gone; what a killed coordinator leaves takes a moment to end.
            wait_until(lambda: not self._of_coordinator(*_MARKS), what="what the coordinator left is gone")
            self.serve()

    def start_what_is_missing(self) -> None:
        """Start again what a test that failed between a kill and a restart left dead."""
        for process, name in (("agent", f"agent-{TRAPPED}"), ("coordinator", "serve")):
            if self.processes.running[name].poll() is not None:
                self.restart(process)

    def check(self, run: Run, *, complete: bool = True) -> None:
        """Hold a completed run against the members' outboxes: the right model, from the right questions, charged once.

        The model after each round must be what an uninterrupted round would have made of the stored answers: of everybody's
        if ``complete``, otherwise of as many as the round counted.
        """
        signed, history = run.signed_plan(), run.history()
        rounds = range(1, signed.plan.training.rounds + 1)
        assert len(history) == len(rounds) + 1
        counted = {event.round: event.answered for event in run.events() if event.event == "round"}
        answers: dict[int, dict[str, StoredAnswer]] = {round_: {} for round_ in rounds}
        for name, home in self.federation.members.items():
            charged, stored = outbox(home.ledger_file, run=run.name)
            assert len(charged) == len(set(charged)), (name, "charged once a round")
            if complete:
                assert set(charged) == set(rounds), (name, "charged for every round")
            for round_, payload in stored.items():
                answers[round_][name] = StoredAnswer.decode(payload)
        for round_, given in answers.items():
            before = history[round_ - 1]
            request = TrainRequest(
                run=run.name,
                plan=signed.plan.canonical_json(),
                signature=signed.signature,
                round=round_,
                attempt=1,
                parameters=before,
            )
            assert {answer.question for answer in given.values()} == {question_digest(request)}
            uninterrupted = {
                average_updates(
                    before,
                    updates={name: dequantise_update(given[name].update.update) for name in cohort},
                    size_classes=run.contributors(),
                ).tobytes()
                for cohort in itertools.combinations(given, len(given) if complete else counted[round_])
            }
            assert history[round_].tobytes() in uninterrupted, f"the model after round {round_}"


def outbox(ledger, *, run: str) -> tuple[list[int], dict[int, bytes]]:
    """Return the round of each charge of a run, and the stored answer of each round."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30) as database:
        charges = database.execute("SELECT key FROM entry WHERE kind = 'charge' ORDER BY seq").fetchall()
        stored = dict(database.execute("SELECT key, payload FROM outbox").fetchall())
    mine = [key for (key,) in charges if f"/{run}/round/" in key]
    return [_round_of(key) for key in mine], {_round_of(key): stored[key] for key in mine}


def _round_of(key: str) -> int:
    found = _ROUND_OF_KEY.search(key)
    assert found is not None, key
    return int(found[1])


def _is(process: psutil.Process, mark: str, *, home: str = "") -> bool:
    try:
        command, environment = process.cmdline(), process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(mark in part for part in command) and home in environment.get("RINGFENCE_COORDINATOR_HOME", "")


def _is_dead(process: psutil.Process) -> bool:
    """Return whether a process has ended, whether or not its parent has asked for its exit status."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
