"""What a release costs, and the decision whether it may be charged: pure, without a disk."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ringfence.privacy.ledger_chain import LedgerEntry, LedgerState, next_entry
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import budget_in_units, cost_in_units
from ringfence.privacy.renyi_filter import SampledGaussian

CLOCK_TOLERANCE_S = 120
"""How far a clock may step back (a correction over the network) before the ledger refuses."""

ChargeKind: TypeAlias = Literal["charge", "evaluate", "personalise"]
"""An answer to a round; a histogram of an evaluation; a head of the member's own, which never leaves it."""

_LONGEST_KEY = 256


@dataclass(frozen=True, slots=True)
class Charge:
    """What one release costs, and what it answers.

    Attributes:
        key: unique name of the release, see `release_key`.
        plan_digest: SHA-256 of the plan that was carried out.
        dataset_digest: digest of the contribution manifest that was used; it may change as the data grows.
        cohort: members that take part.
        mechanism: what was done, with the noise that remains against the headline's adversary.
        own_noise_multiplier: what remains if everybody else colludes; with member noise the same.
    """

    key: str
    plan_digest: str
    dataset_digest: str
    cohort: int
    mechanism: SampledGaussian
    own_noise_multiplier: float

    @property
    def fallback_mechanism(self) -> SampledGaussian:
        """The mechanism as everybody else together sees it."""
        return SampledGaussian(
            self.mechanism.contribution_bound,
            self.mechanism.sample_rate,
            self.own_noise_multiplier,
            self.mechanism.steps,
        )


def release_key(run: str, *, round_number: int, attempt: int) -> str:
    """Return the key of a member's answer to one attempt at one round."""
    return f"run/{run}/round/{round_number}/attempt/{attempt}"


def evaluation_key(run: str) -> str:
    """Return the key of a member's score histogram: one a run."""
    return f"run/{run}/evaluation"


def charged_entry(
    state: LedgerState,
    charge: Charge,
    *,
    payload_digest: str,
    kind: ChargeKind,
    now: float,
    confirmed: bool = False,
) -> LedgerEntry:
    """Return the entry that a charge adds to the chain, having checked everything that can refuse it.

    Mechanism: Renyi filter over two totals (headline and fallback) at the ledger's order.
    Unit: one participant of the lineage.
    Assumes: ``state`` is what the whole chain adds up to.
    Sensitivity: contained in the charge.
    Source: Feldman and Zrnic 2021, arXiv 2008.11193, theorem 4.5.

    Args:
        state: before the charge.
        charge: what it costs and what it answers.
        payload_digest: SHA-256 of what would be sent.
        kind: what is charged for.
        now: seconds since the epoch.
        confirmed: whether the coordinator has confirmed the ledger's head.

    Raises:
        BudgetError: the ledger is closed, a limit is exceeded, the budget does not suffice, or the clock went back.
    """
    terms = state.terms
    if state.closed:
        raise refused(LedgerRefusal.CLOSED)
    terms.limits.check(
        charge.mechanism,
        own_noise_multiplier=charge.own_noise_multiplier,
        # A cohort hides a member's answer among others'. What stays here has no need of one.
        cohort=terms.limits.minimum_cohort if kind == "personalise" else charge.cohort,
        amendable=state.amendable,
    )
    headline = cost_in_units(terms.headline, charge.mechanism)
    fallback = cost_in_units(terms.fallback, charge.fallback_mechanism)
    headline_total, fallback_total = state.headline_units + headline, state.fallback_units + fallback
    if headline_total > budget_in_units(terms.headline) or fallback_total > budget_in_units(terms.fallback):
        raise refused(LedgerRefusal.EXHAUSTED, amendable=state.amendable)
    body = {
        "time": checked_clock(now, newest=0 if confirmed else state.newest_time),
        "plan": charge.plan_digest,
        "dataset": charge.dataset_digest,
        "cohort": charge.cohort,
        "contribution_bound": charge.mechanism.contribution_bound,
        "sample_rate": charge.mechanism.sample_rate,
        "steps": charge.mechanism.steps,
        "headline_noise": charge.mechanism.noise_multiplier,
        "fallback_noise": charge.own_noise_multiplier,
        "headline_units": headline,
        "fallback_units": fallback,
        "headline_total": headline_total,
        "fallback_total": fallback_total,
        "payload": payload_digest,
    }
    return next_entry(state.head, kind=kind, key=charge.key, body=body)


def checked_payload_digest(key: str, payload: bytes) -> str:
    """Return the SHA-256 of a payload, in hexadecimal.

    Raises:
        BudgetError: the payload is empty, or its key is not a short printable name.
    """
    if not (0 < len(key) <= _LONGEST_KEY and key.isprintable() and payload):
        raise refused(LedgerRefusal.BAD_CHARGE)
    return hashlib.sha256(payload).hexdigest()


def checked_clock(now: float, *, newest: int = 0) -> int:
    """Return a time as whole seconds since the epoch.

    A clock that was once far ahead would otherwise refuse for as many years. What a clock behind the newest entry may mean,
    an old copy of the ledger, is ruled out by those who keep its head; where they have confirmed it, or somebody decides
    about this very head (an amendment, an end), the newest entry's time is left out. No total depends on time.

    Args:
        now: seconds since the epoch.
        newest: time of the newest entry; 0 leaves it out.

    Raises:
        BudgetError: it is no time, or lies before the newest entry by more than the tolerance.
    """
    if not (math.isfinite(now) and now >= 0 and now + CLOCK_TOLERANCE_S >= newest):
        raise refused(LedgerRefusal.CLOCK)
    return int(now)
