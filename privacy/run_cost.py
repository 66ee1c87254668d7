"""What a whole run will cost a member's ledger, and how many such runs a lifetime allows: the gate's own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from ringfence.model.errors import BudgetError
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import adversary_noise
from ringfence.privacy.ledger_terms import LedgerTerms, budget_in_units, cost_in_units
from ringfence.privacy.renyi_filter import RenyiFilter, SampledGaussian


@dataclass(frozen=True, slots=True)
class RunCost:
    """A run as the ledger will charge it: one charge a round, nothing asked twice.

    Attributes:
        headline_units: against the coordinator with c_max members, in units of divergence.
        fallback_units: if everybody else colludes.
    """

    headline_units: int
    fallback_units: int


def run_cost(plan: Plan, *, headline: RenyiFilter, fallback: RenyiFilter, evaluations: int = 1) -> RunCost:
    """Return the divergence that a run adds to a ledger's two totals.

    Mechanism: rounds charges, each of `local_steps` (sampled) Gaussian steps; one for each evaluation, if the plan has any.
    Unit: one participant, at most k conversations (contribution bound).
    Assumes: no round is asked for a second time; each further attempt costs as much as a round.
    Sensitivity: contained in the charges.
    Source: Feldman and Zrnic 2021, arXiv 2008.11193, theorem 4.5.

    Raises:
        BudgetError: one charge alone is beyond any budget.
    """
    noise = {name: left for name, _, left in adversary_noise(plan)}

    def units(gate: RenyiFilter, remaining: float) -> int:
        privacy = plan.privacy
        charge = SampledGaussian(
            privacy.contribution_bound, privacy.sample_rate, remaining, plan.training.local_steps
        )
        units = plan.training.rounds * cost_in_units(gate, charge)
        evaluation = evaluation_mechanism(plan)
        return units if evaluation is None else units + evaluations * cost_in_units(gate, evaluation)

    return RunCost(
        units(headline, noise["coordinator-and-members"]), units(fallback, noise["everybody-else"])
    )


def evaluation_mechanism(plan: Plan) -> SampledGaussian | None:
    """Return what one score histogram is charged as: a step of the full batch with a member's own noise; None without one."""
    noise = plan.privacy.evaluation_noise_multiplier
    return None if noise is None else SampledGaussian(plan.privacy.contribution_bound, 1.0, noise, 1)


NOTHING_SPENT = RunCost(0, 0)


def runs_within(terms: LedgerTerms, plan: Plan, *, spent: RunCost = NOTHING_SPENT) -> int:
    """Return how many runs of a plan a ledger with these terms still admits.

    Args:
        terms: of the ledger.
        plan: of every such run.
        spent: the ledger's totals so far.

    Returns:
        0 also for a plan of which one charge alone is beyond any budget.
    """
    try:
        cost = run_cost(plan, headline=terms.headline, fallback=terms.fallback)
    except BudgetError:
        return 0
    return max(
        0,
        min(
            (budget_in_units(terms.headline) - spent.headline_units) // cost.headline_units,
            (budget_in_units(terms.fallback) - spent.fallback_units) // cost.fallback_units,
        ),
    )
