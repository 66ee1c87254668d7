"""A threshold that reviewers have time for, and a warning when it no longer gives what it was chosen for."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from scipy import stats

from ringfence.model.errors import ConfigError
from ringfence.model.review_capacity import (
    FALSE_ALARM,
    KEPT_DAYS,
    ReviewQueue,
    choose_threshold,
    drift_of,
    is_flagged,
    parse_capacity,
    recorded,
)

FIRST = date(2026, 3, 1)
EMPTY = ReviewQueue(detector_sha256="0" * 64)


def days_of(rng: np.random.Generator, *, start: int, days: int, per_day: int, shift: float = 0.0):
    return [
        (FIRST + timedelta(days=start + day), float(score))
        for day in range(days)
        for score in rng.normal(shift, 1.5, size=per_day)
    ]


def run_name(number: int) -> str:
    return f"{number:064x}"


@pytest.mark.parametrize(
    ("text", "per_day"), [("50/day", 50.0), ("350/week", 50.0), ("50", 50.0), (" 0.5/day", 0.5)]
)
def test_a_capacity_is_read(text: str, per_day: float) -> None:
    assert parse_capacity(text) == per_day


@pytest.mark.parametrize("text", ["", "0/day", "-5/day", "fifty", "50/hour", "50/", "1e9/day", "nan"])
def test_what_is_no_capacity_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no review capacity"):
        parse_capacity(text)


def test_the_threshold_flags_no_more_than_there_is_time_for_and_nearly_that() -> None:
    scores = days_of(np.random.default_rng(0), start=0, days=10, per_day=1000)
    queue = recorded(EMPTY, scores, run=run_name(1))
    threshold = choose_threshold(queue, per_day=50)
    flagged = sum(is_flagged(score, threshold) for _, score in scores)
    assert flagged == threshold.flagged <= 500
    assert flagged > 400  # one bin of 0.05 holds a few dozen here
    assert (threshold.days, threshold.last_day) == (10, FIRST + timedelta(days=9))


def test_room_for_all_flags_all_and_room_for_none_flags_none() -> None:
    scores = [(FIRST, float(value)) for value in (-3, 0.5, 0.5, 0.5)]
    queue = recorded(EMPTY, scores, run=run_name(1))
    everything = choose_threshold(queue, per_day=100)
    assert all(is_flagged(score, everything) for _, score in scores)
    # The three that tie are one too many.
    nothing = choose_threshold(queue, per_day=2)
    assert not any(is_flagged(score, nothing) for _, score in scores)


def test_the_same_run_counts_once_and_old_days_are_let_go() -> None:
    scores = days_of(np.random.default_rng(0), start=0, days=KEPT_DAYS + 5, per_day=3)
    once = recorded(EMPTY, scores, run=run_name(1))
    assert recorded(once, scores, run=run_name(1)) == once
    assert len(once.days) == KEPT_DAYS
    assert min(once.days) == FIRST + timedelta(days=5)
    twice = recorded(once, scores[-3:], run=run_name(2))
    assert twice.days[max(twice.days)].conversations == 6


def test_a_history_comes_back_from_its_file() -> None:
    queue = recorded(EMPTY, days_of(np.random.default_rng(0), start=0, days=3, per_day=30), run=run_name(1))
    queue = queue.model_copy(update={"threshold": choose_threshold(queue, per_day=5)})
    assert ReviewQueue.model_validate_json(queue.model_dump_json()) == queue


def test_without_scores_there_is_no_threshold() -> None:
    with pytest.raises(ConfigError, match="No scores"):
        choose_threshold(EMPTY, per_day=5)


class TestDrift:
    def after(self, *, seed: int, shift: float = 0.0, per_day: int = 400, days: int = 7):
        rng = np.random.default_rng(seed)
        queue = recorded(EMPTY, days_of(rng, start=0, days=14, per_day=400), run=run_name(1))
        threshold = choose_threshold(queue, per_day=20)
        later = recorded(
            queue, days_of(rng, start=14, days=days, per_day=per_day, shift=shift), run=run_name(2)
        )
        return drift_of(later, threshold)

    def test_is_not_seen_where_there_is_none(self) -> None:
        """Fixed seeds; the counts vary a little less than Poisson's, so a false alarm has less than its stated chance."""
        assert [self.after(seed=seed) for seed in range(40)] == [None] * 40

    @pytest.mark.parametrize(
        "change",
        [{"shift": 0.5}, {"shift": -0.8}, {"per_day": 800}],
        ids=["higher", "lower", "twice as many"],
    )
    def test_is_seen_in_the_scores_and_in_their_number(self, change: dict[str, float]) -> None:
        drift = self.after(seed=1, **change)  # type: ignore[arg-type]
        assert drift is not None
        assert drift.chance < FALSE_ALARM
        assert (drift.found_per_day > drift.expected_per_day) == (change != {"shift": -0.8})

    def test_is_not_looked_for_before_a_day_has_passed(self) -> None:
        queue = recorded(
            EMPTY, days_of(np.random.default_rng(0), start=0, days=14, per_day=50), run=run_name(1)
        )
        assert drift_of(queue, choose_threshold(queue, per_day=5)) is None

    def test_has_the_chance_that_the_reference_gives(self) -> None:
        drift = self.after(seed=1, shift=0.5, days=3)
        assert drift is not None
        found, expected = round(drift.found_per_day * 3), round(drift.expected_per_day * 14)
        reference = stats.binom.sf(found - 1, found + expected, 3 / 17)
        assert drift.chance == pytest.approx(2 * reference, rel=1e-6)
