"""Training on from a release on the member's own conversations, in private, out of a reserved part of its budget.

A quarter of the people are left out of the training, with all of their conversations. On theirs it is decided which head ranks
better. That look is not private; what it decides stays at the member, like the head itself.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from ringfence.client.local_data import TrainingRows
from ringfence.client.personal_head import Comparison, PersonalHead
from ringfence.client.policy import Policy
from ringfence.model.bounds import RECOMMENDED_BOUNDS, Bounds
from ringfence.model.detector import Detector
from ringfence.model.errors import DataError, PolicyError
from ringfence.model.linked_people import linked_groups
from ringfence.model.metrics import average_precision
from ringfence.model.plan import TrainingTerms
from ringfence.privacy.bounding import ContributionManifest, KeptConversation
from ringfence.privacy.ledger_terms import LedgerTerms, cost_in_units, reserved_units
from ringfence.privacy.planning import noise_multiplier_for
from ringfence.privacy.renyi_filter import RenyiFilter, SampledGaussian
from ringfence.privacy.secure_noise import RandomSource
from ringfence.privacy.training import train_privately

HELD_OUT = 0.25
"""Share of people on whose conversations the two heads are compared."""

FEWEST_POSITIVES = 10
"""Fewer positives among the held-out conversations decide nothing."""

MOST_STEPS = 50
LEARNING_RATE = 0.1
"""Of a head that is good already: the rate of a federation's rounds, not that of a first training."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A member's rows, apart by people.

    Attributes:
        training: of three in four.
        held_out: of the others; nobody is in both.
    """

    training: TrainingRows
    held_out: TrainingRows


def by_people(rows: TrainingRows, *, secret: bytes) -> Parts:
    """Part rows so that whoever is in a conversation of one part is in none of the other.

    Args:
        rows: of the kept conversations.
        secret: the member's own; with it, the same people are held out every time.
    """
    groups = _groups(rows.manifest.kept)
    is_held_out = np.array([_draw(secret, group) < HELD_OUT for group in groups])
    return Parts(training=_part(rows, ~is_held_out), held_out=_part(rows, is_held_out))


def bounds_within(policy: Policy) -> Bounds:
    """Return how the contribution bound is kept: grouped, if the policy allows it, else as it does."""
    allowed = policy.methods.bounds
    return RECOMMENDED_BOUNDS if RECOMMENDED_BOUNDS in allowed else next(iter(allowed), "greedy")


def mechanism_within(policy: Policy, *, epsilon: float) -> SampledGaussian:
    """Return the training that keeps a person within an epsilon: steps of the full batch.

    Raises:
        ConfigError: the epsilon is out of range. The member's to change.
    """
    k, steps = policy.limits.contribution_bound, min(MOST_STEPS, policy.limits.local_steps)
    noise = noise_multiplier_for(
        epsilon, contribution_bound=k, sample_rate=1.0, steps=steps, delta=policy.budget.delta
    )
    return SampledGaussian(k, 1.0, max(noise, policy.limits.noise_floor), steps)


def check_reserve(
    mechanism: SampledGaussian, *, policy: Policy, terms: LedgerTerms, spent: tuple[int, int]
) -> None:
    """Refuse a training that the reserved part of the budget does not hold.

    Args:
        mechanism: what is to be charged.
        policy: the member's own.
        terms: of the ledger.
        spent: headline and fallback units that were charged for personalisation before.

    Raises:
        PolicyError: the policy reserves nothing, or too little. The member's to change.
    """
    share = policy.budget.personalisation_share
    place = policy.place("budget.personalisation_share")
    if share == 0.0:
        raise PolicyError(
            f"{place} = 0.0: nothing of the budget is reserved for this.",
            hint="Write a share there, as 0.2: training together then leaves that part of the lifetime budget alone.",
        )
    for gate, used in zip((terms.headline, terms.fallback), spent, strict=True):
        if used + cost_in_units(gate, mechanism) > reserved_units(gate, share=share):
            allowed = _largest_epsilon(gate, reserved_units(gate, share=share) - used, policy=policy)
            raise PolicyError(
                f"{place} = {share:g}: what is left of the reserved part allows an epsilon of {allowed:.2f} at most.",
                hint="Ask for a smaller --epsilon, or reserve more.",
            )


def personalise(
    detector: Detector,
    parts: Parts,
    *,
    mechanism: SampledGaussian,
    epsilon: float,
    delta: float,
    size_class: int,
    rng: RandomSource,
    now: datetime,
) -> PersonalHead:
    """Train on from a release, and compare on the people who were held out.

    Mechanism: T full-batch Gaussian steps on the clipped sum, momentum.
    Unit: one participant, whose conversations count for at most k.
    Assumes: the caller charges ``mechanism`` before the head is used. The comparison is not private, and stays here.
    Sensitivity: k * S a step.
    Source: Abadi et al. 2016, algorithm 1.

    Args:
        detector: the release.
        parts: the member's rows.
        mechanism: k, q = 1, noise and steps.
        epsilon: of the mechanism, for the record.
        delta: of that epsilon.
        size_class: the member's public size class, by which sums are divided.
        rng: the secret generator.
        now: the present, UTC.

    Raises:
        DataError: the people who were held out have too few positive conversations to compare on, or only such.
    """
    labels = parts.held_out.labels
    positives = int(labels.sum())
    if positives < FEWEST_POSITIVES or positives == len(labels):
        raise DataError(
            "The people who were held out have too few positive conversations to compare two heads on, or no others.",
            hint=f"Label more: about {FEWEST_POSITIVES} positives must fall to a quarter of the people.",
        )
    terms = TrainingTerms(
        feature_set=detector.feature_set.name,
        feature_set_sha256=detector.feature_set.fingerprint,
        architecture=detector.architecture,
        learning_rate=LEARNING_RATE,
        local_steps=mechanism.steps,
    )
    trained = train_privately(
        detector.parameters,
        features=parts.training.features,
        labels=parts.training.labels,
        manifest=parts.training.manifest,
        terms=terms,
        mechanism=mechanism,
        clip_norm=1.0,
        size_class=size_class,
        rng=rng,
    )
    # The whole conversation is the last prefix.
    whole = parts.held_out.features[:, -1]
    own = Detector(detector.feature_set, trained, detector.architecture)
    return PersonalHead(
        release_sha256=detector.digest(),
        parameters=tuple(trained.tolist()),
        made_at=now,
        contribution_bound=mechanism.contribution_bound,
        noise_multiplier=mechanism.noise_multiplier,
        steps=mechanism.steps,
        epsilon=epsilon,
        delta=delta,
        compared=Comparison(
            conversations=len(labels),
            positives=positives,
            release=average_precision(labels, detector.logits(whole)),
            personal=average_precision(labels, own.logits(whole)),
        ),
    )


def terms_digest(mechanism: SampledGaussian, *, release: str) -> str:
    """Return what the ledger names in place of a plan: SHA-256 of the release and of what was done, in hexadecimal."""
    said = f"personalise|{release}|{mechanism.contribution_bound}|{mechanism.noise_multiplier!r}|{mechanism.steps}"
    return hashlib.sha256(said.encode()).hexdigest()


def _groups(kept: Sequence[KeptConversation]) -> list[str]:
    """Return for each conversation the name of its group: of the people in it, whoever comes first by name."""
    numbers = linked_groups([row.participants for row in kept])
    names: dict[int, str] = {}
    for number, row in zip(numbers, kept, strict=True):
        names[number] = min(row.participants + ((names[number],) if number in names else ()))
    return [names[number] for number in numbers]


def _draw(secret: bytes, group: str) -> float:
    """Return a number in [0, 1) that the secret and the group decide."""
    digest = hmac.new(secret, f"held-out|{group}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _part(rows: TrainingRows, chosen: npt.NDArray[np.bool_]) -> TrainingRows:
    kept = tuple(row for row, is_chosen in zip(rows.manifest.kept, chosen, strict=True) if is_chosen)
    return TrainingRows(
        features=rows.features[chosen],
        labels=rows.labels[chosen],
        manifest=ContributionManifest(rows.manifest.contribution_bound, kept),
    )


def _largest_epsilon(gate: RenyiFilter, units: int, *, policy: Policy) -> float:
    """Return the largest epsilon of one training that a number of units holds, to a hundredth, rounded down."""
    low, high = 0.0, policy.budget.lifetime_epsilon
    while high - low > 0.005:
        middle = (low + high) / 2
        fits = cost_in_units(gate, mechanism_within(policy, epsilon=middle)) <= units
        low, high = (middle, high) if fits else (low, middle)
    return math.floor(100 * low) / 100
