"""A new plan for this federation, from the few numbers that a coordinator chooses."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from ringfence.model.bounds import RECOMMENDED_BOUNDS, Bounds
from ringfence.model.errors import ConfigError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.plan import (
    RECOMMENDED_WEIGHT_DECAY,
    CohortTerms,
    Plan,
    PrivacyTerms,
    TrainingTerms,
    describe,
)
from ringfence.privacy.plan_solving import FixedTerms, solve
from ringfence.server.coordinator_settings import CoordinatorSettings

DEFAULT_EPSILON = 2.0


@dataclass(frozen=True, slots=True)
class DraftTerms:
    """What a coordinator chooses.

    Attributes:
        name: short name of the run, for people.
        rounds: aggregations.
        sample_rate: share of the conversations in a step; 1 is all.
        fixed: contribution bound, steps of a round, delta.
        epsilon: of the run, for a person at one member; None with a noise multiplier, or for 2.
        noise_multiplier: of each member; None: as much as epsilon asks for.
        minimum: fewest members in a round.
        feature_set: an installed one.
        bounds: how the contribution bound is kept; None: grouped on the full batch, greedy where conversations are sampled.
    """

    name: str
    rounds: int
    sample_rate: float
    fixed: FixedTerms
    epsilon: float | None = None
    noise_multiplier: float | None = None
    minimum: int = 3
    feature_set: str = "static-128"
    bounds: Bounds | None = None


def draft_plan(terms: DraftTerms, *, settings: CoordinatorSettings) -> Plan:
    """Return the plan, with the fingerprint of the installed features.

    Args:
        terms: what the coordinator chose.
        settings: of its federation.

    Raises:
        ConfigError: epsilon and noise are both given, a number is out of range, or no noise suffices.
        ReleaseError: the feature set is not installed, or was changed.
    """
    noise = terms.noise_multiplier
    if noise is not None and terms.epsilon is not None:
        raise ConfigError("Epsilon and noise decide each other.", hint="Give one of them.")
    if noise is None:
        epsilon = DEFAULT_EPSILON if terms.epsilon is None else terms.epsilon
        noise = solve(
            terms.fixed, epsilon=epsilon, rounds=terms.rounds, sample_rate=terms.sample_rate
        ).noise_multiplier
    try:
        return Plan(
            name=terms.name,
            federation=settings.federation,
            demonstration=settings.demonstration,
            training=TrainingTerms(
                feature_set=terms.feature_set,
                feature_set_sha256=load_feature_set(terms.feature_set).fingerprint,
                rounds=terms.rounds,
                local_steps=terms.fixed.local_steps,
                weight_decay=RECOMMENDED_WEIGHT_DECAY,
            ),
            privacy=PrivacyTerms(
                contribution_bound=terms.fixed.contribution_bound,
                bounds=terms.bounds or (RECOMMENDED_BOUNDS if terms.sample_rate == 1.0 else "greedy"),
                delta=terms.fixed.delta,
                noise_multiplier=noise,
                sampling="full-batch" if terms.sample_rate == 1.0 else "poisson",
                sample_rate=terms.sample_rate,
            ),
            cohort=CohortTerms(minimum=terms.minimum),
        )
    except ValidationError as error:
        raise ConfigError(f"This is no plan: {describe(error)}", hint="Correct the named numbers.") from error
