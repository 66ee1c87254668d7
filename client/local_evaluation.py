"""A member's answer to how well a model does: counts of its own conversations by label and score, with its own noise.

Runs in the worker. The conversations are whole ones that greedy bounds keep, however the plan bounds those of training: no
person is in more than k of them, so that one person's part in training and evaluation together stays within what the plan says.
"""

from __future__ import annotations

import numpy as np

from ringfence.client.local_data import TrainingRows
from ringfence.model.errors import BudgetError
from ringfence.model.evaluation_messages import EvaluateRequest, EvaluateUpdate
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import Plan

WHOLE = 1.0


def evaluation_prefixes(plan: Plan) -> tuple[float, ...]:
    """Return which beginnings of conversations to have rows of: the training's own if the whole is among them."""
    return plan.training.prefixes if WHOLE in plan.training.prefixes else (WHOLE,)


def evaluate_locally(request: EvaluateRequest, *, plan: Plan, rows: TrainingRows) -> EvaluateUpdate:
    """Return the noised histogram of scores that a model gives the member's conversations.

    Args:
        request: the question; its model has the plan's shape.
        plan: of the run, which has an evaluation.
        rows: of `evaluation_prefixes`.

    Raises:
        BudgetError: the contribution bound does not hold, or the plan has no evaluation.
    """
    from ringfence.privacy.answer_mechanism import evaluation_mechanism
    from ringfence.privacy.score_histogram import noised_score_histogram
    from ringfence.privacy.secure_noise import Csprng

    mechanism = evaluation_mechanism(plan)
    if mechanism is None:
        raise BudgetError("The plan has no evaluation.", hint="Refuse the question.")
    whole = rows.features[:, evaluation_prefixes(plan).index(WHOLE), :]
    # A model of huge weights may give scores that are not finite; they are counted like any other.
    with np.errstate(over="ignore", invalid="ignore"):
        scores = ARCHITECTURES[plan.training.architecture].logits(request.parameters, whole)
    histogram = noised_score_histogram(
        scores,
        labels=rows.labels,
        manifest=rows.manifest,
        contribution_bound=mechanism.own.contribution_bound,
        noise_multiplier=mechanism.own.noise_multiplier,
        rng=Csprng(),
    )
    return EvaluateUpdate(run=request.run, plan_digest=plan.digest(), histogram=histogram)
