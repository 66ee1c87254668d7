"""The clipped sum is the same from the closed form and from Opacus, and nobody can exceed their share of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ringfence.model.errors import ConfigError
from ringfence.privacy import clipped_sum
from ringfence.privacy.clipped_sum import LinearHeadGradients, clip_gradients, round_to_grid
from ringfence.privacy.grid import Grid
from ringfence.privacy.opacus_backend import ModuleGradients

DIMENSION = 108
GRID = Grid(1.0, DIMENSION + 1)


class PrefixHead(nn.Module):
    """The linear head as a module: features of each prefix to one logit each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIMENSION, 1).double()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features).squeeze(-1)


@pytest.fixture
def examples():
    generator = np.random.default_rng(5)
    features = generator.normal(size=(300, 4, DIMENSION)).astype(np.float32)
    features *= 4 / np.linalg.norm(features, axis=2, keepdims=True)
    labels = generator.integers(0, 2, size=300)
    return features, labels, 0.1 * generator.normal(size=DIMENSION + 1)


class TestBothBackends:
    def test_agree_on_every_conversations_gradient(self, examples):
        features, labels, parameters = examples
        closed = LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0)
        reference = ModuleGradients(
            PrefixHead(), features.astype(np.float64), labels, grid=GRID, positive_weight=2.0
        )
        difference = np.abs(closed.gradients(parameters) - reference.gradients(parameters)).max()
        assert difference < 1e-7

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("share", [None, 0.0, 0.3])
    def test_agree_on_the_clipped_sum(self, examples, share, weighted):
        features, labels, parameters = examples
        generator = np.random.default_rng(1)
        weights = generator.uniform(0.05, 1.0, size=300) if weighted else None
        selected = None if share is None else generator.uniform(size=300) < share
        closed = LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0, weights=weights)
        reference = ModuleGradients(
            PrefixHead(), features.astype(np.float64), labels, grid=GRID, positive_weight=2.0, weights=weights
        )
        left = closed.clipped_sum(parameters, selected=selected)
        right = reference.clipped_sum(parameters, selected=selected)
        # Floating-point differences of 1e-15 can move a value across a step; no more than a few of 300.
        assert np.abs(left - right).max() <= 3
        assert left.any() == (share != 0.0)


class TestOneConversation:
    @settings(max_examples=60, deadline=None)
    @given(
        scale=st.floats(1e-6, 1e30),
        weight=st.floats(1e-6, 1.0),
        clip_norm=st.sampled_from([0.1, 1.0, 37.0]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_never_moves_the_sum_by_more_than_its_weight_times_the_clip_norm(
        self, scale, weight, clip_norm, seed
    ):
        grid = Grid(clip_norm, 109)
        gradients = torch.as_tensor(np.random.default_rng(seed).normal(size=(1, 109)) * scale)
        moved = round_to_grid(
            clip_gradients(gradients, clip_norm=clip_norm), torch.tensor([weight]).double(), grid
        )
        assert np.linalg.norm(moved.numpy() * grid.step) <= weight * clip_norm * (1 + 1e-12)

    def test_counts_in_full_when_it_is_within_the_clip_norm(self):
        gradients = torch.tensor([[0.3, -0.4]]).double()
        moved = round_to_grid(clip_gradients(gradients, clip_norm=1.0), None, Grid(1.0, 2))
        assert moved.numpy() * Grid(1.0, 2).step == pytest.approx([0.3, -0.4], abs=2.0**-20)

    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
    def test_counts_as_nothing_when_its_gradient_is_not_finite(self, examples, poison):
        features, labels, parameters = examples
        poisoned = features.copy()
        poisoned[7, 2, 5] = poison
        source = LinearHeadGradients(poisoned, labels, grid=GRID, positive_weight=2.0)
        found = source.clipped_sum(parameters, selected=None)
        others = np.arange(300) != 7
        clean = LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0)
        without = clean.clipped_sum(parameters, selected=others)
        limit = 1.0 if np.isfinite(poison) else 0.0
        assert np.linalg.norm((found - without) * GRID.step) <= limit * (1 + 1e-9)


def test_a_person_spread_over_a_thousand_conversations_stays_within_the_bound():
    """With rounding to nearest this sum exceeds what the noise is scaled to; rounding is towards zero for this reason."""
    count, bound = 1000, 2
    gradients = torch.full((count, 109), 1.0).double() * 7
    weights = torch.full((count,), bound / count).double()
    moved = round_to_grid(clip_gradients(gradients, clip_norm=1.0), weights, GRID).numpy() * GRID.step
    assert np.linalg.norm(moved) <= bound
    nearest = torch.round(clip_gradients(gradients, clip_norm=1.0) * weights[:, None] / GRID.step).sum(dim=0)
    assert np.linalg.norm(nearest.numpy() * GRID.step) > bound * GRID.sensitivity


def test_the_size_of_micro_batches_does_not_matter(examples, monkeypatch):
    features, labels, parameters = examples
    source = LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0)
    whole = source.clipped_sum(parameters, selected=None)
    monkeypatch.setattr(clipped_sum, "MICRO_BATCH", 7)
    assert np.abs(source.clipped_sum(parameters, selected=None) - whole).max() <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, y, w: (f[:-1], y, w), "differ in number"),
        (lambda f, y, w: (f, np.where(np.arange(len(y)) == 3, 2, y), w), "0 or 1"),
        (lambda f, y, w: (f[:, :, :-1], y, w), "do not fit"),
        (lambda f, y, w: (f[:, 0], y, w), "do not fit"),
        (lambda f, y, w: (f, y, w * 1.5), "weight"),
        (lambda f, y, w: (f, y, w * np.nan), "weight"),
    ],
    ids=[
        "a row missing",
        "a third label",
        "another feature set",
        "no prefixes",
        "a heavy weight",
        "a weight that is NaN",
    ],
)
def test_examples_that_do_not_belong_together_are_refused(examples, change, message):
    features, labels, _ = examples
    features, labels, weights = change(features, labels, np.ones(len(labels)))
    with pytest.raises(ConfigError, match=message):
        LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0, weights=weights)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_sum(examples):
    features, labels, parameters = examples
    sums = [
        LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0, device=device).clipped_sum(
            parameters, selected=None
        )
        for device in ("cpu", "cuda")
    ]
    assert np.abs(sums[0] - sums[1]).max() <= 3
