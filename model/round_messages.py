"""What coordinator and member say to each other in a round, and how Flower carries it.

A request and an answer each have one fixed form (`ringfence.model.round_records`); anything else is refused before it is
used. After the last round there may be one more question, `ringfence.model.evaluation_messages`, carried the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ringfence.model.errors import PeerError
from ringfence.model.evaluation_messages import (
    EVALUATE_ACTION,
    EVALUATE_UPDATE_KIND,
    EvaluateRequest,
    EvaluateUpdate,
    evaluate_request_from_records,
    evaluate_request_to_records,
    evaluate_update_from_records,
    evaluate_update_to_records,
)
from ringfence.model.round_records import (
    REFUSAL_KIND,
    kind_of,
    read_array,
    read_count,
    read_fields,
    read_head,
    read_model,
    read_plan,
    read_run,
    read_text,
    to_records,
)

if TYPE_CHECKING:
    from flwr.app import RecordDict

APP_ID = "ringfence/federation"
TRAIN_ACTION = "train.update"
_TRAIN_REQUEST_KIND = "train-request"
_TRAIN_UPDATE_KIND = "train-update"


class RefusalCode(StrEnum):
    """Why a member did not answer with an update: the only words of an error that leave it."""

    POLICY = "policy"
    NOT_APPROVED = "not-approved"
    BUDGET = "budget"
    BAD_REQUEST = "bad-request"
    UNKNOWN_APP = "unknown-app"
    NO_DATA = "no-data"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One round's question to one member.

    Attributes:
        run: the coordinator's name for the run.
        plan: canonical JSON of the plan.
        signature: Ed25519 signature of the coordinator's plan key over ``plan``, 64 bytes.
        round: 1-based.
        attempt: 1-based; an attempt is answered at most once.
        parameters: (d,) float64, the model to start from.
        known_head: the newest signed head of this member's ledger that the coordinator holds; empty if it holds none.
    """

    run: str
    plan: bytes
    signature: bytes
    round: int
    attempt: int
    parameters: NDArray[np.float64]
    known_head: bytes = b""


@dataclass(frozen=True, slots=True)
class TrainUpdate:
    """A member's answer: its noised, clipped change of the model, on the public grid.

    Attributes:
        run: repeated from the request.
        plan_digest: SHA-256 of the plan that was carried out, in hexadecimal.
        round: repeated from the request.
        attempt: repeated from the request.
        update: (d,) int64, see `ringfence.privacy.update_grid`.
        ledger_head: the member's signed ledger head after the charge, for the coordinator to keep and return; empty where a
            demonstration in one process has no ledger.
    """

    run: str
    plan_digest: str
    round: int
    attempt: int
    update: NDArray[np.int64]
    ledger_head: bytes = b""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A member's answer when it does not take part: one code of a closed set.

    Attributes:
        code: the reason.
    """

    code: RefusalCode


RoundRequest: TypeAlias = TrainRequest | EvaluateRequest
"""What a coordinator may ask in a run."""

RoundUpdate: TypeAlias = TrainUpdate | EvaluateUpdate
"""What a member may answer, other than a refusal; each is charged to its ledger."""


def action_of(request: RoundRequest) -> str:
    """Return Flower's message type of a request."""
    return EVALUATE_ACTION if isinstance(request, EvaluateRequest) else TRAIN_ACTION


def request_to_records(request: RoundRequest) -> RecordDict:
    """Return the Flower content that carries a request."""
    if isinstance(request, EvaluateRequest):
        return evaluate_request_to_records(request)
    return to_records(
        _TRAIN_REQUEST_KIND,
        {
            "run": request.run,
            "plan": request.plan,
            "signature": request.signature,
            "round": request.round,
            "attempt": request.attempt,
            "known_head": request.known_head,
        },
        ("parameters", request.parameters.astype("<f8")),
    )


def request_from_records(records: RecordDict, *, action: str = TRAIN_ACTION) -> RoundRequest:
    """Read a request.

    Args:
        records: as they came.
        action: Flower's message type, under which they came.

    Raises:
        PeerError: a field is missing, superfluous, or of another form, or the request came under another's type. The
            coordinator's fault.
    """
    if action == EVALUATE_ACTION:
        return evaluate_request_from_records(records)
    return train_request_from_records(records)


def train_request_from_records(records: RecordDict) -> TrainRequest:
    """Read a request for an update. Raises as `request_from_records`."""
    fields = read_fields(
        records,
        kind=_TRAIN_REQUEST_KIND,
        names={"run", "plan", "signature", "round", "attempt", "known_head"},
    )
    plan, signature = read_plan(fields)
    return TrainRequest(
        run=read_run(fields["run"]),
        plan=plan,
        signature=signature,
        round=read_count(fields["round"]),
        attempt=read_count(fields["attempt"]),
        parameters=read_model(records),
        known_head=read_head(fields["known_head"]),
    )


def answer_to_records(answer: RoundUpdate | Refusal) -> RecordDict:
    """Return the Flower content that carries a member's answer."""
    if isinstance(answer, Refusal):
        return to_records(REFUSAL_KIND, {"code": answer.code.value})
    if isinstance(answer, EvaluateUpdate):
        return evaluate_update_to_records(answer)
    return to_records(
        _TRAIN_UPDATE_KIND,
        {
            "run": answer.run,
            "plan_digest": answer.plan_digest,
            "round": answer.round,
            "attempt": answer.attempt,
            "ledger_head": answer.ledger_head,
        },
        ("update", answer.update.astype("<i8")),
    )


def answer_from_records(records: RecordDict) -> RoundUpdate | Refusal:
    """Read a member's answer.

    Raises:
        PeerError: a field is missing, superfluous, or of another form. The member's fault.
    """
    kind = kind_of(records)
    if kind == REFUSAL_KIND:
        code = read_fields(records, kind=REFUSAL_KIND, names={"code"})["code"]
        try:
            return Refusal(RefusalCode(str(code)))
        except ValueError as error:
            raise PeerError("A member refused with an unknown code.") from error
    if kind == EVALUATE_UPDATE_KIND:
        return evaluate_update_from_records(records)
    fields = read_fields(
        records,
        kind=_TRAIN_UPDATE_KIND,
        names={"run", "plan_digest", "round", "attempt", "ledger_head"},
    )
    return TrainUpdate(
        run=read_run(fields["run"]),
        plan_digest=read_text(fields["plan_digest"]),
        round=read_count(fields["round"]),
        attempt=read_count(fields["attempt"]),
        update=read_array(records, "update", "int64").astype(np.int64),
        ledger_head=read_head(fields["ledger_head"]),
    )
