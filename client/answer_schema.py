"""What an answer may look like on the wire: closed schemas, with room for nothing that was not agreed.

They are held against the content that Flower will carry, record by record, so that a defect in what makes that content is
caught as well as one in what makes the answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ringfence.model.errors import RingfenceError
from ringfence.model.evaluation_messages import EvaluateUpdate
from ringfence.model.plan import Name, Sha256
from ringfence.model.round_messages import Refusal, RefusalCode, RoundUpdate, TrainUpdate, answer_to_records
from ringfence.privacy.score_histogram import LARGEST_COUNT
from ringfence.privacy.update_grid import UPDATE_BOUND, UPDATE_STEP

if TYPE_CHECKING:
    from flwr.app import RecordDict

REPORT = "A defect of Ringfence: report the message. Nothing has left."
_LARGEST_STEPS = int(UPDATE_BOUND / UPDATE_STEP)
_SIGNATURE_BYTES = 64
_LONGEST_HEAD_BYTES = 512


class FirewallError(RingfenceError):
    """An answer is not of the one form that may leave: a defect of Ringfence. It stays here."""

    code = "firewall"


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


Counter = Annotated[int, Field(ge=1, le=1_000_000)]


class _SignedHead(_Closed):
    hash: Sha256
    ledger: Sha256
    seq: Annotated[int, Field(ge=1)]


class _Charged(_Closed):
    """What every answer has that a ledger charged: whose it is, and its numbers, int64 on the public grid."""

    run: Name
    plan_digest: Sha256
    ledger_head: Annotated[bytes, Field(max_length=_LONGEST_HEAD_BYTES)] = b""
    dtype: Literal["int64"]
    length: Annotated[int, Field(ge=1, le=10_000_000)]
    data: bytes

    @model_validator(mode="after")
    def _on_the_grid(self) -> Self:
        if len(self.data) != 8 * self.length:
            raise ValueError("the array's bytes are not those of its length")
        values = np.frombuffer(self.data, dtype="<i8")
        if (values > _LARGEST_STEPS).any() or (values < -_LARGEST_STEPS).any():
            raise ValueError("a number is outside the public grid")
        return self

    @model_validator(mode="after")
    def _head_is_one(self) -> Self:
        if self.ledger_head:
            self.head_hash()
        return self

    def head_hash(self) -> str:
        """Return the hash that the signed head names; the head has one canonical form and room for nothing else."""
        content = self.ledger_head[_SIGNATURE_BYTES:]
        head = _SignedHead.model_validate_json(content)
        canonical = json.dumps(head.model_dump(), sort_keys=True, separators=(",", ":")).encode()
        if canonical != content:
            raise ValueError("the ledger head is not in its canonical form")
        return head.hash


class UpdateForm(_Charged):
    """Fields of an answer to a round."""

    kind: Literal["train-update"]
    array: Literal["update"]
    round: Counter
    attempt: Counter


class HistogramForm(_Charged):
    """Fields of an answer to an evaluation."""

    kind: Literal["evaluate-update"]
    array: Literal["histogram"]

    @model_validator(mode="after")
    def _are_counts(self) -> Self:
        if (np.abs(np.frombuffer(self.data, dtype="<i8")) > LARGEST_COUNT).any():
            raise ValueError("a count is out of range")
        return self


class UpdateMessage(_Closed):
    """An answer to a round."""

    ringfence: UpdateForm

    def numbers(self) -> bytes:
        """Return the bytes of the update, of which the audit log keeps the digest."""
        return self.ringfence.data


class HistogramMessage(_Closed):
    """An answer to an evaluation."""

    ringfence: HistogramForm

    def numbers(self) -> bytes:
        """Return the bytes of the counts."""
        return self.ringfence.data


class _RefusalForm(_Closed):
    kind: Literal["refusal"]
    code: Literal[tuple(code.value for code in RefusalCode)]  # type: ignore[valid-type]


class RefusalMessage(_Closed):
    """One code of the closed set."""

    ringfence: _RefusalForm

    def numbers(self) -> bytes:
        """Return the code, in the place of numbers."""
        return str(self.ringfence.code).encode()


WireMessage: TypeAlias = UpdateMessage | HistogramMessage | RefusalMessage
"""An answer whose every field was held against its schema."""


def checked_wire_form(answer: RoundUpdate | Refusal) -> tuple[RecordDict, WireMessage]:
    """Return the Flower content of an answer, and what is in it, checked.

    Raises:
        FirewallError: it is not of the agreed form; the message says which field, never its value.
    """
    content, wire = _wire_form(answer)
    try:
        return content, _schema_of(answer).model_validate(wire)
    except ValidationError as error:
        raise FirewallError(f"An answer stays here: {wrong_fields(error)}.", hint=REPORT) from error


def wrong_fields(error: ValidationError) -> str:
    """Return where a form is wrong, by the names of the schema; names and values of the answer stay out."""
    known = {"ringfence", *UpdateForm.model_fields, "code"}
    places = set()
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        named = [str(step) for step in item["loc"] if step in known]
        places.add(".".join(named) + f" ({item['type']})")
    return ", ".join(sorted(places))


def _schema_of(answer: RoundUpdate | Refusal) -> type[WireMessage]:
    if isinstance(answer, Refusal):
        return RefusalMessage
    return HistogramMessage if isinstance(answer, EvaluateUpdate) else UpdateMessage


def _wire_form(answer: object) -> tuple[RecordDict, dict[str, object]]:
    """Return the Flower content of an answer, and all that is in it as plain values."""
    from flwr.app import ConfigRecord

    if not isinstance(answer, TrainUpdate | EvaluateUpdate | Refusal):
        raise FirewallError("An answer stays here: it is neither an update nor a refusal.", hint=REPORT)
    numbers = getattr(answer, "update", getattr(answer, "histogram", None))
    if not isinstance(answer, Refusal) and getattr(numbers, "dtype", None) != np.int64:
        # Here, because the wire form would turn floats into integers without a word.
        raise FirewallError("An answer stays here: its numbers are not int64.", hint=REPORT)
    try:
        content = answer_to_records(answer)
    except Exception as error:
        # Whatever the values are, their text stays out of the message.
        raise FirewallError("An answer stays here: it has no wire form.", hint=REPORT) from error
    plain: dict[str, object] = {}
    for name, record in content.items():
        if not isinstance(record, ConfigRecord):
            raise FirewallError("An answer stays here: it holds a record of another kind.", hint=REPORT)
        plain[name] = dict(record)
    return content, plain
