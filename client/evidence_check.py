"""Recomputing what ``privacy.json`` states, from the file itself, its receipts and, where they are there, plan and ledger.

Nothing here believes a number because it is written down. Each stated one is set beside the one that follows from the
terms of the mechanism, and a reader sees both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ringfence.model.errors import ReleaseError
from ringfence.model.evidence import (
    FALLBACK,
    HEADLINE,
    NOT_HIDDEN,
    RELATION,
    UNIT,
    Guarantee,
    PrivacyEvidence,
    check_evidence_fits,
)
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import PLATFORMS, accountant_name, composed_epsilon, largest_collusion
from ringfence.privacy.grid import Grid
from ringfence.privacy.run_mechanisms import run_mechanisms, tail_delta

EXACT = 1e-6
"""Relative difference that arithmetic on another machine may make."""

DISCRETISED = 1e-3
"""The same for a privacy loss distribution, which another version may cut into other pieces."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was checked.

    Attributes:
        name: as in the file, such as ``guarantees.member.epsilon``.
        stated: what the file says, for people.
        found: what it should say, or what was found.
        agrees: False where the evidence is wrong; None where nothing could be said, and ``found`` says why.
    """

    name: str
    stated: str
    found: str
    agrees: bool | None


def check_numbers(evidence: PrivacyEvidence) -> Iterator[Checked]:
    """Yield every number of the evidence beside the recomputed one.

    Mechanism: T (sampled) Gaussian steps a member, with the noise that each adversary cannot remove.
    Unit: one participant with at most k conversations at each of m members; also one conversation.
    Assumes: the terms that the file states; that they are the run's is for plan, receipts and signatures to show.
    Sensitivity: k * S.
    Source: as `ringfence.privacy.accounting`.
    """
    cohort = evidence.guarantee(FALLBACK).colluding + 1
    for guarantee in evidence.guarantees:
        name = f"guarantees.{guarantee.adversary}"
        yield _number(f"{name}.colluding", guarantee.colluding, _colluding(guarantee, cohort), 0.0)
        noise = _remaining_noise(evidence, guarantee, cohort)
        yield _number(f"{name}.noise_multiplier", guarantee.noise_multiplier, noise, EXACT)
        yield _epsilon(evidence, f"{name}.epsilon", guarantee.epsilon, noise, platforms=evidence.platforms)
    headline = _remaining_noise(evidence, evidence.guarantee(HEADLINE), cohort)
    for platforms, epsilon in sorted(evidence.epsilon_by_platforms.items()):
        name = f"epsilon_by_platforms.{platforms}"
        yield _epsilon(evidence, name, epsilon, headline, platforms=platforms)
    yield _epsilon(
        evidence, "per_conversation_epsilon", evidence.per_conversation_epsilon, headline, conversations=1
    )
    mechanism = evidence.mechanism
    grid = Grid(clip_norm=mechanism.clip_norm, dimension=mechanism.dimension)
    yield _number("mechanism.grid_step", mechanism.grid_step, grid.step, 0.0)


def check_words(evidence: PrivacyEvidence) -> Iterator[Checked]:
    """Yield what the evidence says in words, beside what it must say for its numbers to mean what they should."""
    yield _same("unit", evidence.unit, UNIT)
    yield _same("relation", evidence.relation, RELATION)
    missing = [item for item in NOT_HIDDEN if item not in evidence.not_hidden]
    yield Checked(
        "not_hidden",
        f"{len(evidence.not_hidden)} items",
        f"missing: {missing}" if missing else "all",
        not missing,
    )
    mechanism = evidence.mechanism
    sampled = mechanism.sample_rate < 1.0
    yield _same("mechanism.sampling", mechanism.sampling, "poisson" if sampled else "full-batch")
    # The version may be another one; the method may not.
    method = accountant_name(mechanism.sample_rate).split(" of ")[0]
    yield Checked(
        "accountant.name", evidence.accountant.name, method, evidence.accountant.name.startswith(method)
    )
    classes = mechanism.size_classes
    powers = all(size & (size - 1) == 0 for size in classes)
    yield Checked(
        "mechanism.size_classes",
        f"{len(classes)} for {evidence.contributors} contributors",
        "one power of two for each contributor",
        powers and len(classes) == evidence.contributors,
    )


def check_plan(evidence: PrivacyEvidence, plan: Plan | None) -> Iterator[Checked]:
    """Yield what the plan says of the evidence: its hash, its terms, and that no step was left out of the account."""
    if plan is None:
        yield Checked("plan_sha256", evidence.plan_sha256[:16], "no plan is there to compare with", None)
        return
    yield _same("plan_sha256", evidence.plan_sha256[:16], plan.digest()[:16])
    try:
        check_evidence_fits(evidence, plan=plan)
        yield Checked("terms", "the plan's", "the plan's", True)
    except ReleaseError as error:
        yield Checked("terms", "the plan's", error.message, False)
    steps = evidence.mechanism.steps
    enough = steps >= plan.steps and steps % plan.training.local_steps == 0
    yield Checked(
        "mechanism.steps", str(steps), f"{plan.steps} in the plan, more if rounds were repeated", enough
    )
    cohort = evidence.guarantee(FALLBACK).colluding + 1
    yield _number("smallest cohort", cohort, plan.cohort.minimum, 0.0)


def require_agreement(checks: Iterable[Checked]) -> None:
    """Refuse evidence of which anything is wrong.

    Raises:
        ReleaseError: the message names each wrong thing with what is stated and what was found. The builder's fault.
    """
    wrong = [f"{item.name} says {item.stated}, not {item.found}" for item in checks if item.agrees is False]
    if wrong:
        raise ReleaseError(
            f"The evidence is wrong: {'; '.join(wrong)}.",
            hint="Do not use this release, and tell the other members and the coordinator.",
        )


def _epsilon(
    evidence: PrivacyEvidence,
    name: str,
    stated: float,
    noise: float,
    *,
    platforms: int = 1,
    conversations: int | None = None,
) -> Checked:
    mechanism = evidence.mechanism
    k = evidence.contribution_bound if conversations is None else conversations
    # The finite tails of the noise are paid for three platforms, the most that are stated.
    slack = max(PLATFORMS) * tail_delta(
        dimension=mechanism.dimension,
        steps=mechanism.steps,
        evaluations=0 if mechanism.evaluation_noise_multiplier is None else 1,
    )
    delta = evidence.delta - slack
    if delta <= 0.0:
        return Checked(name, f"{stated:.4f}", "no epsilon: delta is too small for this many steps", False)
    charged = run_mechanisms(
        contribution_bound=k,
        sample_rate=mechanism.sample_rate,
        noise_multiplier=noise,
        steps=mechanism.steps,
        shared_noise=mechanism.noise == "shared",
        evaluation_noise_multiplier=mechanism.evaluation_noise_multiplier,
        platforms=platforms,
    )
    tolerance = EXACT if mechanism.sample_rate == 1.0 else DISCRETISED
    return _number(name, stated, composed_epsilon(charged, delta=delta), tolerance)


def _remaining_noise(evidence: PrivacyEvidence, guarantee: Guarantee, cohort: int) -> float:
    """Return the noise multiplier that an adversary cannot remove, from one member's own and the smallest cohort."""
    own = evidence.mechanism.noise_multiplier
    if evidence.mechanism.noise == "member":
        return own
    others = {
        "coordinator": cohort,
        "member": cohort - 1,
        "coordinator-and-members": cohort - largest_collusion(cohort),
        "everybody-else": 1,
    }[guarantee.adversary]
    return own * math.sqrt(max(1, others))


def _colluding(guarantee: Guarantee, cohort: int) -> int:
    return {"coordinator-and-members": largest_collusion(cohort), "everybody-else": cohort - 1}.get(
        guarantee.adversary, 0
    )


def _number(name: str, stated: float, found: float, tolerance: float) -> Checked:
    agrees = abs(stated - found) <= tolerance * abs(found)
    return Checked(name, _digits(stated), _digits(found), agrees)


def _same(name: str, stated: str, found: str) -> Checked:
    return Checked(name, stated, found, stated == found)


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
