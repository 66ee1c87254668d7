"""The bytes of an answer as the ledger's outbox keeps them: with the question that they answer, and nothing of the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from ringfence.model.errors import BudgetError
from ringfence.model.evaluation_messages import EvaluateRequest, EvaluateUpdate
from ringfence.model.round_messages import RoundRequest, RoundUpdate, TrainUpdate

_SEPARATOR = b"\n"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer and what it answers.

    Attributes:
        question: SHA-256 of the question, see `question_digest`.
        update: the answer, without a ledger head.
    """

    question: str
    update: RoundUpdate

    def encode(self) -> bytes:
        """Return the one byte string that stands for the answer."""
        update = self.update
        numbers = update.histogram if isinstance(update, EvaluateUpdate) else update.update
        return stored_bytes(
            self.question,
            run=update.run,
            plan_digest=update.plan_digest,
            place=None if isinstance(update, EvaluateUpdate) else (update.round, update.attempt),
            numbers=numbers.astype("<i8").tobytes(),
        )

    @classmethod
    def decode(cls, content: bytes) -> StoredAnswer:
        """Read what `encode` wrote.

        Raises:
            BudgetError: the bytes are something else: the outbox was changed.
        """
        try:
            header, _, values = content.partition(_SEPARATOR)
            fields = json.loads(header)
            numbers = np.frombuffer(values, dtype="<i8").astype(np.int64)
            if "round" not in fields:
                evaluated = EvaluateUpdate(run=fields["run"], plan_digest=fields["plan"], histogram=numbers)
                return cls(question=fields["question"], update=evaluated)
            update = TrainUpdate(
                run=fields["run"],
                plan_digest=fields["plan"],
                round=fields["round"],
                attempt=fields["attempt"],
                update=numbers,
            )
            return cls(question=fields["question"], update=update)
        except (ValueError, KeyError, TypeError) as error:
            raise BudgetError(
                "A stored answer cannot be read.",
                hint="Keep the ledger as it is, and ask the data-protection officer.",
            ) from error


@dataclass(frozen=True, slots=True)
class Charged:
    """What the ledger says of an answer that it charged and stored.

    Attributes:
        payload: SHA-256 of the stored bytes, in hexadecimal, as the charge's entry has it.
        head: hash of the ledger's newest entry, which includes the charge.
    """

    payload: str
    head: str


def stored_bytes(
    question: str, *, run: str, plan_digest: str, place: tuple[int, int] | None, numbers: bytes
) -> bytes:
    """Return the one byte string that stands for an answer.

    Args:
        question: SHA-256 of the question.
        run: of the answer.
        plan_digest: of the answer.
        place: round and attempt; None for an evaluation.
        numbers: int64, little endian.
    """
    header: dict[str, str | int] = {"question": question, "run": run, "plan": plan_digest}
    if place is not None:
        header |= {"round": place[0], "attempt": place[1]}
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + _SEPARATOR + numbers


def question_digest(request: RoundRequest) -> str:
    """Return the SHA-256 of everything that an answer depends on, in hexadecimal."""
    digest = hashlib.sha256()
    for part in (request.run.encode(), request.plan, request.parameters.astype("<f8").tobytes()):
        digest.update(len(part).to_bytes(8, "big") + part)
    # No round is 0: an evaluation is never mistaken for one.
    place = (0, 0) if isinstance(request, EvaluateRequest) else (request.round, request.attempt)
    digest.update(b"".join(number.to_bytes(8, "big") for number in place))
    return digest.hexdigest()
