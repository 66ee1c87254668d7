"""``evaluation.json`` of a run: the sum of the members' noised histograms, and what it says about quality."""

from __future__ import annotations

import json
import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ringfence.model.errors import ConfigError, DataError
from ringfence.model.histogram_quality import BIN_EDGES, Estimate, HistogramQuality, quality_of_histogram
from ringfence.model.plan import Sha256
from ringfence.model.quality_report import RELEASED, QualityReport, QualityRow
from ringfence.privacy.score_histogram import CELLS
from ringfence.server.run_store import Run

EVALUATION_FILE = "evaluation.json"
REVIEW_CAPACITY = 0.05
_ROUNDING = 1 / 12  # variance that rounding adds to each count


class EvaluationRecord(BaseModel):
    """What an evaluation left: nothing about any single member.

    Attributes:
        schema_version: of this form.
        plan_sha256: of the plan that allowed the evaluation.
        members: whose histograms are in the sum.
        noise_multiplier: of each member's histogram.
        bin_edges: of the score; the first and the last bin are open.
        histogram: every bin for label 0, then every bin for label 1; noise may make a count negative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    plan_sha256: Sha256
    members: Annotated[int, Field(ge=1)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    bin_edges: tuple[float, ...] = tuple(map(float, BIN_EDGES))
    histogram: Annotated[tuple[int, ...], Field(min_length=CELLS, max_length=CELLS)]

    @model_validator(mode="after")
    def _bins_are_the_known_ones(self) -> Self:
        if self.bin_edges != tuple(map(float, BIN_EDGES)):
            raise ValueError("bin_edges are not those of this version")
        return self

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise on each count of the sum."""
        return math.sqrt(self.members * (self.noise_multiplier**2 + _ROUNDING))

    def quality(self) -> HistogramQuality:
        """Return what the histogram says.

        Raises:
            DataError: no more than noise: there is nothing to say.
        """
        return quality_of_histogram(
            np.array(self.histogram), noise_deviation=self.noise_deviation, capacity=REVIEW_CAPACITY
        )


def save_evaluation(run: Run, *, record: EvaluationRecord) -> None:
    """Keep ``evaluation.json``: the histogram, and for people what it says."""
    try:
        quality: dict[str, object] | None = _figures(record.quality())
    except DataError:
        quality = None
    content = {**record.model_dump(mode="json"), "quality": quality}
    run.write_document(EVALUATION_FILE, json.dumps(content, indent=2).encode() + b"\n")


def load_evaluation(run: Run) -> EvaluationRecord | None:
    """Return a run's evaluation, or None if it has none.

    Raises:
        ConfigError: it is damaged. The operator's to restore.
    """
    content = run.read_document(EVALUATION_FILE)
    if content is None:
        return None
    try:
        values = json.loads(content)
        values.pop("quality", None)
        return EvaluationRecord.model_validate_json(json.dumps(values))
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise ConfigError(
            f"The evaluation of run {run.name} cannot be read.", hint="Restore it from a backup."
        ) from error


def quality_report(record: EvaluationRecord) -> QualityReport | None:
    """Return the figures for a release's card, or None where the histogram says no more than its noise."""
    try:
        quality = record.quality()
    except DataError:
        return None
    intervals = "; ".join(
        f"{name} {_interval(estimate)}"
        for name, estimate in (
            ("AUROC", quality.auroc),
            ("average precision", quality.average_precision),
            ("precision", quality.precision_at_capacity),
        )
    )
    return QualityReport(
        data=f"labelled conversations of {record.members} companies, among them those that were trained on",
        method=(
            "From one histogram of the scores of all companies together, to which each company added noise of its own "
            f"(multiplier {record.noise_multiplier:g}), charged like training. Noise and bins leave these intervals of 95 %: "
            f"{intervals}"
        ),
        capacity=quality.capacity,
        rows=(
            QualityRow(
                system=RELEASED,
                auroc=quality.auroc.value,
                average_precision=quality.average_precision.value,
                precision_at_capacity=quality.precision_at_capacity.value,
            ),
        ),
    )


def _figures(quality: HistogramQuality) -> dict[str, object]:
    named = {
        "auroc": quality.auroc,
        "average_precision": quality.average_precision,
        "precision_at_capacity": quality.precision_at_capacity,
        "positives": quality.positives,
        "negatives": quality.negatives,
    }
    figures: dict[str, object] = {name: _rounded(estimate) for name, estimate in named.items()}
    figures["capacity"] = quality.capacity
    figures["calibration"] = [
        {
            "score_from": None if math.isinf(row.low) else row.low,
            "score_to": None if math.isinf(row.high) else row.high,
            "positive_share": None if row.positive_share is None else _rounded(row.positive_share),
            "expected": [round(row.expected_low, 4), round(row.expected_high, 4)],
        }
        for row in quality.calibration
    ]
    return figures


def _rounded(estimate: Estimate) -> dict[str, float]:
    return {
        "value": round(estimate.value, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
    }


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
