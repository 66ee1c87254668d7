"""A threshold that reviewers have time for, and a warning when it no longer gives what it was chosen for."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta

import numpy as np
import pytest
from scipy import stats

from ringfence.model import review_capacity
from ringfence.model.errors import ConfigError
from ringfence.model.review_capacity import (
    FALSE_ALARM,
    KEPT_DAYS,
    OVER_CAPACITY,
    QueueThreshold,
    ReviewQueue,
    ReviewRate,
    ScoredOnce,
    choose_recent_threshold,
    choose_threshold,
    drift_of,
    is_flagged,
    parse_capacity,
    parse_share_or_rate,
    recent_rate,
    recorded,
    share_of_rate,
)

FIRST = date(2026, 3, 1)
EMPTY = ReviewQueue(detector_sha256="0" * 64)


def on(day: int, name: str, score: float) -> ScoredOnce:
    return ScoredOnce(
        FIRST + timedelta(days=day), hashlib.sha256(f"{day}|{name}".encode()).hexdigest()[:16], score
    )


def days_of(
    rng: np.random.Generator, *, start: int, days: int, per_day: int, shift: float = 0.0
) -> list[ScoredOnce]:
    return [
        on(start + day, str(index), float(score))
        for day in range(days)
        for index, score in enumerate(rng.normal(shift, 1.5, size=per_day))
    ]


def chosen(queue: ReviewQueue, *, per_day: float) -> QueueThreshold:
    threshold = choose_threshold(queue, per_day=per_day)
    assert threshold is not None
    return threshold


@pytest.mark.parametrize(
    ("text", "per_day"), [("50/day", 50.0), ("350/week", 50.0), ("50", 50.0), (" 0.5/day", 0.5)]
)
def test_a_capacity_is_read(text: str, per_day: float) -> None:
    assert parse_capacity(text) == per_day


@pytest.mark.parametrize("text", ["", "0/day", "-5/day", "fifty", "50/hour", "50/", "1e9/day", "nan", "0.05"])
def test_what_is_no_capacity_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no review capacity"):
        parse_capacity(text)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("0.05", 0.05),
        ("5%", 0.05),
        ("1", 1.0),
        (".5", 0.5),
        ("50/day", ReviewRate(50)),
        ("7/week", ReviewRate(1)),
    ],
)
def test_a_share_or_a_rate_is_read(text: str, meaning: float | ReviewRate) -> None:
    assert parse_share_or_rate(text) == meaning


@pytest.mark.parametrize("text", ["", "0", "1.5", "50", "-1", "nan", "101%", "five", "50/hour", "0/day"])
def test_what_is_neither_a_share_nor_a_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no review capacity"):
        parse_share_or_rate(text)


def test_a_rate_is_a_share_by_the_days_that_conversations_span() -> None:
    days = [FIRST] * 60 + [FIRST + timedelta(days=9)] * 40
    assert share_of_rate(ReviewRate(1), days) == pytest.approx(0.1)
    assert share_of_rate(ReviewRate(50), days) == 1.0
    with pytest.raises(ConfigError, match="No conversation has a time"):
        share_of_rate(ReviewRate(1), [])


def test_the_threshold_flags_no_more_than_there_is_time_for_and_nearly_that() -> None:
    scores = days_of(np.random.default_rng(0), start=0, days=11, per_day=1000)
    threshold = chosen(recorded(EMPTY, scores), per_day=50)
    # The eleventh day may not be over.
    flagged = sum(is_flagged(item.score, threshold) for item in scores[:10_000])
    assert flagged == threshold.flagged <= 500
    assert flagged > 400  # one bin of 0.05 holds a few dozen here
    assert (threshold.days, threshold.last_day) == (10, FIRST + timedelta(days=9))


def test_where_there_is_time_for_all_no_threshold_is_chosen_and_room_for_none_flags_none() -> None:
    scores = [on(0, str(index), value) for index, value in enumerate((-3, 0.5, 0.5, 0.5))]
    queue = recorded(EMPTY, scores)
    assert choose_threshold(queue, per_day=4) is None
    assert choose_threshold(queue, per_day=100) is None
    # The three that tie are one too many.
    nothing = chosen(queue, per_day=2)
    assert not any(is_flagged(item.score, nothing) for item in scores)


def test_days_without_a_conversation_are_days() -> None:
    rng = np.random.default_rng(0)
    scores = [item for day in (0, 7, 14) for item in days_of(rng, start=day, days=1, per_day=100)]
    threshold = chosen(recorded(EMPTY, scores), per_day=5)
    assert (threshold.days, threshold.last_day) == (14, FIRST + timedelta(days=13))
    assert 50 < threshold.flagged <= 70


def test_a_conversation_counts_once_a_day_with_its_highest_score() -> None:
    queue = recorded(EMPTY, [on(0, "a", 1.0), on(0, "b", 1.0)])
    queue = recorded(queue, [on(0, "a", 2.0), on(1, "a", 0.0)])
    queue = recorded(queue, [on(0, "a", -1.0)])
    first, second = queue.days.values()
    assert (first.conversations, first.bins) == (2, {20: 1, 40: 1})
    assert (second.conversations, second.bins) == (1, {0: 1})


def test_a_conversation_without_times_stays_on_the_day_on_which_it_was_first_scored() -> None:
    seen = ScoredOnce(FIRST, "ab" * 8, 1.0)
    queue = recorded(recorded(EMPTY, [seen]), [ScoredOnce(FIRST + timedelta(days=3), seen.key, 2.0)])
    assert [(day, held.bins) for day, held in queue.days.items()] == [(FIRST, {40: 1})]


def test_old_days_are_let_go() -> None:
    scores = days_of(np.random.default_rng(0), start=0, days=KEPT_DAYS + 5, per_day=3)
    queue = recorded(EMPTY, scores)
    assert len(queue.days) == KEPT_DAYS
    assert min(queue.days) == FIRST + timedelta(days=5)
    assert recorded(queue, scores) == queue


def test_beyond_a_bound_older_days_keep_their_counts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_capacity, "OPEN_CONVERSATIONS", 25)
    scores = days_of(np.random.default_rng(0), start=0, days=4, per_day=10)
    queue = recorded(EMPTY, scores)
    assert [held.seen is None for held in queue.days.values()] == [True, True, False, False]
    assert [held.conversations for held in queue.days.values()] == [10] * 4
    assert recorded(queue, [*scores, on(1, "new", 3.0)]) == queue


def test_a_history_comes_back_from_its_file() -> None:
    queue = recorded(EMPTY, days_of(np.random.default_rng(0), start=0, days=3, per_day=30))
    queue = queue.model_copy(update={"threshold": chosen(queue, per_day=5)})
    assert ReviewQueue.model_validate_json(queue.model_dump_json()) == queue


def test_a_history_of_before_counts_idle_days_as_it_did() -> None:
    queue = recorded(EMPTY, days_of(np.random.default_rng(0), start=0, days=3, per_day=30))
    before = chosen(queue, per_day=5).model_dump(mode="json")
    del before["idle_days_count"]
    assert QueueThreshold.model_validate(before) == chosen(queue, per_day=5)


def test_without_scores_there_is_no_threshold() -> None:
    with pytest.raises(ConfigError, match="No scores"):
        choose_threshold(EMPTY, per_day=5)


class TestTheNewestDays:
    """What reviewers have time for is asked of the days that come, so the threshold is chosen anew on the newest."""

    def busy(self, *, quiet: int = 20, gap: int = 0) -> tuple[ReviewQueue, list[ScoredOnce]]:
        rng = np.random.default_rng(0)
        start = quiet + gap
        later = days_of(rng, start=start, days=8, per_day=110)
        return recorded(EMPTY, [*days_of(rng, start=0, days=quiet, per_day=40), *later]), later

    @pytest.mark.parametrize("gap", [0, 12], ids=["at once", "after an idle gap"])
    def test_keep_the_capacity_after_busy_days_have_begun(self, gap: int) -> None:
        queue, later = self.busy(gap=gap)
        anew = choose_recent_threshold(queue, per_day=3)
        assert anew is not None
        assert (anew.days, anew.last_day, anew.idle_days_count) == (
            7,
            FIRST + timedelta(days=26 + gap),
            False,
        )
        assert sum(is_flagged(item.score, anew) for item in later[:770]) == anew.flagged <= 21
        rate = recent_rate(queue, anew)
        assert rate is not None
        assert (rate.per_day, rate.days, rate.is_over) == (anew.flagged / 7, 7, False)
        # The average over all days held lets far more through.
        average = chosen(queue, per_day=3)
        assert average.score < anew.score
        over = recent_rate(queue, average)
        assert over is not None
        assert over.is_over
        assert over.per_day >= 5

    def test_make_room_only_where_there_are_conversations(self) -> None:
        rng = np.random.default_rng(0)
        apart = [item for day in range(0, 40, 4) for item in days_of(rng, start=day, days=1, per_day=100)]
        anew = choose_recent_threshold(recorded(EMPTY, apart), per_day=5)
        assert anew is not None
        assert (anew.days, anew.last_day) == (7, FIRST + timedelta(days=32))
        assert 25 <= anew.flagged <= 35

    def test_of_a_working_week_bring_no_false_alarm_at_the_weekend(self) -> None:
        rng = np.random.default_rng(0)
        days = [
            item for day in range(80) if day % 7 < 5 for item in days_of(rng, start=day, days=1, per_day=400)
        ]
        held = [item for item in days if item.day < FIRST + timedelta(days=30)]
        queue = recorded(EMPTY, held)
        anew = choose_recent_threshold(queue, per_day=50)
        assert anew is not None
        for day in range(30, 60):
            queue = recorded(queue, [item for item in days if item.day == FIRST + timedelta(days=day)])
            assert drift_of(queue, anew) is None
            rate = recent_rate(queue, anew)
            assert rate is not None
            assert not rate.is_over

    def test_without_too_many_conversations_leave_the_choice_to_all_days(self) -> None:
        rng = np.random.default_rng(0)
        queue = recorded(
            EMPTY, [*days_of(rng, start=0, days=10, per_day=50), *days_of(rng, start=10, days=8, per_day=2)]
        )
        assert choose_recent_threshold(queue, per_day=3) == choose_threshold(queue, per_day=3) is not None

    def test_that_are_all_there_is_are_used(self) -> None:
        queue = recorded(EMPTY, days_of(np.random.default_rng(0), start=0, days=1, per_day=50))
        anew = choose_recent_threshold(queue, per_day=5)
        assert anew is not None
        assert (anew.days, anew.last_day) == (1, FIRST)
        with pytest.raises(ConfigError, match="No scores"):
            choose_recent_threshold(EMPTY, per_day=5)

    @pytest.mark.parametrize(
        ("found", "is_over"), [(0, False), (21, False), (32, False), (33, True), (70, True)]
    )
    def test_are_over_capacity_where_a_poisson_process_seldom_is(self, found: int, is_over: bool) -> None:
        threshold = QueueThreshold(per_day=3, score=1.0, days=7, flagged=21, last_day=FIRST)
        scores = [on(1 + index % 7, str(index), 2.0 if index < found else 0.0) for index in range(100)]
        rate = recent_rate(recorded(EMPTY, [*scores, on(0, "first", 0.0), on(8, "newest", 2.0)]), threshold)
        assert rate is not None
        assert (rate.per_day, rate.days, rate.is_over) == (found / 7, 7, is_over)
        assert (stats.poisson.sf(found - 1, 21) < OVER_CAPACITY) == is_over


class TestDrift:
    def after(self, *, seed: int, shift: float = 0.0, per_day: int = 400, days: int = 7):
        rng = np.random.default_rng(seed)
        queue = recorded(EMPTY, days_of(rng, start=0, days=15, per_day=400))
        threshold = chosen(queue, per_day=20)
        later = days_of(rng, start=15, days=days + 1, per_day=per_day, shift=shift)
        return drift_of(recorded(queue, later), threshold)

    def test_is_not_seen_where_there_is_none(self) -> None:
        """Fixed seeds; the counts vary a little less than Poisson's, so a false alarm has less than its stated chance."""
        assert [self.after(seed=seed) for seed in range(40)] == [None] * 40

    @pytest.mark.parametrize(
        "change",
        [{"shift": 0.5}, {"shift": -0.8}, {"per_day": 800}, {"per_day": 0}],
        ids=["higher", "lower", "twice as many", "none at all"],
    )
    def test_is_seen_in_the_scores_and_in_their_number(self, change: dict[str, float]) -> None:
        rng = np.random.default_rng(1)
        queue = recorded(EMPTY, days_of(rng, start=0, days=15, per_day=400))
        threshold = chosen(queue, per_day=20)
        later = days_of(rng, start=15, days=7, **({"per_day": 400} | change))  # type: ignore[arg-type]
        drift = drift_of(recorded(queue, [*later, *days_of(rng, start=22, days=1, per_day=5)]), threshold)
        assert drift is not None
        assert drift.chance < FALSE_ALARM
        assert drift.days == 7
        more = change.get("shift", 0) > 0 or change.get("per_day", 0) > 400
        assert (drift.found_per_day > drift.expected_per_day) == more

    def test_is_not_seen_when_the_last_week_is_exported_every_night(self) -> None:
        rng = np.random.default_rng(0)
        days = [days_of(rng, start=day, days=1, per_day=400) for day in range(40)]
        queue = recorded(EMPTY, [item for day in days[:14] for item in day])
        threshold = chosen(queue, per_day=20)
        for night in range(14, 40):
            queue = recorded(queue, [item for day in days[night - 6 : night + 1] for item in day])
            assert drift_of(queue, threshold) is None
        assert {held.conversations for held in queue.days.values()} == {400}

    def test_is_not_seen_in_a_file_that_grows_every_hour(self) -> None:
        rng = np.random.default_rng(0)
        queue = recorded(EMPTY, days_of(rng, start=0, days=14, per_day=400))
        threshold = chosen(queue, per_day=50)
        for day in range(14, 17):
            today = days_of(rng, start=day, days=1, per_day=400)
            for hour in range(1, 25):
                queue = recorded(queue, today[: 400 * hour // 24])
                assert drift_of(queue, threshold) is None
            assert queue.days[max(queue.days)].conversations == 400

    def test_is_not_looked_for_before_a_day_has_passed(self) -> None:
        queue = recorded(EMPTY, days_of(np.random.default_rng(0), start=0, days=15, per_day=50))
        threshold = chosen(queue, per_day=5)
        assert drift_of(queue, threshold) is None
        assert drift_of(EMPTY, threshold) is None

    def test_has_the_chance_that_the_reference_gives(self) -> None:
        drift = self.after(seed=1, shift=0.5, days=3)
        assert drift is not None
        # The day that was still going on when the threshold was chosen counts with the three after it.
        found, expected = round(drift.found_per_day * drift.days), round(drift.expected_per_day * 14)
        assert drift.days == 4
        reference = stats.binom.sf(found - 1, found + expected, 4 / 18)
        assert drift.chance == pytest.approx(2 * reference, rel=1e-6)
