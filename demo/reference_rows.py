"""The rows that every claim about a federation is held against, on held-out conversations of all companies.

The public head before any training; each company alone with the same privacy and the same start; alone without privacy;
federated; and, as the reference that nobody may build, all data pooled without privacy. One draw of noise says little: rows
with privacy are means over several draws, beside the one draw that was released. What has no privacy sees every labelled
conversation, not only those that the contribution bound keeps, and is fitted to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringfence.client.local_data import TrainingRows
from ringfence.demo.open_training import fit_on_beginnings
from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import FeatureSet
from ringfence.model.head import ARCHITECTURES, LinearHead
from ringfence.model.metrics import area_under_roc, average_precision
from ringfence.model.plan import Plan
from ringfence.privacy.answer_mechanism import round_mechanism
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import train_privately
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
        return self._judge(name, parameters, architecture=plan.training.architecture, privacy=privacy)

    def judge_open(self, name: str, parameters: NDArray[np.float64]) -> QualityRow:
        """Return the same of a linear head that was fitted without privacy."""
        return self._judge(name, parameters, architecture=LinearHead.name, privacy=False)

    def _judge(
        self, name: str, parameters: NDArray[np.float64], *, architecture: str, privacy: bool | None
    ) -> QualityRow:
        logits = ARCHITECTURES[architecture].logits
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


@dataclass(frozen=True, slots=True)
class OpenRows:
    """All labelled conversations of a company, for rows without privacy.

    Attributes:
        features: (n, prefixes, d) float32.
        labels: (n,), each 0 or 1.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def train_openly(rows: Sequence[OpenRows], *, plan: Plan) -> NDArray[np.float64]:
    """Return the linear head that all of these rows together give without privacy: for comparison only."""
    return fit_on_beginnings(
        np.concatenate([item.features for item in rows]),
        np.concatenate([item.labels for item in rows]),
        positive_weight=plan.training.positive_weight,
    )


def reference_rows(
    held_out: HeldOut,
    *,
    plan: Plan,
    initial: NDArray[np.float64],
    federated: NDArray[np.float64],
    training: Mapping[str, TrainingRows],
    everything: Mapping[str, OpenRows],
    size_classes: Mapping[str, int],
) -> list[QualityRow]:
    """Return every row of the table, the federated one marked by its name.

    Args:
        held_out: what the rows are judged on.
        plan: of the run.
        initial: (d,) the public head.
        federated: (d,) what the run published.
        training: by company, what the contribution bound keeps.
        everything: by company, all of it.
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
        held_out.judge_open(name, train_openly([own], plan=plan)) for name, own in everything.items()
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
    pooled = train_openly(list(everything.values()), plan=plan)
    rows.append(held_out.judge_open("all data pooled (nobody may build this)", pooled))
    return rows


def _mean(name: str, rows: Sequence[QualityRow]) -> QualityRow:
    return QualityRow(
        name=name,
        auroc=float(np.mean([row.auroc for row in rows])),
        average_precision=float(np.mean([row.average_precision for row in rows])),
        privacy=rows[0].privacy,
    )
