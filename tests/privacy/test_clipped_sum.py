"""The clipped sum is the same from the closed forms and from Opacus, and nobody can exceed their share of it."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.model.errors import ConfigError
from ringfence.model.head import ARCHITECTURES
from ringfence.privacy import clipped_sum
from ringfence.privacy.clipped_sum import (
    HeadGradients,
    LinearHeadGradients,
    clip_factors,
    on_fine_grid,
)
from ringfence.privacy.examples import Examples
from ringfence.privacy.grid import Grid
from ringfence.privacy.head_gradients import FORMULAS
from ringfence.privacy.head_modules import MODULES, module_of
from ringfence.privacy.opacus_backend import ModuleGradients
from ringfence.privacy.torch_sum import DeviceHeadGradients, one_each, sum_on_fine_grid

DIMENSION = 108
GRID = Grid(1.0, DIMENSION + 1)


def on_device(architecture, features, labels, **changes):
    return DeviceHeadGradients(architecture, features, labels, device="cpu", **changes)


CLOSED_FORMS = {"numpy": HeadGradients, "torch": on_device}


def by_closed_form(gradients: np.ndarray, weights: np.ndarray | None, grid: Grid) -> np.ndarray:
    factors = clip_factors(np.square(gradients).sum(axis=1), clip_norm=grid.clip_norm)
    return grid.rounded(on_fine_grid((factors if weights is None else factors * weights) @ gradients, grid))


def by_torch(gradients: np.ndarray, weights: np.ndarray | None, grid: Grid) -> np.ndarray:
    (alone,) = Examples(one_each(len(gradients))).stretches(most=len(gradients))
    weighing = None if weights is None else torch.as_tensor(weights)
    return grid.rounded(
        sum_on_fine_grid(torch.as_tensor(gradients), alone, weights=weighing, grid=grid).numpy()
    )


BOTH_SUMS = pytest.mark.parametrize("clip_and_sum", [by_closed_form, by_torch], ids=["numpy", "torch"])


def model_of(architecture: str, seed: int = 3) -> np.ndarray:
    count = ARCHITECTURES[architecture].parameter_count(DIMENSION)
    return 0.1 * np.random.default_rng(seed).normal(size=count)


@pytest.fixture
def examples():
    generator = np.random.default_rng(5)
    features = generator.normal(size=(300, 4, DIMENSION)).astype(np.float32)
    features *= 4 / np.linalg.norm(features, axis=2, keepdims=True)
    labels = generator.integers(0, 2, size=300)
    return features, labels, 0.1 * generator.normal(size=DIMENSION + 1)


def test_every_architecture_of_the_registry_has_a_closed_form_and_a_reference_here():
    assert set(FORMULAS) == set(MODULES) == set(ARCHITECTURES)
    for name, architecture in ARCHITECTURES.items():
        assert FORMULAS[name](DIMENSION).parameters == architecture.parameter_count(DIMENSION)


@pytest.mark.parametrize("architecture", MODULES)
@pytest.mark.parametrize("make", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
class TestEveryBackend:
    def both(self, make, architecture, examples, *, prefixes=4, weights=None):
        features, labels, _ = examples
        features = features[:, :prefixes]
        terms = {
            "grid": Grid(1.0, ARCHITECTURES[architecture].parameter_count(DIMENSION)),
            "positive_weight": 2.0,
            "weights": weights,
        }
        reference = ModuleGradients(
            module_of(architecture, DIMENSION), features.astype(np.float64), labels, **terms
        )
        return make(architecture, features, labels, **terms), reference

    @pytest.mark.parametrize("prefixes", [1, 4])
    def test_agrees_with_opacus_on_every_conversations_gradient(self, make, architecture, examples, prefixes):
        closed, reference = self.both(make, architecture, examples, prefixes=prefixes)
        model = model_of(architecture)
        expected = reference.gradients(model)
        assert np.abs(closed.gradients(model) - expected).max() < 1e-7
        if isinstance(closed, HeadGradients):
            assert np.abs(closed.norms(model) - np.linalg.norm(expected, axis=1)).max() < 1e-7

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("share", [None, 0.0, 0.3])
    def test_agrees_with_opacus_on_the_clipped_sum(self, make, architecture, examples, share, weighted):
        generator = np.random.default_rng(1)
        weights = generator.uniform(0.05, 1.0, size=300) if weighted else None
        selected = None if share is None else generator.uniform(size=300) < share
        closed, reference = self.both(make, architecture, examples, weights=weights)
        model = model_of(architecture)
        left = closed.clipped_sum(model, selected=selected)
        right = reference.clipped_sum(model, selected=selected)
        # Floating-point differences of 1e-15 can move the sum across half a step.
        assert np.abs(left - right).max() <= 1
        assert left.any() == (share != 0.0)

    def test_gives_each_conversation_the_gradient_of_a_batch_of_one(self, make, architecture, examples):
        features, labels, _ = examples
        model = model_of(architecture)
        terms = {"grid": Grid(1.0, len(model)), "positive_weight": 2.0}
        together = make(architecture, features, labels, **terms).gradients(model)
        alone = [
            make(architecture, features[i : i + 1], labels[i : i + 1], **terms).gradients(model)[0]
            for i in range(0, 300, 17)
        ]
        assert np.abs(together[::17] - alone).max() < 1e-9


class TestOneConversation:
    @BOTH_SUMS
    @settings(max_examples=60, deadline=None)
    @given(
        scale=st.floats(1e-6, 1e30),
        weight=st.floats(1e-6, 1.0),
        clip_norm=st.sampled_from([0.1, 1.0, 37.0]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_never_moves_the_sum_by_more_than_its_weight_times_the_clip_norm_and_a_step(
        self, clip_and_sum, scale, weight, clip_norm, seed
    ):
        grid = Grid(clip_norm, 109)
        gradients = np.random.default_rng(seed).normal(size=(1, 109)) * scale
        others = np.random.default_rng(seed + 1).normal(size=(5, 109))
        both = clip_and_sum(np.concatenate([others, gradients]), np.array([1.0] * 5 + [weight]), grid)
        moved = np.linalg.norm((both - clip_and_sum(others, None, grid)) * grid.step)
        assert moved <= weight * clip_norm * (1 + 1e-9) + grid.step * np.sqrt(109)
        assert moved <= grid.sensitivity

    @BOTH_SUMS
    @pytest.mark.parametrize("clip_norm", [0.05, 1.0, 37.0])
    def test_counts_in_full_within_the_clip_norm_and_as_much_as_that_beyond_it(self, clip_and_sum, clip_norm):
        grid = Grid(clip_norm, 2)
        for length, counted in ((0.5, 0.5), (10.0, 1.0)):
            moved = clip_and_sum(clip_norm * length * np.array([[0.6, -0.8]]), None, grid) * grid.step
            assert moved == pytest.approx(clip_norm * counted * np.array([0.6, -0.8]), abs=grid.step)

    @pytest.mark.parametrize("architecture", MODULES)
    @pytest.mark.parametrize("prefixes", [1, 4])
    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
    @pytest.mark.parametrize("make", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
    def test_counts_as_nothing_when_its_gradient_is_not_finite(
        self, make, examples, poison, prefixes, architecture
    ):
        features, labels, _ = examples
        features = features[:, :prefixes]
        poisoned = features.copy()
        poisoned[7, prefixes - 1, 5] = poison
        model = model_of(architecture)
        grid = Grid(1.0, len(model))
        found = make(architecture, poisoned, labels, grid=grid, positive_weight=2.0).clipped_sum(
            model, selected=None
        )
        others = np.arange(300) != 7
        clean = make(architecture, features, labels, grid=grid, positive_weight=2.0)
        without = clean.clipped_sum(model, selected=others)
        moved = np.linalg.norm((found - without) * grid.step)
        if np.isfinite(poison):
            assert moved <= grid.sensitivity
        else:
            assert (found == without).all()

    @pytest.mark.parametrize("architecture", MODULES)
    @pytest.mark.parametrize("make", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
    def test_counts_as_nothing_when_the_model_makes_its_logit_not_a_number(
        self, make, examples, architecture
    ):
        """Features that are finite, in two columns that only this conversation has, and a product that overflows both ways."""
        features, labels, _ = examples
        features[:, :, :2] = 0.0
        features[7, 3, :2] = 3e38
        model = model_of(architecture)
        units = max(1, len(model) // (DIMENSION + 1))
        model[: units * (DIMENSION + 1)].reshape(units, -1)[:, :2] = 1e300, -1e300
        source = make(architecture, features, labels, grid=Grid(1.0, len(model)), positive_weight=2.0)
        found = source.clipped_sum(model, selected=None)
        assert found.any()
        assert np.abs(found - source.clipped_sum(model, selected=np.arange(300) != 7)).max() <= 1


def opacus(architecture, features, labels, **changes):
    return ModuleGradients(module_of(architecture, DIMENSION), features.astype(np.float64), labels, **changes)


class TestASample:
    """Sampling is accounted for by what a step does with an example and without it: the others may not change."""

    @pytest.mark.parametrize("architecture", MODULES)
    @pytest.mark.parametrize("prefixes", [1, 3, 4])
    @pytest.mark.parametrize("make", [*CLOSED_FORMS.values(), opacus], ids=[*CLOSED_FORMS.keys(), "opacus"])
    def test_with_one_conversation_more_adds_no_more_than_its_own(self, make, prefixes, architecture):
        """Weights of 1e20 that cancel on every row: a logit is nothing but rounding, which depends on where the row lies."""
        worst = 0.0
        for seed in range(3):
            generator = np.random.default_rng(seed)
            order = generator.permutation(DIMENSION)
            half, weights = generator.normal(size=(2, DIMENSION // 2))
            row = np.concatenate([half, half])[order]
            features = np.empty((301, prefixes, DIMENSION), np.float32)
            features[:] = 3.9 * row / np.linalg.norm(row)
            model = np.zeros(ARCHITECTURES[architecture].parameter_count(DIMENSION))
            units = max(1, len(model) // (DIMENSION + 2))
            hidden = model[: units * (DIMENSION + 1)].reshape(units, -1)
            hidden[:, :-1] = 1e20 * np.concatenate([weights, -weights])[order]
            if units > 1:
                model[units * (DIMENSION + 1) : -1] = 1.0
            grid = Grid(1.0, len(model))
            source = make(architecture, features, np.zeros(301, np.int64), grid=grid, positive_weight=2.0)
            for _ in range(4):
                selected = generator.uniform(size=301) < 0.4
                one = generator.integers(301)
                sums = []
                for selected[one] in (True, False):
                    sums.append(source.clipped_sum(model, selected=selected))
                worst = max(worst, float(np.linalg.norm((sums[0] - sums[1]) * grid.step)) / grid.sensitivity)
        assert 0.0 < worst <= 1.0

    @pytest.mark.parametrize("count", [299, 301, 0])
    @pytest.mark.parametrize("make", [*CLOSED_FORMS.values(), opacus], ids=[*CLOSED_FORMS.keys(), "opacus"])
    def test_of_other_examples_is_refused(self, make, count, examples):
        features, labels, model = examples
        source = make("linear-109", features, labels, grid=GRID, positive_weight=2.0)
        with pytest.raises(ConfigError, match="not of these 300 examples"):
            source.clipped_sum(model, selected=np.ones(count, bool))

    @pytest.mark.parametrize("make", [*CLOSED_FORMS.values(), opacus], ids=[*CLOSED_FORMS.keys(), "opacus"])
    def test_of_some_is_the_sum_of_those_alone(self, make, examples):
        features, labels, _ = examples
        model, grid = model_of("linear-109"), GRID
        selected = np.random.default_rng(2).uniform(size=len(labels)) < 0.4
        found, alone = (
            make("linear-109", rows, targets, grid=grid, positive_weight=2.0).clipped_sum(
                model, selected=chosen
            )
            for rows, targets, chosen in (
                (features, labels, selected),
                (features[selected], labels[selected], None),
            )
        )
        assert np.abs(found - alone).max() <= 1
        assert found.any()


class TestTheSum:
    @BOTH_SUMS
    def test_of_a_person_spread_over_a_thousand_conversations_stays_within_the_bound(self, clip_and_sum):
        """Rounding each conversation to the grid would exceed what the noise is scaled to; the sum is rounded for this reason."""
        count, bound = 1000, 2
        gradients = np.full((count, 109), 7.0)
        weights = np.full(count, bound / count)
        moved = np.linalg.norm(clip_and_sum(gradients, weights, GRID) * GRID.step)
        assert moved <= bound * GRID.sensitivity
        clipped = gradients / np.linalg.norm(gradients, axis=1, keepdims=True) * weights[:, None]
        nearest = np.rint(clipped / GRID.step).sum(axis=0) * GRID.step
        assert np.linalg.norm(nearest) > bound * GRID.sensitivity

    @pytest.mark.parametrize("architecture", MODULES)
    def test_is_that_of_exact_arithmetic_to_a_step(self, architecture, examples):
        """Against fractions, with every conversation clipped; a float32 sum of as many is a hundred steps away."""
        features, labels, _ = examples
        features, labels = np.concatenate([features] * 8), np.concatenate([labels] * 8)
        model = 40 * model_of(architecture)
        grid = Grid(0.05, len(model))
        source = HeadGradients(architecture, features, labels, grid=grid, positive_weight=2.0)
        assert (source.norms(model) > grid.clip_norm).mean() > 0.3
        gradients = source.gradients(model)
        factors = clip_factors(np.square(gradients).sum(axis=1), clip_norm=grid.clip_norm)
        found = source.clipped_sum(model, selected=None)
        for column in (0, 7, len(model) - 1):
            exact = sum(
                Fraction(factor) * Fraction(value)
                for factor, value in zip(factors.tolist(), gradients[:, column].tolist(), strict=True)
            )
            assert abs(found[column] - float(exact / Fraction(grid.step))) <= 0.51

    def test_of_terms_that_cancel_within_a_conversation_is_still_clipped(self, examples):
        """Two prefixes that are nearly each other's opposite: their norm from products must not come out too short."""
        features, labels, model = examples
        features = features[:, :2] * np.float32(1e6)
        features[:, 1] = -features[:, 0] * (1 + np.float32(1e-6))
        grid = Grid(1.0, DIMENSION + 1)
        for row in range(0, 300, 20):
            alone = HeadGradients(
                "linear-109", features[row : row + 1], labels[row : row + 1], grid=grid, positive_weight=2.0
            )
            assert np.linalg.norm(alone.clipped_sum(0 * model, selected=None) * grid.step) <= grid.sensitivity


def test_training_on_the_cpu_needs_no_torch():
    code = "import sys, ringfence.privacy.training; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("held", [0, clipped_sum.HELD_ROWS_BYTES], ids=["converted", "kept"])
def test_the_size_of_micro_batches_does_not_matter(examples, monkeypatch, held):
    features, labels, parameters = examples
    monkeypatch.setattr(clipped_sum, "HELD_ROWS_BYTES", held)
    whole = LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0)
    assert len(labels) % 7
    monkeypatch.setattr(clipped_sum, "MICRO_BATCH_ROWS", 7 * features.shape[1])
    in_pieces = LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0)
    for selected in (None, np.arange(len(labels)) % 3 > 0):
        left, right = (source.clipped_sum(parameters, selected=selected) for source in (whole, in_pieces))
        assert np.abs(left - right).max() <= 1
        assert left.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, y, w: (f[:-1], y, w), "differ in number"),
        (lambda f, y, w: (f, np.where(np.arange(len(y)) == 3, 2, y), w), "0 or 1"),
        (lambda f, y, w: (f[:, :, :-1], y, w), "do not fit"),
        (lambda f, y, w: (f[:, 0], y, w), "do not fit"),
        (lambda f, y, w: (f, y, w * 1.5), "weight"),
        (lambda f, y, w: (f, y, w * np.nan), "weight"),
        (lambda f, y, w: (f[:, :0], y, w), "do not fit"),
    ],
    ids=[
        "a row missing",
        "a third label",
        "another feature set",
        "one row too flat",
        "a heavy weight",
        "a weight that is NaN",
        "prefixes of nothing",
    ],
)
def test_examples_that_do_not_belong_together_are_refused(examples, change, message):
    features, labels, _ = examples
    features, labels, weights = change(features, labels, np.ones(len(labels)))
    with pytest.raises(ConfigError, match=message):
        LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0, weights=weights)


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [2, 2], None])
def test_features_of_more_than_float32_count_as_nothing_and_spoil_nothing(sizes):
    features = np.ones((4, 2, DIMENSION))
    features[0], features[1] = 1e200, 1e120
    terms = {
        "grid": GRID,
        "positive_weight": 2.0,
        "group_sizes": None if sizes is None else np.array(sizes),
    }
    model = np.zeros(DIMENSION + 1)
    labels = np.array([1, 0, 1, 0])
    found = HeadGradients("linear-109", features, labels, **terms).clipped_sum(model, selected=None)
    assert (
        found == on_device("linear-109", features, labels, **terms).clipped_sum(model, selected=None)
    ).all()
    assert np.linalg.norm(found * GRID.step) <= GRID.sensitivity


def test_of_no_conversation_there_is_no_gradient_and_a_sum_of_zero():
    source = LinearHeadGradients(
        np.zeros((0, 4, DIMENSION), np.float32), np.zeros(0, np.int64), grid=GRID, positive_weight=2.0
    )
    model = np.zeros(DIMENSION + 1)
    assert source.gradients(model).shape == (0, DIMENSION + 1)
    assert source.norms(model).shape == (0,)
    assert not source.clipped_sum(model, selected=None).any()


def test_a_module_that_works_in_place_does_not_reach_the_data():
    class Halving(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(DIMENSION, 1)

        def forward(self, rows):
            rows.data.mul_(0.5)
            return self.inner(rows).squeeze(-1)

    features = np.ones((3, 2, DIMENSION), np.float32)
    source = ModuleGradients(Halving(), features, np.array([0, 1, 0]), grid=GRID, positive_weight=1.0)
    sums = [source.clipped_sum(np.zeros(DIMENSION + 1), selected=None) for _ in range(2)]
    assert (sums[0] == sums[1]).all()
    assert (features == 1.0).all()


def test_a_step_that_failed_half_way_is_not_followed_by_another(monkeypatch):
    """Opacus keeps what the way there left for the way back: the next step would count it in."""
    features = np.ones((3, 2, DIMENSION), np.float32)
    source = opacus("linear-109", features, np.array([0, 1, 0]), grid=GRID, positive_weight=1.0)

    def stopped(*_arguments):
        raise MemoryError

    monkeypatch.setattr(torch.autograd, "backward", stopped)
    with pytest.raises(MemoryError):
        source.clipped_sum(np.zeros(DIMENSION + 1), selected=None)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="failed before"):
        source.clipped_sum(np.zeros(DIMENSION + 1), selected=None)


@pytest.mark.parametrize("make", [*CLOSED_FORMS.values(), opacus], ids=[*CLOSED_FORMS.keys(), "opacus"])
def test_weights_that_the_caller_changes_afterwards_are_the_ones_that_were_checked(make, examples):
    features, labels, model = examples
    weights = np.full(300, 0.5)
    source = make("linear-109", features, labels, grid=GRID, positive_weight=2.0, weights=weights)
    before = source.clipped_sum(model, selected=None)
    weights[:] = 50.0
    assert (source.clipped_sum(model, selected=None) == before).all()


def test_more_conversations_than_64_bits_hold_are_refused():
    many = clipped_sum.MOST_SUMMANDS + 1
    features = np.broadcast_to(np.zeros((1, 1, DIMENSION), np.float32), (many, 1, DIMENSION))
    with pytest.raises(ConfigError, match="cannot be summed"):
        LinearHeadGradients(features, np.zeros(many, np.int8), grid=GRID, positive_weight=2.0)


def test_an_architecture_without_a_closed_form_is_refused(examples):
    features, labels, _ = examples
    with pytest.raises(ConfigError, match="cannot be trained"):
        HeadGradients("everything-at-once", features, labels, grid=GRID, positive_weight=2.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", MODULES)
def test_a_gpu_gives_the_same_sum(examples, architecture):
    features, labels, _ = examples
    model = model_of(architecture)
    terms = {"grid": Grid(1.0, len(model)), "positive_weight": 2.0}
    sums = [
        source.clipped_sum(model, selected=None)
        for source in (
            HeadGradients(architecture, features, labels, **terms),
            DeviceHeadGradients(architecture, features, labels, device="cuda", **terms),
        )
    ]
    assert np.abs(sums[0] - sums[1]).max() <= 3
