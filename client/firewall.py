"""The firewall: the one place through which an answer leaves this member.

Whatever made an answer, the firewall holds its wire form, every field of it, against a closed schema, against the question
and, bit by bit, against what the ledger charged; has it in the audit log, on disk; and only then gives it back as a
`Cleared`, which is all that the fleet connection takes. A field that nobody agreed to, a count, a loss, a float, another
shape or another number does not leave, whichever defect put it there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, final

from pydantic import ValidationError

from ringfence.client.answer_schema import (
    REPORT,
    FirewallError,
    HistogramMessage,
    RefusalMessage,
    UpdateForm,
    UpdateMessage,
    checked_wire_form,
    wrong_fields,
)
from ringfence.client.audit_chain import Departure, Kind
from ringfence.client.audit_log import AuditLog
from ringfence.client.stored_answer import Charged, question_digest, stored_bytes
from ringfence.model.evaluation_messages import EvaluateRequest
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import Plan
from ringfence.model.round_messages import Refusal, RoundRequest, RoundUpdate
from ringfence.model.stage_features import DIMENSION
from ringfence.privacy.score_histogram import CELLS

if TYPE_CHECKING:
    from flwr.app import RecordDict

_ISSUED_HERE = object()


@dataclass(frozen=True, slots=True)
class Question:
    """What an answer must repeat and fit, from the request and the plan: never from the answer.

    Attributes:
        run: of the request.
        plan_digest: SHA-256 of the plan, in hexadecimal.
        kind: the one form of answer, other than a refusal, that the question allows.
        round: of the request; 0 for an evaluation.
        attempt: of the request; 0 for an evaluation.
        purpose: of the plan.
        numbers: how many numbers may leave: the parameters of the plan's architecture, or the cells of a histogram.
        digest: SHA-256 of the whole question, as the ledger stores it with its answer.
    """

    run: str
    plan_digest: str
    kind: Kind
    round: int
    attempt: int
    purpose: str
    numbers: int
    digest: str


def question_of(request: RoundRequest, *, plan: Plan) -> Question:
    """Return what the answer to a request must repeat and fit.

    Args:
        request: as it came.
        plan: of the request, its signature checked.
    """
    if isinstance(request, EvaluateRequest):
        return Question(
            run=request.run,
            plan_digest=plan.digest(),
            kind="evaluate-update",
            round=0,
            attempt=0,
            purpose=plan.purpose,
            numbers=CELLS,
            digest=question_digest(request),
        )
    architecture = ARCHITECTURES.get(plan.training.architecture)
    return Question(
        run=request.run,
        plan_digest=plan.digest(),
        kind="train-update",
        round=request.round,
        attempt=request.attempt,
        purpose=plan.purpose,
        # An architecture that is not known here has no shape: only a refusal can leave.
        numbers=architecture.parameter_count(DIMENSION) if architecture is not None else 0,
        digest=question_digest(request),
    )


@final
class Cleared:
    """An answer that may leave, once. Only `Firewall.clear` makes one.

    Attributes:
        kind: form of the answer.
        digest: as the audit log has it.
    """

    __slots__ = ("_content", "_issued", "digest", "kind")

    def __init__(self, content: RecordDict, *, kind: Kind, digest: str, issued: object = None) -> None:
        if issued is not _ISSUED_HERE:
            raise TypeError("Only the firewall clears answers.")
        self._content: RecordDict | None = content
        self._issued = issued
        self.kind = kind
        self.digest = digest

    def take(self) -> RecordDict:
        """Return the content to send. A second sending needs a second clearing, and so has its own audit entry.

        Raises:
            TypeError: it was taken before, or the firewall did not make this. A defect of the caller.
        """
        if getattr(self, "_issued", None) is not _ISSUED_HERE or self._content is None:
            raise TypeError("This answer was not cleared, or has been sent.")
        content, self._content = self._content, None
        return content

    def __copy__(self) -> NoReturn:
        raise TypeError("A cleared answer is sent once: it cannot be copied.")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self.__copy__()


class Firewall:
    """Clears answers for one destination.

    Args:
        audit_log: takes an entry for each answer before it leaves.
        destination: host and port that answers go to.
        ledger_required: refuse an update that no ledger has charged. False only where a demonstration has no ledger.
    """

    def __init__(self, audit_log: AuditLog, *, destination: str, ledger_required: bool = True) -> None:
        self._audit_log = audit_log
        self._destination = destination
        self._ledger_required = ledger_required

    def clear(
        self, answer: RoundUpdate | Refusal, *, question: Question | None, charged: Charged | None = None
    ) -> Cleared:
        """Return what may be sent, recorded already.

        Args:
            answer: that somebody made.
            question: what was asked; None where no request could be read, and only a refusal may leave.
            charged: what the ledger says that it charged for this question; None for a refusal.

        Raises:
            FirewallError: the answer is not of the agreed form; the message says which field, never its value.
            AuditBrokenError, ConfigError: it cannot be recorded, and so must not leave.
        """
        content, message = checked_wire_form(answer)
        if not isinstance(message, RefusalMessage):
            self._check_answers(message, question=question, charged=charged)
        numbers = message.numbers()
        digest = hashlib.sha256(numbers).hexdigest()
        try:
            self._audit_log.append(
                Departure(
                    destination=self._destination,
                    kind=message.ringfence.kind,
                    purpose=question.purpose if question else "",
                    digest=digest,
                    size_bytes=len(numbers),
                    plan_digest=question.plan_digest if question else "",
                    run=question.run if question else "",
                    round=question.round if question else 0,
                    attempt=question.attempt if question else 0,
                    ledger_head=charged.head if charged else "",
                    payload=charged.payload if charged else "",
                )
            )
        except ValidationError as error:
            raise FirewallError(f"An answer stays here: {wrong_fields(error)}.", hint=REPORT) from error
        return Cleared(content, kind=message.ringfence.kind, digest=digest, issued=_ISSUED_HERE)

    def _check_answers(
        self,
        message: UpdateMessage | HistogramMessage,
        *,
        question: Question | None,
        charged: Charged | None,
    ) -> None:
        form = message.ringfence
        place = (form.round, form.attempt) if isinstance(form, UpdateForm) else (0, 0)
        repeated = (form.kind, form.run, form.plan_digest, *place)
        if question is None or repeated != (
            question.kind,
            question.run,
            question.plan_digest,
            question.round,
            question.attempt,
        ):
            raise FirewallError("An answer stays here: it is to another question.", hint=REPORT)
        if 8 * question.numbers != len(message.numbers()):
            raise FirewallError("An answer stays here: its shape is not the plan's.", hint=REPORT)
        if charged is None:
            if self._ledger_required or form.ledger_head:
                raise FirewallError("An answer stays here: no ledger has charged it.", hint=REPORT)
            return
        if not form.ledger_head or form.head_hash() != charged.head:
            raise FirewallError("An answer stays here: it carries another ledger head.", hint=REPORT)
        leaving = stored_bytes(
            question.digest,
            run=form.run,
            plan_digest=form.plan_digest,
            place=place if isinstance(form, UpdateForm) else None,
            numbers=message.numbers(),
        )
        if hashlib.sha256(leaving).hexdigest() != charged.payload:
            raise FirewallError("An answer stays here: it is not what the ledger has charged.", hint=REPORT)
