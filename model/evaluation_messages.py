"""What coordinator and member say to each other about quality, once in a run: a model, and a noised histogram of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ringfence.model.round_records import (
    read_array,
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

EVALUATE_ACTION = "evaluate.histogram"
EVALUATE_REQUEST_KIND = "evaluate-request"
EVALUATE_UPDATE_KIND = "evaluate-update"


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """The question how well a model does at a member; answered at most once in a run.

    Attributes:
        run: the coordinator's name for the run.
        plan: canonical JSON of the plan.
        signature: Ed25519 signature of the coordinator's plan key over ``plan``, 64 bytes.
        parameters: (d,) float64, the model that the run publishes.
        known_head: the newest signed head of this member's ledger that the coordinator holds; empty if it holds none.
    """

    run: str
    plan: bytes
    signature: bytes
    parameters: NDArray[np.float64]
    known_head: bytes = b""


@dataclass(frozen=True, slots=True)
class EvaluateUpdate:
    """A member's answer: its noised counts of conversations by label and score.

    Attributes:
        run: repeated from the request.
        plan_digest: SHA-256 of the plan that was carried out, in hexadecimal.
        histogram: (cells,) int64, see `ringfence.privacy.score_histogram`.
        ledger_head: the member's signed ledger head after the charge; empty where a demonstration in one process has no ledger.
    """

    run: str
    plan_digest: str
    histogram: NDArray[np.int64]
    ledger_head: bytes = b""


def evaluate_request_to_records(request: EvaluateRequest) -> RecordDict:
    """Return the Flower content that carries a request."""
    return to_records(
        EVALUATE_REQUEST_KIND,
        {
            "run": request.run,
            "plan": request.plan,
            "signature": request.signature,
            "known_head": request.known_head,
        },
        ("parameters", request.parameters.astype("<f8")),
    )


def evaluate_request_from_records(records: RecordDict) -> EvaluateRequest:
    """Read a request.

    Raises:
        PeerError: a field is missing, superfluous, or of another form. The coordinator's fault.
    """
    fields = read_fields(
        records, kind=EVALUATE_REQUEST_KIND, names={"run", "plan", "signature", "known_head"}
    )
    plan, signature = read_plan(fields)
    return EvaluateRequest(
        run=read_run(fields["run"]),
        plan=plan,
        signature=signature,
        parameters=read_model(records),
        known_head=read_head(fields["known_head"]),
    )


def evaluate_update_to_records(update: EvaluateUpdate) -> RecordDict:
    """Return the Flower content that carries an answer."""
    return to_records(
        EVALUATE_UPDATE_KIND,
        {"run": update.run, "plan_digest": update.plan_digest, "ledger_head": update.ledger_head},
        ("histogram", update.histogram.astype("<i8")),
    )


def evaluate_update_from_records(records: RecordDict) -> EvaluateUpdate:
    """Read an answer.

    Raises:
        PeerError: a field is missing, superfluous, or of another form. The member's fault.
    """
    fields = read_fields(records, kind=EVALUATE_UPDATE_KIND, names={"run", "plan_digest", "ledger_head"})
    return EvaluateUpdate(
        run=read_run(fields["run"]),
        plan_digest=read_text(fields["plan_digest"]),
        histogram=read_array(records, "histogram", "int64").astype(np.int64),
        ledger_head=read_head(fields["ledger_head"]),
    )
