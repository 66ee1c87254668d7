"""A member's part of a round: a fixed number of private steps from the given model."""

from __future__ import annotations

import numpy as np

from ringfence.model.errors import BudgetError, ConfigError, PeerError
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import TrainingTerms
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray
from ringfence.privacy.bounding import ContributionManifest, verify_manifest
from ringfence.privacy.clipped_sum import ClippedSumSource, HeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.head_gradients import FORMULAS
from ringfence.privacy.private_step import StepTerms, private_gradients
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.secure_noise import RandomSource


def train_privately(
    parameters: FloatArray,
    *,
    features: FeatureArray,
    labels: FloatArray | IntegerArray,
    manifest: ContributionManifest,
    terms: TrainingTerms,
    mechanism: SampledGaussian,
    clip_norm: float,
    size_class: int,
    rng: RandomSource,
    device: str = "cpu",
) -> FloatArray:
    """Take private steps on the plan's head and return the model after them.

    Mechanism: composition of T (sampled) Gaussian steps, then post-processing (momentum gradient descent, weight decay).
    Unit: one participant, whose conversations weigh at most k together (checked again here, from the manifest).
    Assumes: what `private_gradient` assumes; the caller charges ``mechanism`` before anything leaves.
    Sensitivity: k * S a step.
    Source: Abadi et al. 2016, algorithm 1; Kairouz et al. 2021 for momentum as post-processing.

    Args:
        parameters: ``(p,)`` float64, in the order of the plan's architecture; public.
        features: ``(n, prefixes, dimension)`` float32; row i belongs to row i of the manifest.
        labels: ``(n,)``, each 0 or 1.
        manifest: which conversations these are; its weights apply after clipping.
        terms: the plan's training terms.
        mechanism: T, k, q and the member's own noise: the very value that is charged.
        clip_norm: C of the plan.
        size_class: public power of two near the member's number of conversations; the sum is divided by it (times the
            sample rate under Poisson sampling).
        rng: the secret generator.
        device: "cpu", which needs no torch, or a GPU that torch knows.

    Returns:
        ``(p,)`` float64.

    Raises:
        BudgetError: somebody counts more often than the plan allows, or, under sampling, conversations are grouped or somebody
            is in more than k.
        ConfigError: shapes, labels, steps or size class are out of range, or the architecture is not known. The caller's
            fault.
        PeerError: the model that was given is not finite. The coordinator's fault.
    """
    check_model(parameters)
    check_size_class(size_class)
    verify_manifest(manifest, contribution_bound=mechanism.contribution_bound)
    if len(manifest.kept) != len(features):
        raise BudgetError(
            "The examples are not the conversations of the manifest.",
            hint="Compute the features of exactly the conversations that the contribution bound kept.",
        )
    full_batch = mechanism.sample_rate == 1.0
    sizes = manifest.group_sizes
    if not full_batch and (
        max(sizes, default=1) > 1 or manifest.most_examples > mechanism.contribution_bound
    ):
        # What sampling is accounted for is an example that is nothing without the person.
        raise BudgetError(
            "Fractional and grouped contribution bounds hold for the full batch only.",
            hint="Bound with whole conversations for a plan that samples.",
        )
    source = _source(
        features,
        labels,
        terms=terms,
        grid=Grid(clip_norm=clip_norm, dimension=len(parameters)),
        weights=np.asarray(manifest.weights, dtype=np.float64)
        if any(weight != 1.0 for weight in manifest.weights)
        else None,
        group_sizes=np.asarray(sizes, dtype=np.int64) if max(sizes, default=1) > 1 else None,
        device=device,
    )
    step = StepTerms(
        noise_multiplier=mechanism.noise_multiplier,
        sample_rate=None if full_batch else mechanism.sample_rate,
        divisor=mechanism.sample_rate * size_class,
    )
    return descend_privately(source, parameters, terms=terms, step=step, steps=mechanism.steps, rng=rng)


def descend_privately(
    source: ClippedSumSource,
    parameters: FloatArray,
    *,
    terms: TrainingTerms,
    step: StepTerms,
    steps: int,
    rng: RandomSource,
) -> FloatArray:
    """Take private steps with any source of clipped sums; see `train_privately`, which checks what this assumes."""
    _check_steps(steps)
    current = np.array(parameters, dtype=np.float64)
    velocity, decay = np.zeros_like(current), weight_decay_of(terms, parameters=len(current))
    for gradient in private_gradients(source, terms=step, steps=steps, rng=rng):
        velocity *= terms.momentum
        velocity += gradient(current)
        velocity += decay * current
        current = current - terms.learning_rate * velocity
    return current


def train_without_privacy(
    parameters: FloatArray,
    *,
    features: FeatureArray,
    labels: FloatArray | IntegerArray,
    terms: TrainingTerms,
    steps: int,
) -> FloatArray:
    """Train without clipping and without noise: for comparison only, on data that needs no protection.

    Nothing that this returns may leave a member. It gives the reference rows of a quality table. Arguments and errors are
    those of `train_privately`.
    """
    check_model(parameters)
    _check_steps(steps)
    source = HeadGradients(
        terms.architecture,
        features,
        labels,
        grid=Grid(clip_norm=1.0, dimension=len(parameters)),
        positive_weight=terms.positive_weight,
    )
    current = np.array(parameters, dtype=np.float64)
    velocity, decay = np.zeros_like(current), weight_decay_of(terms, parameters=len(current))
    for _ in range(steps):
        velocity = terms.momentum * velocity + source.mean_gradient(current) + decay * current
        current = current - terms.learning_rate * velocity
    return current


def weight_decay_of(terms: TrainingTerms, *, parameters: int) -> FloatArray:
    """Return what each parameter is multiplied by and added to its gradient, ``(p,)`` float64: 0 for biases.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, section 2 (L2 regularisation under momentum). It looks at the model
    alone, so that it is post-processing.
    """
    if terms.weight_decay == 0.0:
        return np.zeros(parameters)
    return np.where(ARCHITECTURES[terms.architecture].is_weight(parameters), terms.weight_decay, 0.0)


def nearest_size_class(expected: int) -> int:
    """Return the power of two nearest to a number of conversations that the member is willing to make public."""
    if expected < 1:
        raise ConfigError("A size class needs at least one conversation.", hint="Declare a larger one.")
    below = 1 << (expected.bit_length() - 1)
    return below if expected - below < 2 * below - expected else 2 * below


def check_model(parameters: FloatArray) -> None:
    """Refuse a model that is not a finite vector.

    Raises:
        PeerError: it is not. The coordinator's fault.
    """
    if parameters.ndim != 1 or not np.isfinite(parameters).all():
        raise PeerError("The model that was sent is not a finite vector of parameters.")


def check_size_class(size_class: int) -> None:
    """Refuse a size class that is not a power of two.

    Raises:
        ConfigError: it is not: an exact number would reveal how many conversations there are. The operator's fault.
    """
    if size_class < 1 or size_class & (size_class - 1):
        raise ConfigError(
            "The size class must be a power of two.",
            hint="Declare the power of two nearest to the data set's size.",
        )


def _source(
    features: FeatureArray,
    labels: FloatArray | IntegerArray,
    *,
    terms: TrainingTerms,
    grid: Grid,
    weights: FloatArray | None,
    group_sizes: IntegerArray | None,
    device: str,
) -> ClippedSumSource:
    if terms.architecture not in FORMULAS:
        return _through_its_module(
            features, labels, terms=terms, grid=grid, weights=weights, group_sizes=group_sizes, device=device
        )
    if device == "cpu":
        return HeadGradients(
            terms.architecture,
            features,
            labels,
            grid=grid,
            positive_weight=terms.positive_weight,
            weights=weights,
            group_sizes=group_sizes,
        )
    from ringfence.privacy.torch_sum import DeviceHeadGradients

    return DeviceHeadGradients(
        terms.architecture,
        features,
        labels,
        grid=grid,
        positive_weight=terms.positive_weight,
        weights=weights,
        group_sizes=group_sizes,
        device=device,
    )


def _through_its_module(
    features: FeatureArray,
    labels: FloatArray | IntegerArray,
    *,
    terms: TrainingTerms,
    grid: Grid,
    weights: FloatArray | None,
    group_sizes: IntegerArray | None,
    device: str,
) -> ClippedSumSource:
    """Return the sums of a head that has no closed form: per-sample gradients by Opacus; clip, grid and noise as for any."""
    from ringfence.privacy.head_modules import module_of
    from ringfence.privacy.opacus_backend import ModuleGradients

    return ModuleGradients(
        module_of(terms.architecture, features.shape[2]).to(device),
        features,
        labels,
        grid=grid,
        positive_weight=terms.positive_weight,
        weights=weights,
        group_sizes=group_sizes,
    )


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ConfigError("A round needs at least one step.", hint="Correct local_steps in the plan.")
