"""How members' answers become the next model: pure arithmetic and checks, no network.

A federated average weighted by the size class that each member declares in public (never by its private number of
conversations). One bad answer is left out and named; it never ends a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringfence.model.errors import PeerError
from ringfence.model.plan import Plan
from ringfence.model.round_messages import TrainUpdate
from ringfence.privacy.update_grid import dequantise_update


@dataclass(frozen=True, slots=True)
class RoundQuestion:
    """What was asked, to hold an answer against.

    Attributes:
        run: the coordinator's name for the run.
        plan: the plan of the run.
        round: 1-based.
        attempt: 1-based.
        parameter_count: d.
    """

    run: str
    plan: Plan
    round: int
    attempt: int
    parameter_count: int


def is_earlier(update: TrainUpdate, *, question: RoundQuestion) -> bool:
    """Return whether an answer belongs to an earlier round of the same run: late, and no fault."""
    same_run = (update.run, update.plan_digest) == (question.run, question.plan.digest())
    return same_run and update.round < question.round


def check_update(update: TrainUpdate, *, question: RoundQuestion) -> NDArray[np.float64]:
    """Return a member's change of the model, (d,) float64, after checking that it answers the question.

    Raises:
        PeerError: it answers another question, or its shape or size is impossible. The member's fault.
    """
    asked = (question.run, question.plan.digest(), question.round, question.attempt)
    if (update.run, update.plan_digest, update.round, update.attempt) != asked:
        raise PeerError("The answer belongs to another run, plan, round or attempt.")
    if update.update.shape != (question.parameter_count,) or update.update.dtype != np.int64:
        raise PeerError("The answer has another shape than the model.")
    return dequantise_update(update.update)


def average_updates(
    parameters: NDArray[np.float64],
    *,
    updates: Mapping[str, NDArray[np.float64]],
    size_classes: Mapping[str, int],
) -> NDArray[np.float64]:
    """Return the next model, (d,) float64: parameters plus the average of the updates.

    Members are added in the order of their names, so that the same answers give the same bytes.

    Args:
        parameters: (d,) the model that was asked about.
        updates: by member, (d,) each.
        size_classes: by member, its public size class.

    Raises:
        ValueError: no update, or a size class that is not positive. The caller's fault.

    Source: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1, with public weights.
    """
    total = sum(size_classes[member] for member in updates)
    if not updates or any(size_classes[member] <= 0 for member in updates):
        raise ValueError("an average needs updates with positive size classes")
    change = np.zeros_like(parameters)
    for member in sorted(updates):
        change += updates[member] * (size_classes[member] / total)
    return parameters + change


def published_model(history: list[NDArray[np.float64]], *, averaging: str) -> NDArray[np.float64]:
    """Return the model that a run publishes.

    Averaging released models is post-processing and costs no privacy.

    Args:
        history: (d,) the model that the run began with, then that after each round, in order; not empty.
        averaging: "last", or "last-half": the mean over the later half of the rounds, of an odd number the larger half. What the
            run began with is never part of it.
    """
    rounds = history[1:]
    if averaging == "last" or not rounds:
        return history[-1]
    mean: NDArray[np.float64] = np.mean(np.stack(rounds[len(rounds) // 2 :]), axis=0)
    return mean
