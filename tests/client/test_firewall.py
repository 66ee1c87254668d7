"""Only what has the agreed form leaves, once, after it stands in the audit log; and only the firewall can say so."""

import copy
import hashlib
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cleared_answers import HEAD_HASH, PURPOSE, charged, question_to, signed_head
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ringfence.client import answer_schema
from ringfence.client.answer_schema import FirewallError
from ringfence.client.answer_timing import padded_until
from ringfence.client.audit_log import AuditLog, audit_entries
from ringfence.client.firewall import Cleared, Firewall, Question
from ringfence.client.flower_adapter import FleetConnection
from ringfence.client.stored_answer import Charged
from ringfence.model.errors import ConfigError, RingfenceError
from ringfence.model.round_messages import (
    Refusal,
    RefusalCode,
    TrainUpdate,
    answer_from_records,
    answer_to_records,
)

SECRET = "the blue heron waits"  # stands for what a person wrote
UPDATE = TrainUpdate(
    run="spring-1",
    plan_digest="b" * 64,
    round=3,
    attempt=1,
    update=np.array([5, -(2**42), 2**42, 0], dtype=np.int64),
    ledger_head=signed_head(),
)
QUESTION = question_to(UPDATE)
CHARGED = charged(UPDATE)


@dataclass(frozen=True)
class Gate:
    firewall: Firewall
    log: AuditLog

    def clear(
        self,
        answer: Any = UPDATE,
        question: Question | None = QUESTION,
        charge: Charged | None = CHARGED,
    ) -> Cleared:
        return self.firewall.clear(answer, question=question, charged=charge)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    log = AuditLog(tmp_path / "audit.jsonl")
    return Gate(Firewall(log, destination="coordinator.example:8443"), log)


def test_an_update_leaves_as_it_is_and_stands_in_the_audit_log(gate: Gate) -> None:
    cleared = gate.clear()
    sent = answer_from_records(cleared.take())
    assert isinstance(sent, TrainUpdate)
    assert sent.update.tolist() == UPDATE.update.tolist()
    (entry,) = audit_entries(gate.log.path)
    assert entry.digest == cleared.digest == hashlib.sha256(UPDATE.update.astype("<i8").tobytes()).hexdigest()
    assert (entry.kind, entry.purpose, entry.size_bytes) == ("train-update", PURPOSE, 32)
    assert (entry.run, entry.round, entry.attempt, entry.plan_digest) == ("spring-1", 3, 1, "b" * 64)
    assert (entry.destination, entry.ledger_head) == ("coordinator.example:8443", HEAD_HASH)
    assert entry.payload == CHARGED.payload


@pytest.mark.parametrize("code", RefusalCode)
@pytest.mark.parametrize("question", [None, QUESTION], ids=["unread", "read"])
def test_every_refusal_of_the_closed_set_leaves(
    gate: Gate, code: RefusalCode, question: Question | None
) -> None:
    assert answer_from_records(gate.clear(Refusal(code), question, None).take()) == Refusal(code)
    (entry,) = audit_entries(gate.log.path)
    assert (entry.kind, entry.run) == ("refusal", "spring-1" if question else "")


def shaped(values: Any) -> TrainUpdate:
    return replace(UPDATE, update=values)


REFUSED_ANSWERS = [
    pytest.param(shaped(UPDATE.update.astype(np.float64)), id="floats"),
    pytest.param(shaped(UPDATE.update.astype(np.int32)), id="another integer type"),
    pytest.param(shaped(UPDATE.update.astype(np.uint64)), id="unsigned"),
    pytest.param(shaped(UPDATE.update.reshape(2, 2)), id="two dimensions"),
    pytest.param(shaped(UPDATE.update[:3]), id="one number too few"),
    pytest.param(shaped(np.append(UPDATE.update, 41)), id="one number too many: a count"),
    pytest.param(shaped(np.array([], dtype=np.int64)), id="no numbers"),
    pytest.param(shaped(np.array([0, 0, 0, 2**42 + 1])), id="above the grid's bound"),
    pytest.param(shaped(np.array([0, 0, 0, -(2**42) - 1])), id="below the grid's bound"),
    pytest.param(shaped(np.array([0, 0, 0, -(2**63)])), id="the one integer without an absolute value"),
    pytest.param(shaped([1, 2, 3, 4]), id="a list"),
    pytest.param(shaped(SECRET), id="text in place of numbers"),
    pytest.param(replace(UPDATE, run=SECRET), id="text in place of the run"),
    pytest.param(replace(UPDATE, run="spring-2"), id="another run"),
    pytest.param(replace(UPDATE, plan_digest="a" * 64), id="another plan"),
    pytest.param(replace(UPDATE, round=4), id="another round"),
    pytest.param(replace(UPDATE, round=3.0), id="a round that is a float"),
    pytest.param(replace(UPDATE, round=0.731), id="a loss in place of the round"),
    pytest.param(replace(UPDATE, attempt=812), id="a count in place of the attempt"),
    pytest.param(replace(UPDATE, attempt=True), id="a truth value"),
    pytest.param(replace(UPDATE, ledger_head=b""), id="no ledger head"),
    pytest.param(replace(UPDATE, ledger_head=SECRET.encode()), id="text in place of the head"),
    pytest.param(replace(UPDATE, ledger_head=bytes(64) + SECRET.encode()), id="text behind the signature"),
    pytest.param(replace(UPDATE, ledger_head=signed_head(loss=0.7)), id="a loss in the head"),
    pytest.param(replace(UPDATE, ledger_head=signed_head() + b" "), id="a byte behind the head"),
    pytest.param(replace(UPDATE, ledger_head=signed_head(hash_="a" * 64)), id="another head"),
    pytest.param(Refusal(SECRET), id="text in place of a code"),  # type: ignore[arg-type]
    pytest.param({"kind": "train-update", "examples": 412}, id="a dictionary"),
    pytest.param(answer_to_records(UPDATE), id="a ready message"),
    pytest.param(ValueError(SECRET), id="an exception"),
    pytest.param(None, id="nothing"),
]


@pytest.mark.parametrize("answer", REFUSED_ANSWERS)
def test_an_answer_of_another_form_stays_and_leaves_no_trace(gate: Gate, answer: Any) -> None:
    with pytest.raises(FirewallError) as refused:
        gate.clear(answer)
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"
    assert "heron" not in refused.value.message
    assert list(audit_entries(gate.log.path)) == []


def with_field(**fields: Any) -> Callable[[RecordDict], None]:
    def add(content: RecordDict) -> None:
        content["ringfence"] = ConfigRecord({**content["ringfence"], **fields})

    return add


def with_record(name: str, record: Any) -> Callable[[RecordDict], None]:
    return lambda content: content.__setitem__(name, record)


def with_data(data: Any, **fields: Any) -> Callable[[RecordDict], None]:
    return with_field(data=data, **fields)


FLOATS = np.array([0.731, 0.52, 0.1, 0.2])
FORM = {"array": "update", "dtype": "int64", "length": 4}
DEFECTS = [
    pytest.param(with_field(loss=0.731), id="a loss beside the fields"),
    pytest.param(with_field(examples=412), id="a count"),
    pytest.param(with_field(seconds=3.2), id="a duration"),
    pytest.param(with_field(error=SECRET), id="an exception's text"),
    pytest.param(with_record("metrics", MetricRecord({"accuracy": 0.91})), id="Flower's metrics"),
    pytest.param(with_record("more", ConfigRecord({"note": SECRET})), id="another record"),
    pytest.param(with_record("more", ArrayRecord({"a": Array(FLOATS)})), id="Flower's arrays"),
    pytest.param(with_data(FLOATS.tobytes(), **FORM), id="floats under the right name"),
    pytest.param(with_data(bytes(32), **{**FORM, "dtype": "float64"}), id="a type of floats"),
    pytest.param(with_data(bytes(32), **{**FORM, "array": "gradient"}), id="another array"),
    pytest.param(with_data(bytes(32) + SECRET.encode(), **FORM), id="text behind the numbers"),
    pytest.param(with_data(bytes(40), **FORM), id="a number behind the length"),
    pytest.param(with_data(bytes(32), **{**FORM, "length": 812}), id="a count in place of the length"),
    pytest.param(with_data(bytes(32), **{**FORM, "length": 4.0}), id="a length that is a float"),
    pytest.param(with_data([0, 0, 0, 0], **FORM), id="a list of numbers"),
]


@pytest.mark.parametrize("answer", [UPDATE, Refusal(RefusalCode.FAILED)], ids=["update", "refusal"])
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_that_puts_more_into_a_message_is_caught_at_the_wire(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, defect: Callable[[RecordDict], None], answer: Any
) -> None:
    def defective(given: TrainUpdate | Refusal) -> RecordDict:
        content = answer_to_records(given)
        defect(content)
        return content

    monkeypatch.setattr(answer_schema, "answer_to_records", defective)
    with pytest.raises(FirewallError) as refused:
        gate.clear(answer)
    for private in (SECRET, "0.731", "412", "0.91", "loss", "examples"):
        assert private not in refused.value.message
    assert list(audit_entries(gate.log.path)) == []


@pytest.mark.parametrize(
    ("question", "charge"),
    [
        pytest.param(None, CHARGED, id="no question could be read"),
        pytest.param(replace(QUESTION, numbers=109), CHARGED, id="the plan has another shape"),
        pytest.param(replace(QUESTION, run=SECRET), CHARGED, id="a run that is no name"),
        pytest.param(QUESTION, None, id="no ledger has charged it"),
        pytest.param(QUESTION, replace(CHARGED, head="a" * 64), id="the ledger is at another head"),
        pytest.param(replace(QUESTION, digest="a" * 64), CHARGED, id="charged for another question"),
    ],
)
def test_an_update_without_its_question_or_its_charge_stays(
    gate: Gate, question: Question | None, charge: Charged | None
) -> None:
    with pytest.raises(FirewallError):
        gate.clear(UPDATE, question, charge)
    assert list(audit_entries(gate.log.path)) == []


@pytest.mark.parametrize("bit", [0, 7, 31])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_single_bit_that_changed_after_the_charge_stays(gate: Gate, place: int, bit: int) -> None:
    changed = UPDATE.update.copy()
    changed[place] ^= 1 << bit
    with pytest.raises(FirewallError, match="not what the ledger has charged"):
        gate.clear(replace(UPDATE, update=changed))
    assert list(audit_entries(gate.log.path)) == []


def test_what_another_attempt_was_charged_for_stays(gate: Gate) -> None:
    """The same numbers for the next attempt would be the same noise for a second charge."""
    again = replace(UPDATE, attempt=2)
    with pytest.raises(FirewallError, match="not what the ledger has charged"):
        gate.clear(again, replace(QUESTION, attempt=2))
    gate.clear(again, replace(QUESTION, attempt=2), charged(again))


def test_what_is_changed_after_clearing_does_not_leave(gate: Gate) -> None:
    values = UPDATE.update.copy()
    cleared = gate.clear(replace(UPDATE, update=values))
    values[:] = 41
    sent = answer_from_records(cleared.take())
    assert isinstance(sent, TrainUpdate)
    assert sent.update.tolist() == UPDATE.update.tolist()


def test_each_sending_needs_its_own_clearing(gate: Gate) -> None:
    cleared = gate.clear()
    cleared.take()
    with pytest.raises(TypeError):
        cleared.take()
    gate.clear().take()
    assert len(list(audit_entries(gate.log.path))) == 2


@pytest.mark.parametrize(
    "forge",
    [
        lambda cleared: Cleared(RecordDict(), kind="refusal", digest="a" * 64),
        lambda cleared: Cleared(RecordDict(), kind="refusal", digest="a" * 64, issued=object()),
        lambda cleared: object.__new__(Cleared).take(),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
    ],
)
def test_nobody_else_makes_a_cleared_answer(gate: Gate, forge: Callable[[Cleared], object]) -> None:
    with pytest.raises(TypeError):
        forge(gate.clear())


class Pretender:
    """Quacks like a cleared answer."""

    kind = "train-update"

    def take(self) -> RecordDict:
        return answer_to_records(UPDATE)


@pytest.mark.parametrize("uncleared", [UPDATE, Refusal(RefusalCode.FAILED), RecordDict(), Pretender()])
def test_the_connection_takes_nothing_that_was_not_cleared(uncleared: Any) -> None:
    class Untouched:
        def __getattr__(self, name: str) -> None:
            raise AssertionError(f"the connection used {name}")

    connection = object.__new__(FleetConnection)
    connection._client = Untouched()
    with pytest.raises(TypeError, match="cleared"):
        connection.answer(Untouched(), uncleared)  # type: ignore[arg-type]


def test_nothing_is_cleared_when_it_cannot_be_recorded(gate: Gate) -> None:
    gate.log.path.write_bytes(b"")
    gate.clear()
    gate.log.path.write_bytes(b"")
    with pytest.raises(RingfenceError, match="audit log"):
        gate.clear()


@pytest.mark.parametrize(
    ("took_s", "slot_s", "leaves_after_s"),
    [
        (0.0, 0.0, 0.0),
        (7.5, 0.0, 7.5),
        (0.0, 60.0, 60.0),
        (0.01, 60.0, 60.0),
        (59.9, 60.0, 60.0),
        (60.0, 60.0, 60.0),
        (60.1, 60.0, 120.0),
        (3601.0, 60.0, 3660.0),
    ],
)
def test_a_padded_answer_leaves_at_the_end_of_its_slot(
    took_s: float, slot_s: float, leaves_after_s: float
) -> None:
    assert padded_until(1000.0 + took_s, asked_at=1000.0, slot_s=slot_s) == pytest.approx(
        1000.0 + leaves_after_s
    )


@pytest.mark.parametrize("slot_s", [-1.0, math.nan, math.inf])
def test_a_slot_of_no_length_is_refused(slot_s: float) -> None:
    with pytest.raises(ConfigError):
        padded_until(1.0, asked_at=0.0, slot_s=slot_s)
