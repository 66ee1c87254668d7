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
        header: dict[str, str | int] = {
            "question": self.question,
            "run": update.run,
            "plan": update.plan_digest,
        }
        if isinstance(update, EvaluateUpdate):
            numbers = update.histogram
        else:
            header |= {"round": update.round, "attempt": update.attempt}
            numbers = update.update
        content = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        return content + _SEPARATOR + numbers.astype("<i8").tobytes()

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


def question_digest(request: RoundRequest) -> str:
    """Return the SHA-256 of everything that an answer depends on, in hexadecimal."""
    digest = hashlib.sha256()
    for part in (request.run.encode(), request.plan, request.parameters.astype("<f8").tobytes()):
        digest.update(len(part).to_bytes(8, "big") + part)
    # No round is 0: an evaluation is never mistaken for one.
    place = (0, 0) if isinstance(request, EvaluateRequest) else (request.round, request.attempt)
    digest.update(b"".join(number.to_bytes(8, "big") for number in place))
    return digest.hexdigest()
