"""A plan's promise as a table that a person reads: before a coordinator launches it, and before a member agrees to it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ringfence.model.errors import ConfigError
from ringfence.model.evidence import said_bound
from ringfence.model.head import parameter_count
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import PrivacyStatement, epsilon_of
from ringfence.privacy.ledger_terms import LedgerTerms, reserved_units
from ringfence.privacy.plan_solving import FixedTerms, solve
from ringfence.privacy.planning import MOST_NOISE
from ringfence.privacy.run_cost import RunCost, runs_within

USUAL_EPSILONS = (1.0, 2.0, 4.0)
"""For which the needed noise is shown unasked, where it costs nothing: for the full batch."""

_PRECISION = 1e-3


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a plan promises, and how often a lifetime budget allows it.

    Attributes:
        plan: the plan.
        statement: its epsilons.
        terms: the lifetime budget that it was held against.
        runs_in_lifetime: how many such runs a fresh ledger with these terms admits beside what is reserved.
        needed_noise: (epsilon, noise multiplier) for a person at one member, everything else as in the plan; None: no noise
            up to 10,000 suffices.
        reserved_share: of the lifetime budget, kept for something else than runs.
    """

    plan: Plan
    statement: PrivacyStatement
    terms: LedgerTerms
    runs_in_lifetime: int
    needed_noise: tuple[tuple[float, float | None], ...]
    reserved_share: float = 0.0

    def lines(self) -> list[str]:
        """Return the table, 18 lines at most."""
        plan, said = self.plan, self.statement
        privacy, training = plan.privacy, plan.training
        sampled = (
            "all conversations" if said.sample_rate == 1.0 else f"{said.sample_rate:.3g} of the conversations"
        )
        trains = f"{training.architecture} on {training.feature_set}"
        steps = f"{training.rounds} rounds x {training.local_steps} steps"
        noise = f"noise {privacy.noise_multiplier:g} ({privacy.noise})"
        if privacy.evaluation_noise_multiplier is not None:
            noise += f", evaluation noise {privacy.evaluation_noise_multiplier:g}"
        rows = [
            f"plan {plan.name} for {plan.federation}: {plan.purpose}",
            f"  digest      {plan.digest()}",
            f"  trains      {trains}, {steps}, {sampled} in each",
            f"  protects    a person {said_bound(said.contribution_bound, said.bounds)}, {noise}",
            f"  answers     {plan.aggregation}, {plan.cohort.minimum} members or more",
            f"epsilon at delta {said.delta:g}, by who works together against a person",
        ]
        rows += [f"  {who.epsilon:>8.2f}  {who.sees}" for who in said.adversaries]
        rows += ["epsilon against the coordinator with its members, by what is counted"]
        rows += [
            f"  {epsilon:>8.2f}  a person on {count} platform{'s' * (count > 1)}"
            for count, epsilon in said.epsilon_by_platforms
        ]
        rows += [f"  {said.epsilon_per_conversation:>8.2f}  one conversation", self._lifetime_line()]
        return [*rows, self._noise_line()] if self.needed_noise else rows

    def as_data(self) -> dict[str, object]:
        """Return everything as plain values, for machines."""
        return {
            "plan": self.plan.model_dump(mode="json"),
            "digest": self.plan.digest(),
            "statement": asdict(self.statement) | {"sentence": self.statement.sentence()},
            "lifetime_epsilon": self.terms.headline_epsilon,
            "lifetime_epsilon_fallback": self.terms.fallback_epsilon,
            "runs_in_lifetime": self.runs_in_lifetime,
            "needed_noise": [
                {"epsilon": epsilon, "noise_multiplier": noise} for epsilon, noise in self.needed_noise
            ],
        }

    def _lifetime_line(self) -> str:
        return (
            f"a lifetime budget of {self.terms.headline_epsilon:g} allows {self.runs_in_lifetime} such "
            f"run{'s' * (self.runs_in_lifetime != 1)}, as the ledger counts{self._reserved_text()}"
        )

    def _reserved_text(self) -> str:
        return f", beside {self.reserved_share:.0%} of it that are reserved" if self.reserved_share else ""

    def _noise_line(self) -> str:
        needed = [
            f"{'none suffices' if noise is None else f'{noise:.4g}'} for {epsilon:g}"
            for epsilon, noise in self.needed_noise
        ]
        return f"noise needed for an epsilon (a person on 1 platform): {', '.join(needed)}"


def report_on(
    plan: Plan,
    *,
    terms: LedgerTerms,
    wanted_epsilons: tuple[float, ...] = (),
    reserved_share: float = 0.0,
) -> PlanReport:
    """Return the report on a plan.

    Args:
        plan: any.
        terms: the lifetime budget to hold it against.
        wanted_epsilons: for which to work out the needed noise, some seconds for each where conversations are sampled; none:
            some usual ones for the full batch, otherwise none.
        reserved_share: of the lifetime budget, kept for something else than runs; in [0, 1).

    Raises:
        ConfigError: delta is too small for the plan's steps, or a wanted epsilon is out of range.
    """
    usual = USUAL_EPSILONS if plan.privacy.sample_rate == 1.0 else ()
    return PlanReport(
        plan=plan,
        statement=epsilon_of(plan),
        terms=terms,
        runs_in_lifetime=runs_within(
            terms,
            plan,
            spent=RunCost(
                reserved_units(terms.headline, share=reserved_share),
                reserved_units(terms.fallback, share=reserved_share),
            ),
        ),
        needed_noise=tuple(
            (epsilon, needed_noise(plan, epsilon=epsilon)) for epsilon in wanted_epsilons or usual
        ),
        reserved_share=reserved_share,
    )


def needed_noise(plan: Plan, *, epsilon: float) -> float | None:
    """Return the noise that keeps a person at one member within ``epsilon``; None if none up to 10,000 does.

    Raises:
        ConfigError: epsilon is not above 0.
    """
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise ConfigError("An epsilon is above 0.", hint="Ask for a larger one.")
    privacy = plan.privacy
    terms = FixedTerms(
        privacy.contribution_bound,
        plan.training.local_steps,
        privacy.delta,
        parameter_count(plan.training.architecture),
    )
    try:
        found = solve(terms, epsilon=epsilon, rounds=plan.training.rounds, sample_rate=privacy.sample_rate)
    except ConfigError:
        return None
    if privacy.evaluation_noise_multiplier is None:
        return found.noise_multiplier
    return _noise_beside_evaluation(plan, epsilon=epsilon, least=found.noise_multiplier)


def _noise_beside_evaluation(plan: Plan, *, epsilon: float, least: float) -> float | None:
    """Return the noise of the steps that leaves room for the evaluation, which spends a part of epsilon, to 0.1 %."""

    def within(noise: float) -> bool:
        privacy = plan.privacy.model_copy(update={"noise_multiplier": noise})
        return epsilon_of(plan.model_copy(update={"privacy": privacy})).epsilon <= epsilon

    good, bad = MOST_NOISE, least
    if not within(good):
        return None
    while good / bad > 1.0 + _PRECISION:
        middle = math.sqrt(good * bad)
        good, bad = (middle, bad) if within(middle) else (good, middle)
    return good
