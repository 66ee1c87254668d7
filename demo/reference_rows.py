"""The rows that every claim about a federation is held against, on held-out conversations of all companies.

The public head before any training; each company alone with the same privacy and the same start; alone without privacy;
federated; and, as the reference that nobody may build, all data pooled without privacy. One draw of noise says little: rows
with privacy are means over several draws, beside the one draw that was released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringfence.client.local_data import TrainingRows
from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import FeatureSet
from ringfence.model.head import ARCHITECTURES
from ringfence.model.metrics import area_under_roc, average_precision
from ringfence.model.plan import Plan
from ringfence.privacy.answer_mechanism import round_mechanism
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import train_privately, train_without_privacy
from ringfence.server.aggregation import average_updates, published_model

FEDERATED = "federated, as released"
DRAWS = 5
"""Draws of noise over which a row with privacy is the mean."""


@dataclass(frozen=True, slots=True)
class QualityRow:
    """How well one detector does on the held-out conversations of all companies.

    Attributes:
        name: what was trained, on what.
        auroc: area under the ROC curve, mean over the companies' held-out sets, each by itself.
        average_precision: mean over the same.
        privacy: whether it was trained with differential privacy; None where it saw no private data.
    """

    name: str
    auroc: float
    average_precision: float
    privacy: bool | None


class HeldOut:
    """The held-out conversations of all companies, as rows.

    Args:
        feature_set: of the plan.
        conversations: by company; labelled, of both kinds.
    """

    def __init__(self, feature_set: FeatureSet, conversations: Mapping[str, Sequence[Conversation]]) -> None:
        self._sets = {
            name: (
                np.concatenate([feature_set.rows(item) for item in items]).astype(np.float32),
                np.array([item.label for item in items], dtype=np.int64),
            )
            for name, items in conversations.items()
        }

    def judge(
        self, name: str, parameters: NDArray[np.float64], *, plan: Plan, privacy: bool | None
    ) -> QualityRow:
        """Return the quality of a head, averaged over the companies."""
        logits = ARCHITECTURES[plan.training.architecture].logits
        scored = [(logits(parameters, features), labels) for features, labels in self._sets.values()]
        return QualityRow(
            name=name,
            auroc=float(np.mean([area_under_roc(labels, scores) for scores, labels in scored])),
            average_precision=float(
                np.mean([average_precision(labels, scores) for scores, labels in scored])
            ),
            privacy=privacy,
        )


def train_alone(
    rows: TrainingRows, *, plan: Plan, initial: NDArray[np.float64], size_class: int
) -> NDArray[np.float64]:
    """Return what a company reaches by itself with the plan's own privacy: a federation of one."""
    return train_together({"alone": rows}, plan=plan, initial=initial, size_classes={"alone": size_class})


def train_together(
    training: Mapping[str, TrainingRows],
    *,
    plan: Plan,
    initial: NDArray[np.float64],
    size_classes: Mapping[str, int],
) -> NDArray[np.float64]:
    """Return what a federation reaches with fresh noise: the released run's arithmetic, in one process."""
    history = [initial]
    for _ in range(plan.training.rounds):
        updates = {
            name: train_round(rows, history[-1], plan=plan, size_class=size_classes[name]) - history[-1]
            for name, rows in training.items()
        }
        history.append(average_updates(history[-1], updates=updates, size_classes=size_classes))
    return published_model(history, averaging=plan.training.averaging)


def train_round(
    rows: TrainingRows, parameters: NDArray[np.float64], *, plan: Plan, size_class: int
) -> NDArray[np.float64]:
    """Return a company's model after one round's private steps from ``parameters``, (d,) float64."""
    return train_privately(
        parameters,
        features=rows.features,
        labels=rows.labels,
        manifest=rows.manifest,
        terms=plan.training,
        mechanism=round_mechanism(plan).own,
        clip_norm=plan.privacy.clip_norm,
        size_class=size_class,
        rng=Csprng(),
    )


def train_openly(
    rows: Sequence[TrainingRows], *, plan: Plan, initial: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what the same recipe reaches without privacy on all of these rows together: for comparison only."""
    return train_without_privacy(
        initial,
        features=np.concatenate([item.features for item in rows]),
        labels=np.concatenate([item.labels for item in rows]),
        terms=plan.training,
        steps=plan.steps,
    )


def reference_rows(
    held_out: HeldOut,
    *,
    plan: Plan,
    initial: NDArray[np.float64],
    federated: NDArray[np.float64],
    training: Mapping[str, TrainingRows],
    size_classes: Mapping[str, int],
) -> list[QualityRow]:
    """Return every row of the table, the federated one marked by its name.

    Args:
        held_out: what the rows are judged on.
        plan: of the run.
        initial: (d,) the public head.
        federated: (d,) what the run published.
        training: by company.
        size_classes: by company, as declared.
    """
    rows = [held_out.judge("public head, before any training", initial, plan=plan, privacy=None)]
    for name, own in training.items():
        models = [
            train_alone(own, plan=plan, initial=initial, size_class=size_classes[name]) for _ in range(DRAWS)
        ]
        rows.append(
            _mean(f"{name} alone", [held_out.judge("", model, plan=plan, privacy=True) for model in models])
        )
    open_rows = [
        held_out.judge(name, train_openly([own], plan=plan, initial=initial), plan=plan, privacy=False)
        for name, own in training.items()
    ]
    rows.append(_mean("alone, mean of the companies", open_rows))
    rows.append(held_out.judge(FEDERATED, federated, plan=plan, privacy=True))
    models = [
        train_together(training, plan=plan, initial=initial, size_classes=size_classes) for _ in range(DRAWS)
    ]
    rows.append(
        _mean(
            "federated, other draws of noise",
            [held_out.judge("", model, plan=plan, privacy=True) for model in models],
        )
    )
    pooled = train_openly(list(training.values()), plan=plan, initial=initial)
    rows.append(held_out.judge("all data pooled (nobody may build this)", pooled, plan=plan, privacy=False))
    return rows


def _mean(name: str, rows: Sequence[QualityRow]) -> QualityRow:
    return QualityRow(
        name=name,
        auroc=float(np.mean([row.auroc for row in rows])),
        average_precision=float(np.mean([row.average_precision for row in rows])),
        privacy=rows[0].privacy,
    )
