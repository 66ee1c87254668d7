"""The whole federation on one machine, through the same command lines that its people use.

A coordinator and member companies, each a process with a folder of its own; mutual TLS between them; nothing in common
but what goes over the wire.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ringfence.client.policy import Policy, default_policy
from ringfence.client.policy_rules import BudgetRules
from ringfence.client.policy_text import save_policy
from ringfence.demo.company_data import write_jsonl
from ringfence.demo.demo_folder import DemoFolder
from ringfence.demo.processes import COORDINATOR, MEMBER, Processes
from ringfence.model.errors import DeadlineError, RingfenceError
from ringfence.model.plan import Plan
from ringfence.model.settings_file import toml_text
from ringfence.model.simulation import CompanyData
from ringfence.privacy.training import nearest_size_class
from ringfence.server.aggregation import published_model
from ringfence.server.run_store import Run, RunStore

FEDERATION = "demo"
VERSION = "0.1.0"
CONTRIBUTION_BOUND = 2
_START_S = 60.0
_RUNS_FOR_LIFE = 4
_POLL_S = 0.1
Item = TypeVar("Item")


@dataclass(slots=True)
class Federation:
    """A running demonstration federation.

    Attributes:
        folder: where everything lies.
        processes: owns what runs.
        epsilon: of a run; members allow it once, and four times as much for life.
        size_classes: by company, as declared when joining.
    """

    folder: DemoFolder
    processes: Processes
    epsilon: float
    size_classes: dict[str, int] = field(default_factory=dict)

    def found(self, companies: Sequence[CompanyData], *, threshold: int) -> None:
        """Set up coordinator and members, agree on who approves releases, and start every process.

        Args:
            companies: what each member has.
            threshold: members that must countersign a release.
        """
        fleet, releases, enrolment = _free_ports(3)
        self._coordinate(
            "init",
            FEDERATION,
            "--demonstration",
            *("--fleet-address", f"127.0.0.1:{fleet}"),
            *("--release-address", f"127.0.0.1:{releases}"),
            *("--enrolment-address", f"127.0.0.1:{enrolment}"),
        )
        self.processes.start(
            "coordinator", [*COORDINATOR, "serve", "--home", str(self.folder.coordinator.root)]
        )
        self._wait_for(lambda: _listens(enrolment), "the coordinator did not serve")
        self._each(companies, self._join)
        self._agree_on_trust(threshold)
        for company in companies:
            home = self.folder.member(company.name)
            self.processes.start(company.name, [*MEMBER, "agent", "run", "--home", str(home.root)])
        self._wait_for(self._all_connected, "the members did not connect")

    def run(self, plan: Plan) -> Iterator[int]:
        """Start a run, and yield the number of rounds that are done as they are.

        Raises:
            RingfenceError: the run failed, or a process ended.
        """
        text = "# The plan of the demonstration's run.\n" + toml_text(plan.model_dump(mode="json"))
        self.folder.plan_file.write_text(text)
        started = json.loads(self._coordinate("run", "start", str(self.folder.plan_file), "--json"))
        run = RunStore.of(self.folder.coordinator).open(started["data"]["run"])
        deadline = time.monotonic() + plan.training.rounds * plan.cohort.round_deadline_s + _START_S
        done = 0
        while done < plan.training.rounds:
            self.processes.check()
            record = run.record()
            if record.status not in ("created", "running", "completed"):
                raise RingfenceError(f"The run {run.name} {record.status}: {record.reason}")
            if time.monotonic() > deadline:
                raise DeadlineError(f"The run {run.name} did not end in time.")
            reached = run.rounds_done()
            yield from range(done + 1, reached + 1)
            done = reached
            time.sleep(_POLL_S)
        self._wait_for(lambda: run.record().status == "completed", f"the run {run.name} did not complete")

    def latest_run(self) -> Run:
        """Return the run that was carried out."""
        return RunStore.of(self.folder.coordinator).all()[-1]

    def published_parameters(self) -> NDArray[np.float64]:
        """Return the model that the run published, (d,) float64."""
        run = self.latest_run()
        return published_model(run.history(), averaging=run.signed_plan().plan.training.averaging)

    def release(self, *, threshold: int) -> Path:
        """Publish what the run trained, countersigned by members; have every member pull and verify it.

        Returns the folder of the release at the first member.
        """
        run = self.latest_run().name
        candidate = json.loads(self._coordinate("release", "candidate", run, "--version", VERSION, "--json"))
        name = candidate["data"]["candidate"]
        signers = self.folder.members[:threshold]
        self._each(
            signers,
            lambda member: self._member(member, "model", "pull", "--channel", "candidate", "--version", name),
        )
        drafted = json.loads(self._coordinate("release", "draft", VERSION, "--candidate", name, "--json"))
        self._each(
            signers, lambda member: self._member(member, "approve", "sign", drafted["data"]["draft"], "--yes")
        )
        self._coordinate("release", "publish")
        self._each(self.folder.members, lambda member: self._member(member, "model", "pull", "--use"))
        self._each(self.folder.members, lambda member: self._member(member, "model", "verify", VERSION))
        shown = json.loads(self._member(self.folder.members[0], "model", "show", "--json"))
        return Path(shown["data"]["folder"])

    def score(self, member: str) -> list[float]:
        """Return the scores of a company's held-out conversations, by its installed release, in the file's order."""
        lines = self._member(member, "score", str(self.folder.held_out_file(member)), "--json").splitlines()
        return [row["probability"] for row in _score_rows(lines)]

    def _join(self, company: CompanyData) -> None:
        home = self.folder.member(company.name).create()
        size_class = nearest_size_class(len(company.train))
        self.size_classes[company.name] = size_class
        data = home.root / "conversations.jsonl"
        write_jsonl(data, company.train)
        write_jsonl(self.folder.held_out_file(company.name), company.test)
        save_policy(home, policy=self._policy(), replace=True)
        invited = json.loads(self._coordinate("member", "invite", company.name, "--json"))
        self._member(
            company.name,
            *("join", invited["data"]["invitation"]),
            *("--data", str(data), "--size-class", str(size_class)),
        )

    def _agree_on_trust(self, threshold: int) -> None:
        drafted = json.loads(self._coordinate("trust", "draft", "--threshold", str(threshold), "--json"))
        draft = drafted["data"]["draft"]
        self._each(
            self.folder.members, lambda member: self._member(member, "approve", "sign", draft, "--yes")
        )
        self._coordinate("trust", "publish")

    def _policy(self) -> Policy:
        """Return a policy for invented data that budgets like a real one: this run, and room for three more."""
        run, several, life = self.epsilon * 1.001, self.epsilon * 2, self.epsilon * _RUNS_FOR_LIFE
        budget = BudgetRules(
            lifetime_epsilon=life,
            lifetime_epsilon_fallback=life,
            run_epsilon=run,
            run_epsilon_fallback=run,
            run_epsilon_on_platforms=several,
        )
        return default_policy(federation=FEDERATION, demonstration=True).model_copy(update={"budget": budget})

    def _all_connected(self) -> bool:
        return all(
            "connected to" in (self.folder.logs / f"{member}.log").read_text(errors="replace")
            for member in self.folder.members
        )

    def _wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _START_S
        while not condition():
            self.processes.check()
            if time.monotonic() > deadline:
                raise DeadlineError(f"Within {_START_S:.0f} s {otherwise}.", hint=f"See {self.folder.logs}.")
            time.sleep(_POLL_S)

    def _coordinate(self, *words: str) -> str:
        return self.processes.call([*COORDINATOR, *words, "--home", str(self.folder.coordinator.root)])

    def _member(self, member: str, *words: str) -> str:
        return self.processes.call(
            [*MEMBER, *words, "--home", str(self.folder.member(member).root)], timeout_s=120.0
        )

    @staticmethod
    def _each(items: Sequence[Item], step: Callable[[Item], object]) -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(step, items))


def _score_rows(lines: Sequence[str]) -> list[dict[str, float]]:
    return [json.loads(line) for line in lines]


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
