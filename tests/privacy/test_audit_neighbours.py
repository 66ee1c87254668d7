"""What one person can change: with the same randomness, two data sets that differ in one person's content are compared.

No statistics, hence no false alarms. The sums differ by at most j times the clip norm, j being the person's conversations
in the step; the program takes the same path and draws as many random words.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from ringfence.model.errors import BudgetError, ConfigError
from ringfence.model.plan import PrivacyTerms, TrainingTerms
from ringfence.privacy.bounding import bound_contributions
from ringfence.privacy.clipped_sum import LinearHeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.opacus_backend import ModuleGradients
from ringfence.privacy.torch_sum import DeviceHeadGradients
from ringfence.privacy.training import train_privately

DIMENSION = 20
GRID = Grid(1.0, DIMENSION + 1)
THEIRS = (3, 17)
"""Positions of the one person's conversations (k = 2)."""

REPLACEMENTS = {
    "emptied": 0.0,
    "huge": 1e30,
    "turned round": -1.0,
    "not a number": np.nan,
    "infinite": np.inf,
}
"""What their content becomes. What is not finite counts as nothing: the sum moves by one clip norm a conversation at most,
which is the relation of the accounting. Anything else takes one away and puts another there: two clip norms at most."""


def examples(count: int = 40):
    generator = np.random.default_rng(11)
    features = generator.normal(size=(count, 2, DIMENSION)).astype(np.float32)
    return features, generator.integers(0, 2, size=count), 0.3 * generator.normal(size=DIMENSION + 1)


def neighbour(features: np.ndarray, value: float) -> np.ndarray:
    changed = features.copy()
    changed[list(THEIRS)] = changed[list(THEIRS)] * value if value == -1.0 else value
    return changed


def largest_difference(make, features, labels, parameters, *, value: float, selected=None) -> float:
    """Return by how many clip norms the person moves the sum."""
    sums = [
        make(rows, labels).clipped_sum(parameters, selected=selected)
        for rows in (features, neighbour(features, value))
    ]
    return float(np.linalg.norm((sums[0] - sums[1]).astype(np.float64)) * GRID.step / GRID.clip_norm)


def closed_form(features, labels):
    return LinearHeadGradients(features, labels, grid=GRID, positive_weight=2.0)


def on_a_device(features, labels):
    return DeviceHeadGradients("linear-109", features, labels, grid=GRID, positive_weight=2.0, device="cpu")


class Head(nn.Module):
    """The linear head, with something before it."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.linear = nn.Linear(DIMENSION, 1).double()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(self.before(features)).squeeze(-1)


class Centred(nn.Module):
    """Takes the batch's mean off: passes Opacus' validator, and mixes people."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features - features.mean(dim=0)


class BatchNormalised(nn.Module):
    """Batch normalisation written by hand, as it slips into models: the validator does not see it."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - features.mean(dim=0)) / (features.std(dim=0, correction=0) + 1e-5)


def by_opacus(before: nn.Module):
    def make(features, labels):
        with torch.no_grad():
            head = Head(before)
        return ModuleGradients(head, features.astype(np.float64), labels, grid=GRID, positive_weight=2.0)

    return make


SHIPPED = {"closed form": closed_form, "torch": on_a_device, "opacus": by_opacus(nn.Identity())}


@pytest.mark.parametrize("value", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED.keys())
@pytest.mark.parametrize("present", [2, 1, 0])
def test_a_person_moves_the_sum_by_at_most_their_conversations_in_it(make, value, present):
    features, labels, parameters = examples()
    selected = np.ones(len(labels), bool)
    selected[list(THEIRS)[present:]] = False
    moved = largest_difference(make, features, labels, parameters, value=value, selected=selected)
    assert moved <= (2 if np.isfinite(value) else 1) * present * (1 + 2**-16)


@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED.keys())
def test_skipped_clipping_is_noticed_every_time_in_25_runs(fault, make):
    fault("clipping skipped")
    features, labels, _ = examples()
    generator = np.random.default_rng()
    for _ in range(25):
        parameters = generator.normal(size=DIMENSION + 1)
        moved = largest_difference(make, features, labels, parameters, value=1e6)
        assert moved > 4


@pytest.mark.parametrize(
    "before", [Centred(), BatchNormalised()], ids=["mean-centring", "batch normalisation"]
)
def test_examples_that_are_mixed_are_noticed_every_time_in_25_runs(before):
    """One person's content reaches everybody else's gradient, so the sum moves by more than their share."""
    features, labels, _ = examples()
    for seed in range(25):
        parameters = np.random.default_rng(seed).normal(size=DIMENSION + 1)
        moved = largest_difference(by_opacus(before), features, labels, parameters, value=1e6)
        assert moved > 4
        assert mixes_examples(by_opacus(before), features, labels, parameters)


@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED.keys())
def test_every_gradient_of_a_shipped_model_is_that_of_a_batch_of_one(make):
    features, labels, parameters = examples()
    assert not mixes_examples(make, features, labels, parameters)


def mixes_examples(make, features, labels, parameters) -> bool:
    together = make(features, labels).gradients(parameters)
    alone = np.concatenate(
        [make(features[i : i + 1], labels[i : i + 1]).gradients(parameters) for i in range(len(labels))]
    )
    return not np.allclose(together, alone, atol=1e-9, rtol=1e-9, equal_nan=False)


def test_opacus_own_batch_normalisation_is_refused_before_training():
    with pytest.raises(ConfigError, match="mixes examples"):
        by_opacus(nn.BatchNorm1d(2))(*examples()[:2])


class TestAWholeRound:
    terms = TrainingTerms(feature_set_sha256="0" * 64)

    def run(self, features, labels, rng, strangers, *, sampling: str) -> list[tuple[str, int]]:
        """Train, and return every line of the privacy package that was run, in order."""
        privacy = PrivacyTerms(
            contribution_bound=1,
            noise_multiplier=1.0,
            sampling=sampling,
            sample_rate=1.0 if sampling == "full-batch" else 0.2,
        )
        lines: list[tuple[str, int]] = []

        def trace(frame, event, argument):
            if not frame.f_globals.get("__name__", "").startswith("ringfence.privacy"):
                return None
            lines.append((frame.f_code.co_name, frame.f_lineno))
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            train_privately(
                np.zeros(DIMENSION + 1),
                features=features,
                labels=labels,
                manifest=strangers(len(labels)),
                terms=self.terms,
                privacy=privacy,
                size_class=64,
                steps=5,
                rng=rng,
            )
        finally:
            sys.settrace(before)
        return lines

    @pytest.mark.parametrize("value", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
    @pytest.mark.parametrize("sampling", ["full-batch", "poisson"])
    def test_takes_the_same_path_and_draws_the_same_randomness_whatever_a_person_said(
        self, strangers, repeatable, sampling, value
    ):
        features, labels, _ = examples()
        sources = [repeatable(4), repeatable(4)]
        paths = [
            self.run(rows, labels, rng, strangers, sampling=sampling)
            for rows, rng in zip((features, neighbour(features, value)), sources, strict=True)
        ]
        assert len(paths[0]) > 100
        assert paths[0] == paths[1]
        assert sources[0].drawn == sources[1].drawn


def test_a_bound_that_does_not_hold_is_refused_by_the_trainer_every_time_in_25_runs(fault, talk):
    fault("k violated")
    generator = np.random.default_rng()
    for _ in range(25):
        conversations = [talk(f"c{i}", "busy", f"b{generator.integers(100)}", label=i % 2) for i in range(6)]
        bounded = bound_contributions(conversations, contribution_bound=2, secret=generator.bytes(32))
        assert len(bounded.positions) == 6
        with pytest.raises(BudgetError, match="more conversations"):
            train_privately(
                np.zeros(DIMENSION + 1),
                features=np.zeros((6, 2, DIMENSION), np.float32),
                labels=np.arange(6) % 2,
                manifest=bounded.manifest,
                terms=TestAWholeRound.terms,
                privacy=PrivacyTerms(contribution_bound=2, noise_multiplier=10.0),
                size_class=8,
                steps=1,
                rng=None,
            )
