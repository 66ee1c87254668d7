"""What a member answers to a message, and in which order it makes sure of it.

Everything that the coordinator sends is taken for an adversary's until it is checked. An update is computed only after
signature, policy and budget were looked at, and it leaves only as the bytes that the ledger charged and stored.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ringfence.client.flower_adapter import FleetTask
from ringfence.client.member_ledger import MemberLedger
from ringfence.client.member_settings import MemberSettings
from ringfence.client.participation import check_app, check_round, check_terms, read_signed_plan
from ringfence.client.policy_check import Asked
from ringfence.client.refusals import refusal_code
from ringfence.client.worker import WorkerAnswer
from ringfence.model.errors import RingfenceError
from ringfence.model.evaluation_messages import EvaluateRequest
from ringfence.model.plan import Plan
from ringfence.model.round_messages import (
    Refusal,
    RefusalCode,
    RoundRequest,
    RoundUpdate,
    request_from_records,
)

log = logging.getLogger("ringfence.agent")
WORKER_TIMEOUT_S = 6 * 3600.0


class TrainingWorker(Protocol):
    """Answers requests; `ringfence.client.worker.Worker` is the real one."""

    def answer(self, request: RoundRequest, *, timeout_s: float) -> WorkerAnswer:
        """Return the answer to a request, never raising."""
        ...


class Permit(Protocol):
    """The member's policy; `ringfence.client.policy_gate.PolicyGate` is the real one."""

    def __call__(self, plan: Plan, asked: Asked = "answer") -> None:
        """Raise PolicyError for a plan of which this may not be asked now."""
        ...


class Forgetting(Protocol):
    """People whom the member forgets; `ringfence.client.withdrawals.Withdrawals` is the real one."""

    def stamp(self) -> object:
        """Return something that changes whenever somebody is forgotten."""
        ...

    def settle(self) -> None:
        """Withdraw what waits for it."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Settle, and let nobody be forgotten for the length of the block."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What shall leave this member, and for what.

    Attributes:
        answer: an update that the ledger charged, or a code.
        request: the question, or None if it could not be read.
        plan: of the question, or None if it was not checked.
    """

    answer: RoundUpdate | Refusal
    request: RoundRequest | None = None
    plan: Plan | None = None


class Answering:
    """Turns messages into what may leave.

    Args:
        settings: the member's own.
        worker: trains.
        ledger: charges, and keeps what was charged.
        permit: raises PolicyError for a plan that the member's policy does not allow now.
        forgetting: withdraws answers that may hold somebody who was forgotten.
    """

    def __init__(
        self,
        *,
        settings: MemberSettings,
        worker: TrainingWorker,
        ledger: MemberLedger,
        permit: Permit,
        forgetting: Forgetting,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._ledger = ledger
        self._permit = permit
        self._forgetting = forgetting

    def answer(self, task: FleetTask) -> Outgoing:
        """Return what leaves for a message. Never raises: whatever goes wrong leaves as a code."""
        request: RoundRequest | None = None
        plan: Plan | None = None
        try:
            check_app(task.app_id, task.action)
            request = request_from_records(task.message.content, action=task.action)
            plan = read_signed_plan(request, plan_public_key=self._settings.plan_public_key)
            return Outgoing(self._answer(request, plan), request, plan)
        except RingfenceError as error:
            code = refusal_code(error)
            log.warning("%srefused (%s): %s %s", _place(request), code, error.message, error.hint)
            return Outgoing(Refusal(code), request, plan)
        except Exception as error:  # noqa: BLE001 - its text may hold private data, so only its kind is logged
            log.error("%sa defect of Ringfence: %s", _place(request), type(error).__name__)
            return Outgoing(Refusal(refusal_code(error)), request, plan)

    def _answer(self, request: RoundRequest, plan: Plan) -> RoundUpdate | Refusal:
        # Step 1: the coordinator's terms are within the member's own.
        check_terms(plan, settings=self._settings)
        check_round(request, plan)
        # Step 2: this ledger is the newest that anybody knows of.
        self._ledger.confirm(request.known_head)
        # Step 3: what may hold somebody who was forgotten meanwhile is not in the outbox any more.
        self._forgetting.settle()
        # Step 4: a question that was answered gets the same bytes: no new noise, no new charge.
        known = self._ledger.released(request)
        if known is not None:
            log.info("%ssent again from the outbox", _place(request))
            return known
        # Step 5: the member's policy and budget allow a new answer.
        if isinstance(request, EvaluateRequest):
            self._permit(plan, "evaluation")
        else:
            self._permit(plan)
        self._ledger.check(request, plan)
        forgotten = self._forgetting.stamp()
        made = self._worker.answer(request, timeout_s=WORKER_TIMEOUT_S)
        if isinstance(made.answer, Refusal):
            log.warning("%srefused (%s): %s", _place(request), made.answer.code, made.reason)
            return made.answer
        with self._forgetting.held():
            if self._forgetting.stamp() != forgotten:
                # Somebody was forgotten while this was computed, perhaps with them: it is dropped, and computed anew when asked.
                log.info("%sdropped, because somebody was forgotten meanwhile", _place(request))
                return Refusal(RefusalCode.BUSY)
            # Step 6: charge and store in one transaction; only what is stored may leave.
            charged = self._ledger.charge(
                request, plan=plan, update=made.answer, dataset_digest=made.dataset_digest
            )
        log.info("%sanswered", _place(request))
        return charged


def _place(request: RoundRequest | None) -> str:
    if request is None:
        return ""
    part = "evaluation" if isinstance(request, EvaluateRequest) else f"round {request.round}"
    return f"run {request.run} {part}: "
