"""A member's answer to one question of a run: its own conversations, its own noise.

Runs in the worker, which has no network. What it returns is noised, clipped and of a fixed shape; whether it leaves the
member is for the agent to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ringfence.client.exclusions import exclusions_stamp
from ringfence.client.local_data import Progress, TrainingRows, open_labelled, training_rows
from ringfence.client.local_evaluation import evaluate_locally, evaluation_prefixes
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings, load_member_settings
from ringfence.client.participation import (
    check_ledger,
    check_round,
    check_software,
    check_terms,
    read_signed_plan,
)
from ringfence.client.snapshot import Snapshot
from ringfence.client.snapshot_folder import folder_in_use
from ringfence.client.training_device import training_device
from ringfence.model.bounds import Bounds
from ringfence.model.errors import PeerError
from ringfence.model.evaluation_messages import EvaluateRequest
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import Plan
from ringfence.model.round_messages import RoundRequest, RoundUpdate, TrainRequest, TrainUpdate


@dataclass(frozen=True, slots=True)
class _Prepared:
    plan: Plan
    rows: TrainingRows


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """What a member computed for one question.

    Attributes:
        update: the answer, noised.
        dataset_digest: of the manifest of the conversations that were used, in hexadecimal; it stays at the member.
    """

    update: RoundUpdate
    dataset_digest: str


class LocalTrainer:
    """Answers rounds for one member, keeping its rows in memory between them.

    Args:
        home: the member's folder.
        has_ledger: whether what this returns is charged to a ledger before it leaves.
        read_elsewhere: has another process take a snapshot, where reading may need a network that this one has not; it
            returns the path. By default this process reads everything itself.
        progress: is told how many of the rows that are new were made, and of how many.
    """

    def __init__(
        self,
        home: MemberHome,
        *,
        has_ledger: bool,
        read_elsewhere: Callable[[], Path] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress
        self._home = home
        self._has_ledger = has_ledger
        self._read_elsewhere = read_elsewhere
        self._settings: MemberSettings | None = None
        self._prepared: dict[tuple[str, tuple[float, ...], Bounds], _Prepared] = {}
        self._exclusions: tuple[int, int] | None = None

    def answer(self, request: RoundRequest) -> LocalAnswer:
        """Return the answer to one question.

        Raises:
            PolicyError: the plan is outside what this member agreed to.
            PeerError: the request does not fit its plan. The coordinator's fault.
            ConfigError, DataError: the member's own files are not in order.
            BudgetError: the contribution bound does not hold.
        """
        self._notice_forgotten()
        settings = self._own_settings()
        plan = read_signed_plan(request, plan_public_key=settings.plan_public_key)
        check_terms(plan, settings=settings)
        check_ledger(plan, has_ledger=self._has_ledger)
        check_software(plan, feature_set_sha256=self._features(plan).fingerprint)
        check_round(request, plan)
        expected = ARCHITECTURES[plan.training.architecture].parameter_count(self._features(plan).dimension)
        if request.parameters.shape != (expected,):
            raise PeerError("The model of the round has another shape than the plan's architecture.")
        if isinstance(request, EvaluateRequest):
            # A histogram counts whole conversations.
            rows = self._rows(plan, prefixes=evaluation_prefixes(plan), bounds="greedy")
            made: RoundUpdate = evaluate_locally(request, plan=plan, rows=rows)
        else:
            rows = self._rows(plan, prefixes=plan.training.prefixes, bounds=plan.privacy.bounds)
            made = _train(request, plan=plan, rows=rows, settings=settings)
        return LocalAnswer(update=made, dataset_digest=rows.manifest.digest())

    def _notice_forgotten(self) -> None:
        """Let go of everything that is in memory when somebody was forgotten since the last round."""
        stamp = exclusions_stamp(self._home)
        if stamp != self._exclusions:
            self._exclusions = stamp
            self._prepared.clear()

    def _own_settings(self) -> MemberSettings:
        if self._settings is None:
            self._settings = load_member_settings(self._home)
        return self._settings

    def _features(self, plan: Plan) -> FeatureSet:
        return _feature_set(plan.training.feature_set)

    def _rows(self, plan: Plan, *, prefixes: tuple[float, ...], bounds: Bounds) -> TrainingRows:
        key = (plan.digest(), prefixes, bounds)
        if key not in self._prepared:
            # One snapshot, whose text is gone as soon as the rows are made. The manifest's digest names it in the ledger.
            with self._snapshot() as snapshot:
                rows = training_rows(
                    self._home,
                    conversations=snapshot,
                    feature_set=self._features(plan),
                    prefixes=prefixes,
                    contribution_bound=plan.privacy.contribution_bound,
                    bounds=bounds,
                    progress=self._progress,
                )
            self._prepared = {key: _Prepared(plan=plan, rows=rows)}
        return self._prepared[key].rows

    def _snapshot(self) -> Snapshot:
        settings = self._own_settings()
        if self._read_elsewhere is not None and settings.data.needs_network:
            # Held until its name is gone: whoever reads next would take it for left over.
            with folder_in_use(self._home):
                return Snapshot(self._read_elsewhere())
        return open_labelled(self._home, settings)


def _train(request: TrainRequest, *, plan: Plan, rows: TrainingRows, settings: MemberSettings) -> TrainUpdate:
    from ringfence.privacy.answer_mechanism import round_mechanism
    from ringfence.privacy.secure_noise import Csprng
    from ringfence.privacy.training import train_privately
    from ringfence.privacy.update_grid import quantise_update

    trained = train_privately(
        request.parameters,
        features=rows.features,
        labels=rows.labels,
        manifest=rows.manifest,
        terms=plan.training,
        mechanism=round_mechanism(plan).own,
        clip_norm=plan.privacy.clip_norm,
        size_class=settings.size_class,
        rng=Csprng(),
        device=training_device(settings.device),
    )
    return TrainUpdate(
        run=request.run,
        plan_digest=plan.digest(),
        round=request.round,
        attempt=request.attempt,
        update=quantise_update(np.asarray(trained - request.parameters, dtype=np.float64)),
    )


@lru_cache(maxsize=2)
def _feature_set(name: str) -> FeatureSet:
    """Return a feature set, read once a process: the members of a simulation share one of nearly 40 MB."""
    return load_feature_set(name)
