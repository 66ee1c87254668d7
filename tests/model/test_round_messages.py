"""What coordinator and member say to each other: it reads back whole, and nothing else can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ringfence.model.errors import PeerError
from ringfence.model.round_messages import (
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    answer_from_records,
    answer_to_records,
    request_from_records,
    request_to_records,
)
from ringfence.model.round_records import size_of, to_records

REQUEST = TrainRequest("run-1", b"{}", b"s" * 64, 3, 1, np.array([0.5, -1.0, 2.0]))
UPDATE = TrainUpdate("run-1", "0" * 64, 3, 1, np.array([1, -2, 3], dtype=np.int64))

counters = st.integers(1, 1_000_000)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
floats = arrays.arrays(
    np.float64, st.integers(1, 50), elements=st.floats(allow_nan=False, allow_infinity=False)
)
integers = arrays.arrays(np.int64, st.integers(1, 50), elements=st.integers(-(2**63), 2**63 - 1))


@given(names, st.binary(max_size=1000), st.binary(max_size=64), counters, counters, floats)
def test_a_request_reads_back_as_it_was_sent(
    run: str, plan: bytes, signature: bytes, round_: int, attempt: int, parameters: np.ndarray
) -> None:
    sent = TrainRequest(run, plan, signature, round_, attempt, parameters)
    read = request_from_records(request_to_records(sent))
    assert replace(read, parameters=REQUEST.parameters) == replace(sent, parameters=REQUEST.parameters)
    assert read.parameters.tobytes() == parameters.tobytes()


@given(names, counters, counters, integers)
def test_an_update_reads_back_as_it_was_sent(run: str, round_: int, attempt: int, update: np.ndarray) -> None:
    sent = TrainUpdate(run, "f" * 64, round_, attempt, update)
    read = answer_from_records(answer_to_records(sent))
    assert isinstance(read, TrainUpdate)
    assert replace(read, update=UPDATE.update) == replace(sent, update=UPDATE.update)
    assert np.array_equal(read.update, update)


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_reads_back_as_it_was_sent_and_is_nothing_but_its_code(code: RefusalCode) -> None:
    records = answer_to_records(Refusal(code))
    assert answer_from_records(records) == Refusal(code)
    assert {name: dict(record) for name, record in records.items()} == {
        "ringfence": {"kind": "refusal", "code": code.value}
    }


@pytest.mark.parametrize("dtype", [">f8", "<f8", np.float64])
def test_the_order_of_bytes_is_fixed_on_the_wire(dtype: str) -> None:
    records = request_to_records(replace(REQUEST, parameters=REQUEST.parameters.astype(dtype)))
    assert records["ringfence"]["data"] == np.array([0.5, -1.0, 2.0], dtype="<f8").tobytes()


def _config(**changes: object) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        for name, value in changes.items():
            if value is None:
                del records["ringfence"][name]
            else:
                records["ringfence"][name] = value

    return change


def _flowers_array(records: RecordDict) -> None:
    """The same numbers once more, as Flower carries arrays."""
    data = records["ringfence"]["data"]
    records["arrays"] = ArrayRecord({"update": Array("int64", (3,), "ringfence.little-endian", data)})


@pytest.mark.parametrize(
    "values", [np.zeros((1, 3)), np.float64(0.0), np.zeros(3, np.float32), np.zeros(3, np.int8)]
)
def test_an_array_of_another_form_is_not_made_into_a_message(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one dimension"):
        to_records("train-update", {}, ("update", values))


def test_a_message_is_one_record_so_that_it_takes_few_calls_to_carry() -> None:
    for records in (request_to_records(REQUEST), answer_to_records(UPDATE)):
        assert [type(record) for record in records.values()] == [ConfigRecord]


def _extra_record(records: RecordDict) -> None:
    records["metrics"] = MetricRecord({"num-examples": 10**9})


def _no_record(records: RecordDict) -> None:
    del records["ringfence"]


def _record_of_another_kind(records: RecordDict) -> None:
    records["ringfence"] = MetricRecord({"kind": 1})


BROKEN = {
    "no kind": _config(kind=None),
    "another kind": _config(kind="evaluate-request"),
    "a number as kind": _config(kind=7),
    "no run": _config(run=None),
    "an empty run": _config(run=""),
    "a long run": _config(run="x" * 64),
    "a run that is no name": _config(run="A b"),
    "a run with a second line": _config(run="run-1\nround 2: answered"),
    "a number as run": _config(run=7),
    "no round": _config(round=None),
    "round 0": _config(round=0),
    "a negative round": _config(round=-1),
    "a huge round": _config(round=1_000_001),
    "a fractional round": _config(round=1.5),
    "a truth as round": _config(round=True),
    "a text as round": _config(round="1"),
    "attempt 0": _config(attempt=0),
    "a list as attempt": _config(attempt=[1]),
    "an extra field": _config(extra=1),
    "an extra record": _extra_record,
    "no record": _no_record,
    "a record of another kind": _record_of_another_kind,
    "no array": _config(array=None, dtype=None, length=None, data=None),
    "an array without its name": _config(array=None),
    "an array without its type": _config(dtype=None),
    "an array without its length": _config(length=None),
    "an array without its numbers": _config(data=None),
    "Flower's array beside ours": _flowers_array,
    "another array": _config(array="weights"),
    "two arrays": _config(array=["update", "parameters"]),
    "another type": _config(dtype="float32"),
    "objects": _config(dtype="object"),
    "big-endian numbers": _config(dtype=">i8"),
    "no numbers": _config(length=0, data=b""),
    "a longer length": _config(length=4),
    "a shorter length": _config(length=2),
    "a negative length": _config(length=-3),
    "a huge length": _config(length=10_000_001),
    "a fractional length": _config(length=3.0),
    "a list as length": _config(length=[3]),
    "a truth as length": _config(length=True, data=bytes(8)),
    "half a number": _config(data=b"\0" * 23),
    "a number too many": _config(data=b"\0" * 32),
    "a text as numbers": _config(data="0" * 24),
}
BROKEN_REQUEST = {
    "no plan": _config(plan=None),
    "a text as plan": _config(plan="{}"),
    "a huge plan": _config(plan=b"x" * 65_537),
    "no signature": _config(signature=None),
    "a number as signature": _config(signature=1),
    "an update's array": _config(array="update"),
    "whole numbers": _config(dtype="int64"),
    "a model that is not a number": _config(data=np.array([0.0, np.nan, 0.0]).tobytes()),
    "a model without bound": _config(data=np.array([0.0, np.inf, 0.0]).tobytes()),
}
BROKEN_ANSWER = {
    "no plan digest": _config(plan_digest=None),
    "an empty plan digest": _config(plan_digest=""),
    "a request's array": _config(array="parameters"),
    "fractions": _config(dtype="float64"),
    "a weight": _config(weight=1e9),
    "a request's kind": _config(kind="train-request"),
    "a refusal's kind": _config(kind="refusal"),
}


@pytest.mark.parametrize("how", BROKEN | BROKEN_REQUEST)
def test_a_request_of_another_form_is_refused(how: str) -> None:
    records = request_to_records(REQUEST)
    (BROKEN | BROKEN_REQUEST)[how](records)
    with pytest.raises(PeerError):
        request_from_records(records)


@pytest.mark.parametrize("how", BROKEN | BROKEN_ANSWER)
def test_an_answer_of_another_form_is_refused(how: str) -> None:
    records = answer_to_records(UPDATE)
    (BROKEN | BROKEN_ANSWER)[how](records)
    with pytest.raises(PeerError):
        answer_from_records(records)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "refusal"},
        {"kind": "refusal", "code": "because of what it says"},
        {"kind": "refusal", "code": ""},
        {"kind": "refusal", "code": 1},
        {"kind": "refusal", "code": "policy", "reason": "planted-words"},
    ],
)
def test_a_refusal_carries_a_known_code_and_no_words(fields: dict[str, object]) -> None:
    with pytest.raises(PeerError) as caught:
        answer_from_records(RecordDict({"ringfence": ConfigRecord(fields)}))  # type: ignore[arg-type]
    assert "planted-words" not in caught.value.message


def test_a_refusal_with_an_array_is_refused() -> None:
    records = answer_to_records(UPDATE)
    array = {name: records["ringfence"][name] for name in ("array", "dtype", "length", "data")}
    records["ringfence"] = ConfigRecord({"kind": "refusal", "code": "policy", **array})
    with pytest.raises(PeerError):
        answer_from_records(records)


def test_a_message_of_nothing_is_refused() -> None:
    for read in (request_from_records, answer_from_records):
        with pytest.raises(PeerError):
            read(RecordDict())


def test_the_size_of_a_message_is_that_of_its_fields_and_arrays() -> None:
    array = np.zeros(5, dtype=np.int64)
    records = to_records("train-update", {"run": "abc", "round": 1, "head": b"12345"}, ("update", array))
    # kind, run, round, head, and the array's name, dtype, length and numbers, each with its name.
    assert size_of(records) == 4 + 12 + 3 + 3 + 5 + 8 + 4 + 5 + (5 + 6) + (5 + 5) + (6 + 8) + (4 + 40)
    odd = RecordDict({"m": MetricRecord({"x": 1.0}), "c": ConfigRecord({"l": [1, 2], "s": ["ab"]})})
    assert size_of(odd) == 1 + 16 + 1 + 2
    assert size_of(RecordDict({"a": ArrayRecord()})) == 0
