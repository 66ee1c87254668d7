"""Early detection: the measures by hand, and warnings that stay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ringfence.model.early_detection import NEVER, early_detection, first_warnings, latency_penalty
from ringfence.model.errors import DataError


def test_a_warning_stays_whatever_follows() -> None:
    lines = [np.array([0.0, 2.0, -5.0]), np.array([0.0, 0.5]), np.array([1.0])]
    assert first_warnings(lines, threshold=1.0).tolist() == [2, NEVER, 1]


def test_the_penalty_is_nothing_at_once_and_a_half_at_the_median_length() -> None:
    penalties = latency_penalty(np.array([1, 21, 10_000]), median_length=21.0)
    assert penalties == pytest.approx([0.0, 0.5, 1.0])
    rate = math.log(3) / 20
    assert latency_penalty(np.array([7]), median_length=21.0)[0] == pytest.approx(
        -1 + 2 / (1 + math.exp(-rate * 6))
    )


def test_the_measures_are_those_worked_out_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0])
    warned_at = np.array([1, 21, NEVER, 3, NEVER])
    lengths = np.array([11, 31, 21, 9, 9])
    found = early_detection(labels, warned_at, lengths=lengths)
    assert found.warned == pytest.approx(0.6)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    # The positives' median length is 21: penalties 0 and 1/2, their median 1/4.
    assert found.speed == pytest.approx(0.75)
    assert found.f_latency == pytest.approx(0.5)
    assert found.median_delay == 11

    def cost(k: int, o: int) -> float:
        return 1 - 1 / (1 + math.exp(k - o))

    assert found.erde_5 == pytest.approx((cost(1, 5) + cost(21, 5) + 1 + 3 / 5) / 5)
    assert found.erde_50 == pytest.approx((cost(1, 50) + cost(21, 50) + 1 + 3 / 5) / 5)


def test_finding_nothing_is_worth_nothing() -> None:
    found = early_detection(np.array([1, 0]), np.array([NEVER, NEVER]), lengths=np.array([5, 5]))
    assert (found.f1, found.f_latency, found.speed, found.precision, found.median_delay) == (
        0,
        0,
        None,
        None,
        None,
    )
    assert found.erde_5 == 0.5


def test_an_earlier_warning_is_worth_more() -> None:
    labels, lengths = np.array([1, 1, 0, 0]), np.array([40, 40, 40, 40])
    early, late = (
        early_detection(labels, np.array([at, at, NEVER, NEVER]), lengths=lengths) for at in (3, 30)
    )
    assert early.f1 == late.f1 == 1.0
    assert early.f_latency > late.f_latency
    assert early.erde_5 < late.erde_5


def test_a_very_late_warning_does_not_overflow() -> None:
    found = early_detection(np.array([1, 0]), np.array([5000, NEVER]), lengths=np.array([5000, 3]))
    assert found.erde_5 == pytest.approx(0.5)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], [1]])
def test_one_label_or_another_number_of_warnings_is_refused(labels: list[int]) -> None:
    with pytest.raises(DataError):
        early_detection(np.array(labels), np.array([1, 1]), lengths=np.array([3, 3]))
