"""A score histogram carries the noise that was charged, moves by at most k with one person, and refuses what voids that."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ringfence.model.errors import BudgetError
from ringfence.model.histogram_quality import BIN_EDGES, BINS
from ringfence.privacy import score_histogram
from ringfence.privacy.bounding import ContributionManifest, KeptConversation
from ringfence.privacy.score_histogram import CELLS, noised_score_histogram
from ringfence.privacy.secure_noise import Csprng

FALSE_ALARM = 1e-6
NOISE = 20.0
SCORES = np.linspace(-5.0, 5.0, 60)
LABELS = (np.arange(60) % 3 == 0).astype(np.int64)


class Silent:
    """Gives words whose Gaussians are 0: the counts as they are. It exists here only."""

    def words(self, count: int) -> np.ndarray:
        # The largest word is the uniform 1, whose logarithm is 0.
        return np.full(count, 2**64 - 1, dtype=np.uint64)


def histogram(manifest: ContributionManifest, *, scores=SCORES, labels=LABELS, noise=NOISE, k=1, rng=None):
    return noised_score_histogram(
        scores,
        labels=labels,
        manifest=manifest,
        contribution_bound=k,
        noise_multiplier=noise,
        rng=rng or Csprng(),
    )


def test_conversations_are_counted_by_label_and_bin(strangers) -> None:
    scores = np.array([-9.0, -3.5, -3.4999, 0.0, 3.4999, 3.5, 9.0, math.nan, math.inf, -math.inf])
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 0, 1, 1])
    counts = histogram(strangers(10), scores=scores, labels=labels, rng=Silent())
    expected = np.zeros(CELLS, dtype=np.int64)
    for place in (0, 1, 1, 0, BINS + 8, BINS + 14, BINS + 15, BINS + 15, BINS, BINS):
        expected[place] += 1
    assert counts.tolist() == expected.tolist()
    assert counts.dtype == np.int64
    assert np.array_equal(BIN_EDGES, -BIN_EDGES[::-1])


def scaled(factor: float):
    original = score_histogram.standard_normals
    return lambda source, count: factor * original(source, count)


def without_last_draw():
    original = score_histogram.standard_normals
    return lambda source, count: np.append(original(source, count - 1), 0.0)


def same_for_both_labels():
    original = score_histogram.standard_normals
    return lambda source, count: np.tile(original(source, count // 2), 2)


def noise_looks_right(manifest: ContributionManifest, releases: int = 400) -> bool:
    """Return whether the noise of releases has the planned scale, in every cell and in all, and is independent."""
    exact = histogram(manifest, rng=Silent())
    noise = np.stack([histogram(manifest) - exact for _ in range(releases)]) / math.hypot(
        NOISE, math.sqrt(1 / 12)
    )
    tests = []
    for values in (noise.ravel(), *noise.T):
        tail = stats.chi2(values.size).cdf(float((values**2).sum()))
        tests.append(2 * min(tail, 1 - tail))
    pairs = np.corrcoef(noise.T)[np.triu_indices(CELLS, 1)]
    tests.extend(
        2 * stats.norm.sf(np.abs(np.arctanh(np.clip(pairs, -0.999, 0.999))) * math.sqrt(releases - 3))
    )
    return min(tests) > FALSE_ALARM / len(tests)


def test_the_noise_has_the_planned_scale_in_every_cell(strangers) -> None:
    """False alarms: below 1e-6 over all cells and pairs of cells together."""
    assert noise_looks_right(strangers(60))


@pytest.mark.parametrize(
    "fault", [scaled(0.0), scaled(0.5), scaled(0.9), without_last_draw(), same_for_both_labels()]
)
def test_noise_of_another_kind_is_noticed_every_time_in_25_runs(strangers, monkeypatch, fault) -> None:
    monkeypatch.setattr(score_histogram, "standard_normals", fault)
    assert not any(noise_looks_right(strangers(60)) for _ in range(25))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("spread", [False, True], ids=["all in one cell", "in several cells"])
def test_one_person_moves_the_counts_by_at_most_k(k: int, spread: bool) -> None:
    rows = tuple(KeptConversation(f"c{i}", ("x",) if i < k else (f"a{i}",)) for i in range(20))
    scores = np.linspace(-3, 3, 20) if spread else np.zeros(20)
    labels = np.zeros(20, dtype=np.int64)
    whole = histogram(ContributionManifest(k, rows), scores=scores, labels=labels, k=k, rng=Silent())
    rest = histogram(
        ContributionManifest(k, rows[k:]), scores=scores[k:], labels=labels[k:], k=k, rng=Silent()
    )
    moved = float(np.linalg.norm(whole - rest))
    assert moved <= k
    assert spread or moved == k


def test_the_same_number_of_words_is_drawn_whatever_the_data_are(strangers, repeatable) -> None:
    drawn = set()
    for count in (1, 7, 60):
        source = repeatable(3)
        scores = np.full(count, math.nan) if count == 7 else np.zeros(count)
        histogram(strangers(count), scores=scores, labels=np.zeros(count, dtype=np.int64), rng=source)
        drawn.add(source.drawn)
    assert len(drawn) == 1


def test_what_voids_the_bound_is_refused(strangers) -> None:
    twice = ContributionManifest(1, tuple(KeptConversation(f"c{i}", ("x",)) for i in range(2)))
    half = ContributionManifest(1, (KeptConversation("c0", ("x",), 0.5), KeptConversation("c1", ("x",), 0.5)))
    group = ContributionManifest(
        1, tuple(KeptConversation(f"c{i}", ("x", f"a{i}"), group="c0") for i in range(2))
    )
    two = {"scores": np.zeros(2), "labels": np.zeros(2, dtype=np.int64)}
    for manifest, options in (
        (twice, two),
        (half, two),
        (group, two),
        (strangers(3), two),
        (strangers(2), {**two, "scores": np.zeros(3)}),
        (strangers(2), {**two, "labels": np.array([0, 2])}),
        (strangers(2), {**two, "labels": np.array([0, -1])}),
        (strangers(2), {**two, "noise": 0.0}),
        (strangers(2), {**two, "noise": -1.0}),
        (strangers(2), {**two, "noise": math.nan}),
        (strangers(2), {**two, "noise": math.inf}),
    ):
        with pytest.raises(BudgetError):
            histogram(manifest, **options)
