"""How well a detector did, in the rows that every comparison must show."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

System = Literal[
    "public-head",
    "alone-with-privacy",
    "alone-without-privacy",
    "federated-with-privacy",
    "pooled-without-privacy",
]
SYSTEM_NAMES: dict[System, str] = {
    "public-head": "public head, before any training",
    "alone-with-privacy": "each company alone, with the same privacy",
    "alone-without-privacy": "each company alone, without privacy",
    "federated-with-privacy": "federated, with privacy: this release",
    "pooled-without-privacy": "pooled without privacy: the reference that nobody may build",
}
RELEASED: System = "federated-with-privacy"

Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]


class QualityRow(BaseModel):
    """One system's quality, the mean over each company's own held-out conversations.

    Attributes:
        system: which one.
        auroc: area under the receiver operating characteristic.
        average_precision: area under precision over recall.
        precision_at_capacity: share of positives among the highest scores that fit the review capacity, if measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    system: System
    auroc: Share
    average_precision: Share
    precision_at_capacity: Share | None = None


class QualityReport(BaseModel):
    """A table of quality, with what it was measured on.

    Attributes:
        data: the conversations, in words, so that nobody takes an invention for the world.
        method: how the figures came about, in one sentence or more, without a last full stop.
        capacity: share of conversations that can be reviewed, for `QualityRow.precision_at_capacity`.
        runs: trainings with different noise over which each figure is the mean.
        rows: one a system; the release's own is always among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Text
    method: Text = "Mean over each company's own held-out conversations"
    capacity: Annotated[float, Field(gt=0, le=1)] | None = None
    runs: Annotated[int, Field(ge=1)] = 1
    rows: Annotated[tuple[QualityRow, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _rows_are_comparable(self) -> Self:
        systems = [row.system for row in self.rows]
        if len(set(systems)) != len(systems):
            raise ValueError("rows must name each system once")
        if RELEASED not in systems:
            raise ValueError(f"rows must hold {RELEASED}")
        if self.capacity is None and any(row.precision_at_capacity is not None for row in self.rows):
            raise ValueError("precision_at_capacity needs a capacity")
        return self

    def released(self) -> QualityRow:
        """Return the row of the release itself."""
        return next(row for row in self.rows if row.system == RELEASED)
