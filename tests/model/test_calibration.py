"""From score to probability: fitted right, never inverted, thresholds where the definition puts them."""

import numpy as np
import pytest
from pydantic import ValidationError

from ringfence.model.calibration import Calibration, fit_calibration
from ringfence.model.errors import DataError


def drawn(slope: float, intercept: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    logits = rng.normal(3.0, 5.0, count)
    chance = 1 / (1 + np.exp(-(slope * logits + intercept)))
    return logits, (rng.random(count) < chance).astype(np.int64)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, -2.0), (2.5, 1.0)])
def test_the_fit_finds_the_sigmoid_that_drew_the_labels(slope: float, intercept: float) -> None:
    logits, labels = drawn(slope, intercept)
    fitted = fit_calibration(logits, labels=labels, fitted_on="drawn")
    assert fitted.slope == pytest.approx(slope, rel=0.1)
    assert fitted.intercept == pytest.approx(intercept, rel=0.1, abs=0.1)
    assert fitted.probabilities(logits).mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_separable_scores_in_any_unit_give_a_finite_fit() -> None:
    labels = np.array([0, 0, 1, 1])
    for unit in (1e-6, 1.0, 1e4):
        fitted = fit_calibration(unit * np.array([-2.0, -1.0, 1.0, 2.0]), labels=labels, fitted_on="four")
        assert np.isfinite([fitted.slope, fitted.intercept]).all()
        assert fitted.probabilities(unit * np.array([-2.0, 2.0])) == pytest.approx([0.25, 0.75], abs=0.15)


def test_thresholds_stand_where_recall_and_precision_are_reached() -> None:
    logits = np.arange(10.0)
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1])
    fitted = fit_calibration(logits, labels=labels, fitted_on="ten", recall=1.0, precision=1.0)
    flagged = fitted.probabilities(logits)
    assert fitted.high_recall is not None
    assert fitted.high_precision is not None
    assert (flagged >= fitted.high_recall).tolist() == [index >= 3 for index in range(10)]
    assert (flagged >= fitted.high_precision).tolist() == [index >= 7 for index in range(10)]


def test_a_precision_that_no_threshold_reaches_gives_none() -> None:
    logits, labels = np.arange(5.0), np.array([0, 0, 1, 1, 0])
    fitted = fit_calibration(logits, labels=labels, fitted_on="five", precision=0.99)
    assert fitted.high_precision is None


def test_tied_scores_are_flagged_together() -> None:
    logits = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    labels = np.array([0, 0, 1, 1, 1, 0])
    fitted = fit_calibration(logits, labels=labels, fitted_on="tied", precision=0.9)
    assert fitted.high_precision is None, "three of the four that tie are positive: no threshold has 0.9"


def test_a_precise_threshold_is_never_below_the_sensitive_one() -> None:
    logits, labels = drawn(2.0, 0.0, 500)
    for recall in (0.1, 0.5, 0.99):
        for precision in (0.5, 0.9, 0.99):
            fitted = fit_calibration(logits, labels=labels, fitted_on="x", recall=recall, precision=precision)
            assert fitted.high_recall is not None
            assert fitted.high_precision is None or fitted.high_precision >= fitted.high_recall


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "labels 0 and 1"),
        ([1.0, 2.0], [0, 0], "labels 0 and 1"),
        ([1.0, 2.0, 3.0], [0, 1, 2], "labels 0 and 1"),
        ([], [], "labels 0 and 1"),
        ([1.0], [0, 1], "one finite score"),
        ([1.0, float("nan")], [0, 1], "one finite score"),
        ([2.0, 1.0, 2.0, 1.0], [0, 1, 0, 1], "Higher scores do not mean more positives"),
        ([1.0, 1.0, 1.0], [0, 1, 0], "Higher scores do not mean more positives"),
    ],
)
def test_data_that_cannot_be_calibrated_on_is_refused(
    logits: list[float], labels: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit_calibration(np.array(logits), labels=np.array(labels, dtype=np.int64), fitted_on="bad")


@pytest.mark.parametrize(
    "values",
    [
        {"slope": 0.0},
        {"slope": -1.0},
        {"slope": float("nan")},
        {"intercept": float("inf")},
        {"high_recall": 1.5},
        {"high_recall": 0.9, "high_precision": 0.1},
        {"scale": 2.0},
    ],
)
def test_a_calibration_that_would_invert_or_break_scores_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate(values)


def test_extreme_scores_have_probabilities_and_keep_their_order() -> None:
    found = Calibration().probabilities(np.array([-1e308, -800.0, 0.0, 800.0, 1e308]))
    assert found.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
