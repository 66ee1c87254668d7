"""What a whole run will cost a member's ledger, and how many such runs a lifetime allows: the gate's own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from ringfence.model.errors import BudgetError
from ringfence.model.plan import Plan
from ringfence.privacy.answer_mechanism import evaluation_mechanism, round_mechanism
from ringfence.privacy.ledger_terms import LedgerTerms, budget_in_units, cost_in_units
from ringfence.privacy.renyi_filter import RenyiFilter


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
    answer, evaluation = round_mechanism(plan), evaluation_mechanism(plan)
    headline_units = plan.training.rounds * cost_in_units(headline, answer.headline)
    fallback_units = plan.training.rounds * cost_in_units(fallback, answer.own)
    if evaluation is not None:
        headline_units += evaluations * cost_in_units(headline, evaluation.headline)
        fallback_units += evaluations * cost_in_units(fallback, evaluation.own)
    return RunCost(headline_units, fallback_units)


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
