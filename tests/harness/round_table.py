"""A round loop's surroundings without a network and without waiting: members that behave as their script says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from databases import run_store

from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import Refusal, TrainRequest, TrainUpdate
from ringfence.server.round_channel import Arrival
from ringfence.server.round_loop import RosterMember, RoundLoop
from ringfence.server.run_store import Run, SignedPlan

DIMENSION = 4
QUESTION_BYTES, ANSWER_BYTES = 1000, 10
Answer = TrainUpdate | Refusal | None
Behaviour = Callable[[TrainRequest, int], "Answer | Late | Lost | Gone | Silent"]


@dataclass(frozen=True)
class Late:
    """The answer comes so many seconds after the question."""

    after_s: float
    answer: Answer


@dataclass(frozen=True)
class Lost:
    """The question was lost on its way: no answer ever comes."""


@dataclass(frozen=True)
class Silent:
    """The member has the question and never answers."""


@dataclass(frozen=True)
class Gone:
    """Flower says that the member is not connected."""


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alarms: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [alarm for alarm in self.alarms if alarm[0] <= self.now]
        self.alarms = [alarm for alarm in self.alarms if alarm[0] > self.now]
        for _, action in due:
            action()

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds after the start."""
        self.alarms.append((1000.0 + seconds, action))


@dataclass
class FakeChannel:
    """Members by node id, each with its behaviour: called with the question and how often it was asked before."""

    clock: FakeClock
    behaviours: dict[int, Behaviour]
    offline: set[int] = field(default_factory=set)
    asked: list[tuple[float, int, TrainRequest]] = field(default_factory=list)
    _due: list[tuple[float, Arrival]] = field(default_factory=list)

    def online(self) -> set[int]:
        return set(self.behaviours) - self.offline

    def ask(self, requests: Mapping[int, TrainRequest], *, time_to_live_s: float) -> int:
        assert time_to_live_s > 0
        for node, request in requests.items():
            before = sum(
                1 for _, asked, earlier in self.asked if asked == node and earlier.round == request.round
            )
            self.asked.append((self.clock.now, node, request))
            if node in self.offline:
                continue
            done = self.behaviours[node](request, before)
            if isinstance(done, Lost | Silent):
                continue
            if isinstance(done, Gone):
                self._due.append((self.clock.now, Arrival(node, None, gone=True, round=request.round)))
            elif isinstance(done, Late):
                self._due.append(
                    (
                        self.clock.now + done.after_s,
                        Arrival(node, done.answer, round=request.round, size_bytes=ANSWER_BYTES),
                    )
                )
            else:
                self._due.append(
                    (self.clock.now, Arrival(node, done, round=request.round, size_bytes=ANSWER_BYTES))
                )
        return QUESTION_BYTES * len(requests)

    def collect(self) -> Iterable[Arrival]:
        arrived = [arrival for at, arrival in self._due if at <= self.clock.now]
        self._due = [waiting for waiting in self._due if waiting[0] > self.clock.now]
        return arrived

    def times_asked(self, node: int, *, round_: int) -> int:
        return sum(1 for _, asked, request in self.asked if asked == node and request.round == round_)


def update(request: TrainRequest, *values: int, **changes: object) -> TrainUpdate:
    """Return the right answer to a question, or one with some fields changed."""
    import hashlib

    fields: dict[str, object] = {
        "run": request.run,
        "plan_digest": hashlib.sha256(request.plan).hexdigest(),
        "round": request.round,
        "attempt": request.attempt,
        "update": np.array(values or (1 << 32,) * DIMENSION, dtype=np.int64),
    }
    return TrainUpdate(**{**fields, **changes})  # type: ignore[arg-type]


def steps(*values: float) -> tuple[int, ...]:
    """Return grid steps for changes of parameters."""
    return tuple(int(value * 2**32) for value in values)


def honest(request: TrainRequest, before: int) -> Answer:
    return update(request)


def table_plan(
    *, rounds: int = 3, minimum: int = 2, deadline_s: float = 60.0, attempts: int = 2, averaging: str = "last"
) -> Plan:
    return Plan(
        name="table",
        federation="table",
        training=TrainingTerms(feature_set_sha256="0" * 64, rounds=rounds, averaging=averaging),  # type: ignore[arg-type]
        privacy=PrivacyTerms(noise_multiplier=1.0),
        cohort=CohortTerms(minimum=minimum, round_deadline_s=deadline_s, attempts=attempts),
    )


@dataclass
class Table:
    """A run, its members and its time."""

    folder: Path
    run: Run
    channel: FakeChannel
    clock: FakeClock
    roster: dict[int, RosterMember]

    def loop(self) -> RoundLoop:
        return RoundLoop(self.run, channel=self.channel, roster=lambda: dict(self.roster), clock=self.clock)

    def events(self, kind: str) -> list[tuple[int, int, int, int]]:
        """Return round, answered, missing and refused of each event of a kind."""
        return [
            (event.round, event.answered, event.missing, event.refused)
            for event in self.run.events()
            if event.event == kind
        ]


def lay_table(folder: Path, *behaviours: Behaviour, plan: Plan | None = None, name: str = "run") -> Table:
    """Lay out a run whose members 1, 2, 3, ... behave as told; their size classes are 1, 2, 4, ..."""
    clock = FakeClock()
    run = run_store(folder).create(
        name,
        signed=SignedPlan(plan=plan or table_plan(), signature=b"s" * 64),
        initial=np.zeros(DIMENSION),
    )
    members = dict(enumerate(behaviours, start=1))
    roster = {node: RosterMember(id=f"member-{node}", size_class=2 ** (node - 1)) for node in members}
    return Table(folder, run, FakeChannel(clock, members), clock, roster)
