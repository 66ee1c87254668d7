"""Many members in one process: how well, how fast and how private a federation of this size would be.

The coordinator's round loop and the member's installed app are the real ones, on the real noise; only the network between
them is left out. The conversations are invented and follow the seed. The noise follows nothing: two runs differ.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from ringfence.client.local_data import load_labelled, training_rows
from ringfence.client.member_settings import load_member_settings
from ringfence.demo.company_data import simulated_companies
from ringfence.demo.local_grid import LocalGrid
from ringfence.demo.ray_engine import carry_out_on_ray, check_ray
from ringfence.demo.reference_rows import HeldOut, QualityRow, train_alone
from ringfence.demo.simulated_federation import SimulatedFederation, lay_out, simulation_plan
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import PrivacyStatement, epsilon_of
from ringfence.server.aggregation import published_model
from ringfence.server.evaluation import Evaluation
from ringfence.server.flower_adapter import quieten_flower
from ringfence.server.round_channel import GridChannel, RoundChannel
from ringfence.server.round_loop import Clock, RosterMember, RoundLoop
from ringfence.server.run_store import event_now

Engine = Literal["local", "ray"]
FEATURE_SET = "static-128"
COMPANIES_ALONE = 10
"""Companies whose lonely training is measured: judging everyone on everyone's data grows with the square."""

_FIRST_NODE_ID = 1000
_SKIPPED_S = 5.0


@dataclass(frozen=True, slots=True)
class SimulationTerms:
    """What to simulate.

    Attributes:
        members: companies, at least 1.
        rounds: aggregations, 1 to 1,000.
        conversations: that each company trains on, at least 10.
        epsilon: for a person at one company, over the whole run, above 0.
        seed: decides the conversations and nothing else.
    """

    members: int = 10
    rounds: int = 5
    conversations: int = 60
    epsilon: float = 8.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What happened in one round.

    Attributes:
        answered: members whose updates were used.
        missing: members whose app failed.
        refused: members that answered with a code.
        seconds: of this machine's time, from the end of the round before.
    """

    answered: int
    missing: int
    refused: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What a simulation found.

    Attributes:
        plan: that was carried out.
        rows: quality on the held-out conversations of all companies: the public head, companies alone, federated.
        rounds: what happened, in order. The first includes reading conversations and computing features.
        statement: what the plan promises a person.
        peak_memory_mib: the most that this process held so far.
    """

    plan: Plan
    rows: tuple[QualityRow, ...]
    rounds: tuple[RoundOutcome, ...]
    statement: PrivacyStatement
    peak_memory_mib: float


def simulate_federation(
    terms: SimulationTerms, *, folder: Path, engine: Engine = "local", report: Callable[[str], None]
) -> SimulationResult:
    """Invent the companies, train, and judge the result.

    Args:
        terms: what to simulate.
        folder: to work in; empty. It holds the conversations afterwards.
        engine: where the members run.
        report: is told each phase in a line.

    Raises:
        ConfigError: the plan cannot be made, or the engine is not installed. The caller's to mend.
        DataError: numbers that make no companies. The caller's to mend.
        DeadlineError: too few members answered a round.
    """
    if engine == "ray":
        check_ray()
    features = load_feature_set(FEATURE_SET)
    plan = simulation_plan(
        members=terms.members, rounds=terms.rounds, epsilon=terms.epsilon, feature_set=features
    )
    report(f"Inventing {terms.members} companies with {terms.conversations} conversations each.")
    companies = simulated_companies(
        members=terms.members, conversations=terms.conversations, seed=terms.seed
    ).companies
    federation = lay_out(folder, plan=plan, companies=companies)
    held_out = HeldOut(features, {company.name: company.test for company in companies})
    del companies  # what members train on, they read from their own folders
    report(f"Training for {terms.rounds} rounds with noise for epsilon {terms.epsilon:g}.")
    rounds = carry_out(federation, engine=engine)
    report("Judging on held-out conversations of every company.")
    return SimulationResult(
        plan=plan,
        rows=judge(federation, held_out=held_out, feature_set=features),
        rounds=rounds,
        statement=epsilon_of(plan),
        peak_memory_mib=peak_memory_mib(),
    )


def carry_out(
    federation: SimulatedFederation, *, engine: Engine = "local", app: ClientApp | None = None
) -> tuple[RoundOutcome, ...]:
    """Carry out the federation's run with the coordinator's own round loop; return what happened in each round.

    Args:
        federation: as laid out.
        engine: where the members run.
        app: the members' app; the installed one by default (only on the engine "local").

    Raises:
        DeadlineError: too few members answered a round.
        ConfigError: the engine is not installed. The operator's to mend.
    """
    quieten_flower()
    run = federation.run
    run.add_event(event_now("started"))
    with run.work():
        if engine == "ray":
            _carry_out_on_ray(federation)
        else:
            _carry_out_here(federation, app)
    return _outcomes(federation)


def judge(
    federation: SimulatedFederation, *, held_out: HeldOut, feature_set: FeatureSet
) -> tuple[QualityRow, ...]:
    """Return the quality of the public head, of companies by themselves with the same privacy, and of the federation."""
    plan, history = federation.plan, federation.run.history()
    alone = [
        held_out.judge(
            name,
            _trained_alone(federation, name, feature_set=feature_set),
            plan=plan,
            privacy=True,
        )
        for name in list(federation.members)[:COMPANIES_ALONE]
    ]
    federated = published_model(history, averaging=plan.training.averaging)
    count = len(alone)
    return (
        held_out.judge("public head, before any training", history[0], plan=plan, privacy=None),
        QualityRow(
            name="one company alone" if count == 1 else f"one company alone, mean of {count}",
            auroc=float(np.mean([row.auroc for row in alone])),
            average_precision=float(np.mean([row.average_precision for row in alone])),
            privacy=True,
        ),
        held_out.judge(f"federated, {len(federation.members)} companies", federated, plan=plan, privacy=True),
    )


def peak_memory_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class ClockThatSkips(Clock):
    """The machine's time, in which waiting takes none: on the engine "local" nothing happens while the loop sleeps."""

    def __init__(self) -> None:
        self._skipped_s = 0.0

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic() + self._skipped_s

    def sleep(self, seconds: float) -> None:
        """Skip at least five seconds, so that the loop soon gives up on a member whose app fails."""
        self._skipped_s += max(seconds, _SKIPPED_S)


def _carry_out_here(federation: SimulatedFederation, app: ClientApp | None) -> None:
    nodes = dict(enumerate(federation.members, start=_FIRST_NODE_ID))
    roster = {
        node: RosterMember(id=name, size_class=federation.size_classes[name]) for node, name in nodes.items()
    }
    homes = {node: federation.members[name].root for node, name in nodes.items()}
    with LocalGrid(homes, app=app) as grid:
        channel = GridChannel(grid, group=federation.run.name)
        clock = ClockThatSkips()
        RoundLoop(federation.run, channel=channel, roster=lambda: roster, clock=clock).carry_out()
        Evaluation(federation.run, channel=channel, roster=lambda: roster, clock=clock).carry_out()


def _carry_out_on_ray(federation: SimulatedFederation) -> None:
    # The engine does not say which of its nodes is which member, so that only equal members can be weighed right.
    (size_class,) = set(federation.size_classes.values())

    def rounds(channel: RoundChannel) -> None:
        roster = {node: RosterMember(id=f"node-{node}", size_class=size_class) for node in channel.online()}
        RoundLoop(federation.run, channel=channel, roster=lambda: roster).carry_out()
        Evaluation(federation.run, channel=channel, roster=lambda: roster).carry_out()

    first = next(iter(federation.members.values()))
    carry_out_on_ray(rounds, folder=first.root.parent.parent, members=len(federation.members))


def _outcomes(federation: SimulatedFederation) -> tuple[RoundOutcome, ...]:
    outcomes = []
    before = None
    for event in federation.run.events():
        if event.event == "round" and before is not None:
            outcomes.append(
                RoundOutcome(
                    answered=event.answered,
                    missing=event.missing,
                    refused=event.refused,
                    seconds=(event.at - before).total_seconds(),
                )
            )
        if event.event in ("started", "round"):
            before = event.at
    return tuple(outcomes)


def _trained_alone(
    federation: SimulatedFederation, name: str, *, feature_set: FeatureSet
) -> NDArray[np.float64]:
    home = federation.members[name]
    settings = load_member_settings(home)
    rows = training_rows(
        home,
        conversations=load_labelled(home, settings),
        feature_set=feature_set,
        prefixes=federation.plan.training.prefixes,
        contribution_bound=federation.plan.privacy.contribution_bound,
        bounds=federation.plan.privacy.bounds,
    )
    return train_alone(
        rows,
        plan=federation.plan,
        initial=federation.run.history()[0],
        size_class=federation.size_classes[name],
    )
