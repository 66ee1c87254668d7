"""What one person can change: with the same randomness, two data sets that differ in one person's content are compared.

No statistics, hence no false alarms. The sums differ by at most j times the clip norm, j being the person's conversations
in the step; the program takes the same path and draws as many random words.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from ringfence.model.errors import BudgetError, ConfigError
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import TrainingTerms
from ringfence.privacy import opacus_backend
from ringfence.privacy.bounding import bound_contributions
from ringfence.privacy.clipped_sum import HeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.head_modules import module_of
from ringfence.privacy.opacus_backend import ModuleGradients
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.torch_sum import DeviceHeadGradients
from ringfence.privacy.training import train_privately

DIMENSION = 20
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
    return features, generator.integers(0, 2, size=count)


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
    return float(
        np.linalg.norm((sums[0] - sums[1]).astype(np.float64)) * make.grid.step / make.grid.clip_norm
    )


class After(nn.Module):
    """A head, with something before it."""

    def __init__(self, before: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.head = head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.before(features))


class Centred(nn.Module):
    """Takes the batch's mean off: passes Opacus' validator, and mixes people."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features - features.mean(dim=0)


class BatchNormalised(nn.Module):
    """Batch normalisation written by hand, as it slips into models: the validator does not see it."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - features.mean(dim=0)) / (features.std(dim=0, correction=0) + 1e-5)


@dataclass(frozen=True)
class Source:
    """Makes sources of clipped sums of one architecture by one backend; for Opacus, with something before the head."""

    architecture: str
    backend: str = "closed form"
    before: type[nn.Module] = nn.Identity

    @property
    def grid(self) -> Grid:
        return Grid(1.0, ARCHITECTURES[self.architecture].parameter_count(DIMENSION))

    def model(self, seed: int, *, scale: float = 1.0) -> np.ndarray:
        return scale * np.random.default_rng(seed).normal(size=self.grid.dimension)

    def __call__(self, features, labels):
        terms = {"grid": self.grid, "positive_weight": 2.0}
        if self.backend == "closed form":
            return HeadGradients(self.architecture, features, labels, **terms)
        if self.backend == "torch":
            return DeviceHeadGradients(self.architecture, features, labels, **terms, device="cpu")
        head = After(self.before(), module_of(self.architecture, DIMENSION))
        return ModuleGradients(head, features.astype(np.float64), labels, **terms)


SHIPPED = {
    f"{architecture} by {backend}": Source(architecture, backend)
    for architecture in ARCHITECTURES
    for backend in ("closed form", "torch", "opacus")
}


@pytest.mark.parametrize("value", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED.keys())
@pytest.mark.parametrize("present", [2, 1, 0])
def test_a_person_moves_the_sum_by_at_most_their_conversations_in_it(make, value, present):
    features, labels = examples()
    parameters = make.model(11, scale=0.3)
    selected = np.ones(len(labels), bool)
    selected[list(THEIRS)[present:]] = False
    moved = largest_difference(make, features, labels, parameters, value=value, selected=selected)
    assert moved <= (2 if np.isfinite(value) else 1) * present * make.grid.sensitivity


@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED.keys())
def test_skipped_clipping_is_noticed_every_time_in_25_runs(fault, make):
    fault("clipping skipped")
    features, labels = examples()
    for seed in range(25):
        moved = largest_difference(make, features, labels, make.model(seed), value=1e6)
        assert moved > 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("before", [Centred, BatchNormalised], ids=["mean-centring", "batch normalisation"])
def test_examples_that_are_mixed_are_noticed_every_time_in_25_runs(before, architecture, monkeypatch):
    """One person's content reaches everybody else's gradient, so the sum moves by more than their share."""
    features, labels = examples()
    for _ in range(25):
        with pytest.raises(ConfigError, match="mixes examples"):
            Source(architecture, "opacus", before)(features, labels)
    monkeypatch.setattr(opacus_backend, "refuse_mixing", lambda *_, **__: None)
    make = Source(architecture, "opacus", before)
    for seed in range(25):
        parameters = make.model(seed)
        moved = largest_difference(make, features, labels, parameters, value=1e6)
        assert moved > 4
        assert mixes_examples(make, features, labels, parameters)


@pytest.mark.parametrize("make", SHIPPED.values(), ids=SHIPPED.keys())
def test_every_gradient_of_a_shipped_model_is_that_of_a_batch_of_one(make):
    features, labels = examples()
    assert not mixes_examples(make, features, labels, make.model(11, scale=0.3))


def mixes_examples(make, features, labels, parameters) -> bool:
    together = make(features, labels).gradients(parameters)
    alone = np.concatenate(
        [make(features[i : i + 1], labels[i : i + 1]).gradients(parameters) for i in range(len(labels))]
    )
    return not np.allclose(together, alone, atol=1e-9, rtol=1e-9, equal_nan=False)


def test_opacus_own_batch_normalisation_is_refused_before_training():
    with pytest.raises(ConfigError, match="mixes examples"):
        Source("linear-109", "opacus", lambda: nn.BatchNorm1d(2))(*examples())


class TestAWholeRound:
    def run(
        self, features, labels, rng, manifest, *, sample_rate: float, architecture: str
    ) -> list[tuple[str, int]]:
        """Train, and return every line of the privacy package that was run, in order."""
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
                np.zeros(ARCHITECTURES[architecture].parameter_count(DIMENSION)),
                features=features,
                labels=labels,
                manifest=manifest,
                terms=TrainingTerms(feature_set_sha256="0" * 64, architecture=architecture),
                mechanism=SampledGaussian(1, sample_rate, 1.0, 5),
                clip_norm=1.0,
                size_class=64,
                rng=rng,
            )
        finally:
            sys.settrace(before)
        return lines

    @pytest.mark.parametrize("value", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
    @pytest.mark.parametrize(
        ("sample_rate", "size"), [(1.0, 1), (0.2, 1), (1.0, 4)], ids=["full-batch", "poisson", "grouped"]
    )
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_takes_the_same_path_and_draws_the_same_randomness_whatever_a_person_said(
        self, strangers, repeatable, architecture, sample_rate, value, size
    ):
        manifest = strangers(40)
        if size > 1:
            rows = tuple(replace(row, group=f"c{i - i % size}") for i, row in enumerate(manifest.kept))
            manifest = replace(manifest, kept=rows)
        features, labels = examples()
        sources = [repeatable(4), repeatable(4)]
        paths = [
            self.run(rows, labels, rng, manifest, sample_rate=sample_rate, architecture=architecture)
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
                terms=TrainingTerms(feature_set_sha256="0" * 64),
                mechanism=SampledGaussian(2, 1.0, 10.0, 1),
                clip_norm=1.0,
                size_class=8,
                rng=None,
            )
