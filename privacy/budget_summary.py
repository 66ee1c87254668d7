"""What a ledger says to a person: spent, left, and how many more runs like the last one.

Two figures stand side by side. The filter's is what decides: it holds however later runs are chosen. The privacy loss
distribution's is smaller and describes what has happened, as if it had been planned so; it must never decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ringfence.privacy.accounting import PLATFORMS, composed_epsilon
from ringfence.privacy.ledger_chain import (
    CHARGED_KINDS,
    LedgerEntry,
    LedgerState,
    follow,
    whole_number,
)
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import budget_in_units, epsilon_of_units, reserved_units
from ringfence.privacy.renyi_filter import RenyiFilter, SampledGaussian


@dataclass(frozen=True, slots=True)
class ChargedRun:
    """What one run has cost so far.

    Attributes:
        name: federation and run.
        plan_digest: of its plan.
        first_at: time of the first charge, seconds since the epoch.
        last_at: of the last.
        charges: how many.
        headline_units: their cost against the coordinator and some members.
        fallback_units: their cost against everybody else together.
    """

    name: str
    plan_digest: str
    first_at: int
    last_at: int
    charges: int
    headline_units: int
    fallback_units: int


@dataclass(frozen=True, slots=True)
class BudgetTotal:
    """One of the two running totals.

    Attributes:
        lifetime_epsilon: as opened or amended.
        filter_epsilon: epsilon that the filter guarantees for what was charged; 0 before the first charge.
        used_share: of the budget, as the filter counts, in [0, 1].
        pld_epsilon_by_platforms: (platforms, epsilon by privacy loss distribution) for a person who is on 1, 2 and 3 members
            that all charged as much.
        runs_left: further runs like the last one, which leave alone what is reserved; None before the first charge.
        reserved_share: of the budget, kept for the member's own heads and not spent on them yet, in [0, 1].
    """

    lifetime_epsilon: float
    filter_epsilon: float
    used_share: float
    pld_epsilon_by_platforms: tuple[tuple[int, float], ...]
    runs_left: int | None
    reserved_share: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """The budget at one entry.

    Attributes:
        time: seconds since the epoch.
        headline_share: of the headline's budget used up, in [0, 1].
        fallback_share: of the fallback's.
    """

    time: int
    headline_share: float
    fallback_share: float


@dataclass(frozen=True, slots=True)
class BudgetSummary:
    """The whole of it.

    Attributes:
        state: what the chain adds up to.
        opened_at: seconds since the epoch.
        headline: against the coordinator together with some members.
        fallback: if everybody else colludes.
        runs: the charged runs, in the order of their first charge.
        timeline: one point an entry, in order.
    """

    state: LedgerState
    opened_at: int
    headline: BudgetTotal
    fallback: BudgetTotal
    runs: tuple[ChargedRun, ...]
    timeline: tuple[BudgetPoint, ...]

    @property
    def runs_left(self) -> int | None:
        """Further runs like the last one that both totals allow; None before the first charge, 0 once closed."""
        if self.state.closed:
            return 0
        left = [total.runs_left for total in (self.headline, self.fallback) if total.runs_left is not None]
        return min(left, default=None)


def summarise_budget(entries: Iterable[LedgerEntry], *, personalisation_share: float = 0.0) -> BudgetSummary:
    """Return the summary of a chain, verifying it on the way.

    Mechanism: the filter's totals as the gate counts them; beside them privacy loss distributions of the same charges.
    Unit: one participant of the ledger's lineage, on one member; 2 and 3 members beside.
    Assumes: every release of the lineage was charged here.
    Sensitivity: contained in the charges.
    Source: `ringfence.privacy.renyi_filter`, `ringfence.privacy.accounting`.

    Args:
        entries: of the chain, from the first on.
        personalisation_share: of the lifetime budget, which the member's policy keeps for heads of its own; in [0, 1).

    Raises:
        BudgetError: the chain is broken, or empty.
    """
    state: LedgerState | None = None
    opened_at = 0
    timeline: list[BudgetPoint] = []
    charges: list[tuple[LedgerEntry, dict[str, object]]] = []
    for entry in entries:
        state = follow(state, entry)
        opened_at = opened_at or state.newest_time
        timeline.append(_point(state))
        if entry.kind in CHARGED_KINDS:
            charges.append((entry, entry.values))
    if state is None:
        raise refused(LedgerRefusal.MISSING)
    runs = _runs(charges)
    like_the_last = _largest_of_the_last_plan(charges, runs)
    headline, fallback = state.terms.headline, state.terms.fallback
    return BudgetSummary(
        state=state,
        opened_at=opened_at,
        headline=_total(
            headline,
            units=state.headline_units,
            reserved=_reserved(headline, charges, "headline_units", share=personalisation_share),
            run_units=like_the_last.headline_units if like_the_last else None,
            charges=[_mechanism(values, "headline_noise") for _, values in charges],
        ),
        fallback=_total(
            fallback,
            units=state.fallback_units,
            reserved=_reserved(fallback, charges, "fallback_units", share=personalisation_share),
            run_units=like_the_last.fallback_units if like_the_last else None,
            charges=[_mechanism(values, "fallback_noise") for _, values in charges],
        ),
        runs=runs,
        timeline=tuple(timeline),
    )


def run_of_key(key: str) -> str:
    """Return the run that a charge's key belongs to: of ``run/acme/7/round/3/attempt/1`` it is ``acme/7``."""
    inner = key.removeprefix("run/")
    for separator in ("/round/", "/evaluation"):
        inner = inner.partition(separator)[0]
    return inner


def _point(state: LedgerState) -> BudgetPoint:
    return BudgetPoint(
        time=state.newest_time,
        headline_share=_share(state.terms.headline, state.headline_units),
        fallback_share=_share(state.terms.fallback, state.fallback_units),
    )


def _share(gate: RenyiFilter, units: int) -> float:
    return min(1.0, units / max(1, budget_in_units(gate)))


def _runs(charges: Sequence[tuple[LedgerEntry, dict[str, object]]]) -> tuple[ChargedRun, ...]:
    found: dict[tuple[str, str], ChargedRun] = {}
    for entry, values in charges:
        name, plan, time = run_of_key(entry.key), str(values.get("plan")), whole_number(values, "time")
        before = found.get((name, plan)) or ChargedRun(name, plan, time, time, 0, 0, 0)
        found[name, plan] = ChargedRun(
            name=name,
            plan_digest=plan,
            first_at=before.first_at,
            last_at=time,
            charges=before.charges + 1,
            headline_units=before.headline_units + whole_number(values, "headline_units"),
            fallback_units=before.fallback_units + whole_number(values, "fallback_units"),
        )
    return tuple(found.values())


def _largest_of_the_last_plan(
    charges: Sequence[tuple[LedgerEntry, dict[str, object]]], runs: Sequence[ChargedRun]
) -> ChargedRun | None:
    """Return the most expensive run of the newest plan: the newest run itself may be half done."""
    plans = [str(values.get("plan")) for entry, values in charges if entry.kind != "personalise"]
    if not plans:
        return None
    newest = plans[-1]
    return max((run for run in runs if run.plan_digest == newest), key=lambda run: run.headline_units)


def _reserved(
    gate: RenyiFilter,
    charges: Sequence[tuple[LedgerEntry, dict[str, object]]],
    units_field: str,
    *,
    share: float,
) -> int:
    """Return the units that are kept for the member's own heads and were not spent on them yet."""
    spent = sum(whole_number(values, units_field) for entry, values in charges if entry.kind == "personalise")
    return max(0, reserved_units(gate, share=share) - spent)


def _total(
    gate: RenyiFilter,
    *,
    units: int,
    reserved: int,
    run_units: int | None,
    charges: Sequence[tuple[SampledGaussian, bool]],
) -> BudgetTotal:
    left = max(0, budget_in_units(gate) - units - reserved)
    return BudgetTotal(
        lifetime_epsilon=gate.epsilon,
        filter_epsilon=epsilon_of_units(gate, units),
        used_share=_share(gate, units),
        pld_epsilon_by_platforms=tuple(
            (platforms, _pld_epsilon(charges, platforms=platforms, delta=gate.delta))
            for platforms in PLATFORMS
        ),
        runs_left=None if run_units is None else left // max(1, run_units),
        reserved_share=_share(gate, reserved),
    )


def _pld_epsilon(charges: Sequence[tuple[SampledGaussian, bool]], *, platforms: int, delta: float) -> float:
    if not charges:
        return 0.0
    return composed_epsilon(
        [_on_platforms(mechanism, platforms, shared=shared) for mechanism, shared in charges], delta=delta
    )


def _on_platforms(mechanism: SampledGaussian, platforms: int, *, shared: bool) -> SampledGaussian:
    k, steps = mechanism.contribution_bound, mechanism.steps
    if shared:  # one noised sum holds all of a person's conversations
        return SampledGaussian(k * platforms, mechanism.sample_rate, mechanism.noise_multiplier, steps)
    return SampledGaussian(k, mechanism.sample_rate, mechanism.noise_multiplier, steps * platforms)


def _mechanism(values: dict[str, object], noise_field: str) -> tuple[SampledGaussian, bool]:
    """Return what a charge paid for, and whether the cohort shared the noise."""
    mechanism = SampledGaussian(
        whole_number(values, "contribution_bound"),
        _number(values, "sample_rate"),
        _number(values, noise_field),
        whole_number(values, "steps"),
    )
    return mechanism, values.get("headline_noise") != values.get("fallback_noise")


def _number(values: dict[str, object], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(LedgerRefusal.DAMAGED)
    return float(value)
