"""Whether a plan lies within the member's policy, and if not, which line of the policy refuses it. Pure decisions.

Every rule bounds one number or one choice from above or below, and epsilon grows with everything that is bad for a person.
So a plan that asks for more than a refused plan is refused too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, TypeAlias

from ringfence.client.policy import Policy
from ringfence.client.training_hours import inside
from ringfence.model.errors import PolicyError, RingfenceError
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import PrivacyStatement, epsilon_of
from ringfence.privacy.ledger_chain import CHARGED_KINDS, LedgerEntry
from ringfence.privacy.ledger_terms import LedgerTerms, budget_in_units, reserved_units
from ringfence.privacy.renyi_filter import RenyiFilter
from ringfence.privacy.run_cost import run_cost

Asked: TypeAlias = Literal["answer", "evaluation"]
"""What a coordinator asks for: an answer to a round, or the score histogram of an evaluation."""

_HINT = "Ask the coordinator for a plan within it; or change that line, if you agree with the plan."


@dataclass(frozen=True, slots=True)
class Spending:
    """What a member's ledger holds already, apart for one plan and for everything else.

    Attributes:
        order: Renyi order of the ledger.
        other_headline_units: charged for other plans, in the ledger's units of divergence.
        other_fallback_units: the same, if everybody else colludes.
        answers: charged for this plan, over all of its rounds, attempts and runs.
        evaluations: score histograms charged for this plan, over all of its runs.
        personal_headline_units: the part of the other units that went to heads of the member's own.
        personal_fallback_units: the same, if everybody else colludes.
    """

    order: int
    other_headline_units: int = 0
    other_fallback_units: int = 0
    answers: int = 0
    evaluations: int = 0
    personal_headline_units: int = 0
    personal_fallback_units: int = 0


@dataclass(slots=True)
class SpendingTally:
    """What a ledger's entries add up to, plan by plan: entries are only ever added, so each is looked at once.

    Attributes:
        seq: place in the chain of the newest entry that was looked at.
    """

    seq: int = 0
    _plans: dict[object, _PlanTotals] = field(default_factory=dict)
    _personal: _PlanTotals = field(default_factory=lambda: _PlanTotals())

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        """Count entries in the order of the chain."""
        for entry in entries:
            if entry.kind in CHARGED_KINDS:
                self._count(entry)
            # Last: an entry that cannot be counted is looked at again, and not passed over.
            self.seq = entry.seq

    def _count(self, entry: LedgerEntry) -> None:
        values = entry.values
        headline, fallback = _units(values, "headline_units"), _units(values, "fallback_units")
        if entry.kind == "personalise":
            totals = self._personal
        else:
            totals = self._plans.setdefault(values.get("plan"), _PlanTotals())
        totals.answers += entry.kind == "charge"
        totals.evaluations += entry.kind == "evaluate"
        totals.headline_units += headline
        totals.fallback_units += fallback

    def spending(self, *, order: int, plan_digest: str) -> Spending:
        """Return the sums for one plan and for everything else."""
        mine = self._plans.get(plan_digest, _PlanTotals())
        others = [self._personal, *(totals for plan, totals in self._plans.items() if plan != plan_digest)]
        return Spending(
            order,
            other_headline_units=sum(totals.headline_units for totals in others),
            other_fallback_units=sum(totals.fallback_units for totals in others),
            answers=mine.answers,
            evaluations=mine.evaluations,
            personal_headline_units=self._personal.headline_units,
            personal_fallback_units=self._personal.fallback_units,
        )


@dataclass(slots=True)
class _PlanTotals:
    answers: int = 0
    evaluations: int = 0
    headline_units: int = 0
    fallback_units: int = 0


def spending_of(entries: Iterable[LedgerEntry], *, order: int, plan_digest: str) -> Spending:
    """Return what the entries of a ledger add up to, for one plan and for everything else."""
    tally = SpendingTally()
    tally.add(entries)
    return tally.spending(order=order, plan_digest=plan_digest)


def still_reserved(
    policy: Policy, spent: Spending, *, headline: RenyiFilter, fallback: RenyiFilter
) -> tuple[int, int]:
    """Return the headline and fallback units that runs leave alone: kept for heads of the member's own, not spent on them yet.

    Args:
        policy: the member's own.
        spent: what the ledger holds.
        headline: filter of the headline total.
        fallback: filter of the fallback total.
    """
    share = policy.budget.personalisation_share
    return (
        max(0, reserved_units(headline, share=share) - spent.personal_headline_units),
        max(0, reserved_units(fallback, share=share) - spent.personal_fallback_units),
    )


def check_plan(
    plan: Plan,
    *,
    policy: Policy,
    now: datetime | None,
    spent: Spending | None = None,
    asked: Asked = "answer",
) -> None:
    """Refuse a plan that is outside of the member's policy.

    Args:
        plan: as signed by the coordinator, or on paper.
        policy: the member's own.
        now: the present, with a time zone; None leaves the hours aside, for a plan that is only looked at.
        spent: what the ledger holds; None for an empty one. With it, one more of what is asked is what is judged.
        asked: an answer to a round, or the score histogram of an evaluation.

    Raises:
        PolicyError: the plan is outside. The message names every line of the policy that refuses it, with file, section,
            key, the policy's value and the plan's.
    """
    refusals = refusals_of(plan, policy=policy, now=now, spent=spent, asked=asked)
    if refusals:
        raise PolicyError("; ".join(refusals), hint=_HINT)


def refusals_of(
    plan: Plan,
    *,
    policy: Policy,
    now: datetime | None,
    spent: Spending | None = None,
    asked: Asked = "answer",
) -> tuple[str, ...]:
    """Return one sentence for each line of the policy that refuses a plan; none when the plan is within. See `check_plan`."""
    simple = [*_launch(plan, policy), *_methods(plan, policy), *_limits(plan, policy), *_hours(policy, now)]
    # Epsilon last: it takes time, and only numbers that are in range have one.
    return tuple(simple or _budget(plan, policy, spent, asked))


def _launch(plan: Plan, policy: Policy) -> Iterator[str]:
    rules = policy.launch
    if plan.federation not in rules.launched_by:
        yield _refusal(policy, "launch.launched_by", f"the plan's coordinator is that of {plan.federation}")
    if plan.purpose not in rules.purposes:
        yield _refusal(policy, "launch.purposes", f"the plan's purpose is {plan.purpose}")
    if plan.demonstration != rules.demonstration:
        kind = "a demonstration" if plan.demonstration else "no demonstration"
        yield _refusal(policy, "launch.demonstration", f"the plan is {kind}")


def _methods(plan: Plan, policy: Policy) -> Iterator[str]:
    rules, training, privacy = policy.methods, plan.training, plan.privacy
    for key, allowed, asked in (
        ("architectures", rules.architectures, training.architecture),
        ("aggregation", rules.aggregation, plan.aggregation),
        ("noise", rules.noise, privacy.noise),
        ("bounds", rules.bounds, privacy.bounds),
        ("sampling", rules.sampling, privacy.sampling),
    ):
        if asked not in allowed:
            yield _refusal(policy, f"methods.{key}", f"the plan has {asked}")
    features = (training.feature_set, training.feature_set_sha256)
    if not any(
        rule.name == features[0] and rule.sha256 in (None, features[1]) for rule in rules.feature_sets
    ):
        yield _refusal(
            policy, "methods.feature_sets", f"the plan has {features[0]} with sha256 {features[1]}"
        )


def _limits(plan: Plan, policy: Policy) -> Iterator[str]:
    # Written so that a number that is not one (NaN) is refused like one that is out of range.
    rules, privacy, training = policy.limits, plan.privacy, plan.training
    k, noise, cohort = privacy.contribution_bound, privacy.noise_multiplier, plan.cohort.minimum
    if not 1 <= k <= rules.contribution_bound:
        yield _refusal(policy, "limits.contribution_bound", f"the plan has {k}")
    if not cohort >= rules.minimum_cohort:
        yield _refusal(policy, "limits.minimum_cohort", f"the plan has {cohort}")
    if not rules.noise_floor <= noise < float("inf"):
        yield _refusal(policy, "limits.noise_floor", f"the plan has {noise:g}")
    evaluation = privacy.evaluation_noise_multiplier
    if evaluation is not None and not rules.noise_floor <= evaluation < float("inf"):
        yield _refusal(policy, "limits.noise_floor", f"the plan evaluates with {evaluation:g}")
    if not 1 <= training.rounds <= rules.rounds:
        yield _refusal(policy, "limits.rounds", f"the plan has {training.rounds}")
    if not 1 <= training.local_steps <= rules.local_steps:
        yield _refusal(policy, "limits.local_steps", f"the plan has {training.local_steps}")
    if not 0 < privacy.delta <= policy.budget.delta:
        yield _refusal(policy, "budget.delta", f"the plan has {privacy.delta:g}")


def _hours(policy: Policy, now: datetime | None) -> Iterator[str]:
    if now is not None and not inside(policy.hours.windows, now):
        yield _refusal(policy, "hours.windows", f"it is {now.astimezone(UTC):%a %H:%M} UTC")


def _budget(plan: Plan, policy: Policy, spent: Spending | None, asked: Asked) -> Iterator[str]:
    rules = policy.budget
    answers, evaluations = plan.training.rounds, 1
    if spent is not None:
        answers = max(answers, spent.answers + (asked == "answer"))
        evaluations = max(evaluations, spent.evaluations + (asked == "evaluation"))
    asked_again = answers > plan.training.rounds
    judged = plan.model_copy(
        update={
            "training": plan.training.model_copy(update={"rounds": answers}),
            "privacy": plan.privacy.model_copy(update={"delta": rules.delta}),
        }
    )
    # The ledger's own sum first: it takes milliseconds. A sampled plan that it refuses is not worked out tightly as well,
    # which takes minutes for some.
    lifetime = tuple(_lifetime(judged, policy, spent, evaluations))
    if lifetime and 0.0 < judged.privacy.sample_rate < 1.0:
        yield from lifetime
        return
    try:
        statement = _statement(judged, evaluations)
    except RingfenceError as error:
        yield _refusal(policy, "budget.run_epsilon", f"the plan has none: {error.message}")
        return
    subject = f"{answers} answers to the plan would be" if asked_again else "the plan's is"
    for key, limit, epsilon in (
        ("run_epsilon", rules.run_epsilon, statement.epsilon),
        ("run_epsilon_fallback", rules.run_epsilon_fallback, statement.adversaries[-1].epsilon),
        (
            "run_epsilon_on_platforms",
            rules.run_epsilon_on_platforms,
            dict(statement.epsilon_by_platforms)[rules.platforms],
        ),
    ):
        if not epsilon <= limit:
            yield _refusal(policy, f"budget.{key}", f"{subject} {epsilon:.3f} at delta {rules.delta:g}")
    yield from lifetime


def _lifetime(plan: Plan, policy: Policy, spent: Spending | None, evaluations: int) -> Iterator[str]:
    """Judge as the ledger will: by Renyi divergences at the ledger's one order, over everything charged so far."""
    try:
        terms = policy.ledger_terms("policy") if spent is None else _terms_at(policy, spent.order)
        gates = (terms.headline, terms.fallback)
        cost = run_cost(plan, headline=gates[0], fallback=gates[1], evaluations=evaluations)
    except RingfenceError as error:
        yield _refusal(policy, "budget.lifetime_epsilon", f"the plan does not fit: {error.message}")
        return
    held = Spending(gates[0].order) if spent is None else spent
    reserved = still_reserved(policy, held, headline=gates[0], fallback=gates[1])
    for key, gate, before, left_alone, added in (
        ("lifetime_epsilon", gates[0], held.other_headline_units, reserved[0], cost.headline_units),
        ("lifetime_epsilon_fallback", gates[1], held.other_fallback_units, reserved[1], cost.fallback_units),
    ):
        if before + added + left_alone > budget_in_units(gate):
            after = "" if spent is None else " after everything that was charged before"
            kept = " beside what personalisation_share keeps" if policy.budget.personalisation_share else ""
            yield _refusal(policy, f"budget.{key}", f"the plan does not fit into it{after}{kept}")


def _terms_at(policy: Policy, order: int) -> LedgerTerms:
    return replace(policy.ledger_terms("policy"), order=order)


@lru_cache(maxsize=64)
def _statement(plan: Plan, evaluations: int) -> PrivacyStatement:
    return epsilon_of(plan, evaluations=evaluations)


def _refusal(policy: Policy, key: str, plan_says: str) -> str:
    section, _, name = key.partition(".")
    value = getattr(policy, section).model_dump(mode="json", exclude_none=True)[name]
    return f"{policy.place(key)} = {value}: {plan_says}"


def _units(values: dict[str, object], name: str) -> int:
    units = values.get(name)
    return units if isinstance(units, int) else 0
