"""How each row of the quality table is trained: member noise, shared noise, and without privacy.

Members take the private step that they take in production; only the transport is left out. "Shared noise" is one noised step a
round over all members' sums, computed in one process: what a sealed aggregation would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import PrivacyTerms, TrainingTerms
from ringfence.privacy.bounding import ContributionManifest
from ringfence.privacy.clipped_sum import HeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.private_step import StepTerms, private_gradient
from ringfence.privacy.secure_noise import RandomSource
from ringfence.privacy.training import descend_privately, weight_decay_of

Parameters = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SHARED_LEARNING_RATE = 0.4
"""Of the steps with shared noise, which is several times smaller than the members' own: no plan may ask for it yet."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The plan's terms under member noise (many steps a round) and under shared noise (one).

    Attributes:
        training: of the plan.
        member: noise for as many steps as the plan has.
        shared: noise for ``shared_steps``.
        shared_steps: rounds of one step.
    """

    training: TrainingTerms
    member: PrivacyTerms
    shared: PrivacyTerms
    shared_steps: int

    def with_architecture(self, name: str) -> Recipe:
        """Return the same recipe for another head."""
        return replace(self, training=self.training.model_copy(update={"architecture": name}))


class RepeatableWords:
    """Random words that come back for the same seed, so that a table can be computed again. Never a source of privacy."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return ``(count,)`` uint64 words."""
        return self._rng.integers(0, 2**64, size=count, dtype=np.uint64)


@dataclass(frozen=True)
class Trained:
    """What one member brings to a run.

    Attributes:
        features: (n, prefixes, d) float32, of what the contribution bound keeps.
        labels: (n,) of them.
        manifest: of them.
        size_class: as declared in public.
    """

    features: npt.NDArray[np.float32]
    labels: Integers
    manifest: ContributionManifest
    size_class: int


def with_member_noise(
    members: Sequence[Trained], start: Parameters, recipe: Recipe, *, rng: RandomSource
) -> Parameters:
    """Train as the federation does; return the average of the last half of its models."""
    sources = [_gradients(member, recipe, clip_norm=recipe.member.clip_norm) for member in members]
    weights = [member.size_class for member in members]
    steps = [
        StepTerms(
            noise_multiplier=recipe.member.noise_multiplier, sample_rate=None, divisor=float(size_class)
        )
        for size_class in weights
    ]
    history, current = [], start
    for _ in range(recipe.training.rounds):
        updated = [
            descend_privately(
                source,
                current,
                terms=recipe.training,
                step=step,
                steps=recipe.training.local_steps,
                rng=rng,
            )
            for source, step in zip(sources, steps, strict=True)
        ]
        current = np.average(updated, axis=0, weights=weights)
        history.append(current)
    return last_half(history)


class SumOfMembers:
    """The members' clipped sums added up, as a sealed aggregation would hand them out."""

    def __init__(self, members: Sequence[Trained], recipe: Recipe) -> None:
        self._sources = [_gradients(member, recipe, clip_norm=recipe.shared.clip_norm) for member in members]
        self.grid = self._sources[0].grid
        self.examples = sum(source.examples for source in self._sources)

    def clipped_sum(self, parameters: Parameters, *, selected: npt.NDArray[np.bool_] | None) -> Integers:
        """Return the sum over all members of what each would send."""
        return np.sum(
            [source.clipped_sum(parameters, selected=selected) for source in self._sources],
            axis=0,
            dtype=np.int64,
        )


def with_shared_noise(
    members: Sequence[Trained], start: Parameters, recipe: Recipe, *, rng: RandomSource
) -> Parameters:
    """Take one noised step a round on the sum of all members, momentum at the coordinator; average the last half."""
    source = SumOfMembers(members, recipe)
    step = StepTerms(
        noise_multiplier=recipe.shared.noise_multiplier,
        sample_rate=None,
        divisor=float(sum(member.size_class for member in members)),
    )
    history, current, velocity = [], start, np.zeros_like(start)
    decay = weight_decay_of(recipe.training, parameters=len(start))
    for _ in range(recipe.shared_steps):
        gradient = private_gradient(source, current, terms=step, rng=rng)
        velocity = recipe.training.momentum * velocity + gradient + decay * current
        current = current - SHARED_LEARNING_RATE * velocity
        history.append(current)
    return last_half(history)


def last_half(history: Sequence[Parameters]) -> Parameters:
    """Return the average of the last half of the models, as a plan publishes it."""
    average: Parameters = np.mean(history[len(history) // 2 :], axis=0)
    return average


def _gradients(member: Trained, recipe: Recipe, *, clip_norm: float) -> HeadGradients:
    architecture = ARCHITECTURES[recipe.training.architecture]
    return HeadGradients(
        architecture.name,
        member.features,
        member.labels,
        grid=Grid(clip_norm=clip_norm, dimension=architecture.parameter_count(member.features.shape[2])),
        positive_weight=recipe.training.positive_weight,
        weights=np.asarray(member.manifest.weights, np.float64),
        group_sizes=np.asarray(member.manifest.group_sizes, np.int64),
    )
