"""Answers become the next model by public arithmetic, after each was held against its question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_table import table_plan

from ringfence.model.errors import PeerError
from ringfence.model.round_messages import TrainUpdate
from ringfence.privacy.update_grid import UPDATE_BOUND, UPDATE_STEP, quantise_update
from ringfence.server.aggregation import RoundQuestion, average_updates, check_update, published_model

PLAN = table_plan()
QUESTION = RoundQuestion(run="run", plan=PLAN, round=2, attempt=1, parameter_count=3)
RIGHT = TrainUpdate("run", PLAN.digest(), 2, 1, np.array([1, -2, 3], dtype=np.int64) << 32)

sizes = st.sampled_from([1, 2, 256, 1 << 20])
finite = st.floats(-1000, 1000, allow_nan=False)
members = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.lists(finite, min_size=3, max_size=3), sizes), min_size=1
)


def test_the_right_answer_is_read_off_the_grid() -> None:
    assert check_update(RIGHT, question=QUESTION) == pytest.approx([1, -2, 3])


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"},
        {"plan_digest": "0" * 64},
        {"round": 1},
        {"round": 3},
        {"attempt": 2},
        {"update": np.array([1, 2], dtype=np.int64)},
        {"update": np.array([[1, 2, 3]], dtype=np.int64)},
        {"update": np.array([1.0, 2.0, 3.0])},
        {"update": np.array([np.nan, np.inf, 0.0])},
        {"update": np.array([1, 2, 3], dtype=np.int32)},
        {"update": np.array([0, 0, int(UPDATE_BOUND / UPDATE_STEP) + 1], dtype=np.int64)},
        {"update": np.array([0, 0, np.iinfo(np.int64).min], dtype=np.int64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_answer_to_another_question_or_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        check_update(replace(RIGHT, **change), question=QUESTION)  # type: ignore[arg-type]


@given(st.lists(finite, min_size=1, max_size=20))
def test_what_a_member_encodes_is_read_back_to_within_half_a_step(values: list[float]) -> None:
    question = replace(QUESTION, parameter_count=len(values))
    answer = replace(RIGHT, update=quantise_update(np.array(values)))
    assert np.abs(check_update(answer, question=question) - np.array(values)).max() <= UPDATE_STEP / 2


@given(members)
def test_the_average_lies_between_the_smallest_and_the_largest_change(
    given_members: dict[str, tuple[list[float], int]],
) -> None:
    updates = {name: np.array(values) for name, (values, _) in given_members.items()}
    classes = {name: size for name, (_, size) in given_members.items()}
    model = average_updates(np.zeros(3), updates=updates, size_classes=classes)
    stacked = np.stack(list(updates.values()))
    assert (model <= stacked.max(axis=0) + 1e-9).all()
    assert (model >= stacked.min(axis=0) - 1e-9).all()


@given(members, st.randoms())
def test_the_same_answers_give_the_same_bytes_in_any_order(
    given_members: dict[str, tuple[list[float], int]], random
) -> None:
    updates = {name: np.array(values) for name, (values, _) in given_members.items()}
    classes = {name: size for name, (_, size) in given_members.items()}
    names = list(updates)
    random.shuffle(names)
    shuffled = {name: updates[name] for name in names}
    one = average_updates(np.ones(3), updates=updates, size_classes=classes)
    two = average_updates(np.ones(3), updates=shuffled, size_classes=classes)
    assert one.tobytes() == two.tobytes()


def test_weights_are_the_classes_of_those_who_answered_only() -> None:
    model = average_updates(
        np.array([10.0]),
        updates={"a": np.array([1.0]), "b": np.array([4.0])},
        size_classes={"a": 1, "b": 2, "absent": 1 << 20},
    )
    assert model == pytest.approx([13.0])


def test_nobody_can_weigh_more_than_its_public_class() -> None:
    """A weight comes from the record of members; no field of an answer can name one."""
    assert {"weight", "num_examples", "size_class"} & set(TrainUpdate.__slots__) == set()


@pytest.mark.parametrize("classes", [{}, {"a": 0}, {"a": -4}])
def test_an_average_of_nothing_is_a_mistake_of_the_caller(classes: dict[str, int]) -> None:
    updates = {name: np.zeros(1) for name in classes}
    with pytest.raises(ValueError, match="size classes"):
        average_updates(np.zeros(1), updates=updates, size_classes=classes)


@pytest.mark.parametrize(
    ("averaging", "rounds", "expected"),
    [
        *(("last", 3, 3.0), ("last", 0, 0.0)),
        # The start, which is 0 here, is no round: of four rounds the last two, of three the last two as well.
        *(("last-half", 4, 3.5), ("last-half", 3, 2.5), ("last-half", 2, 2.0), ("last-half", 1, 1.0)),
        ("last-half", 0, 0.0),
    ],
)
def test_the_published_model_is_the_last_or_the_mean_of_the_last_half_of_the_rounds(
    averaging: str, rounds: int, expected: float
) -> None:
    history = [np.array([float(number)]) for number in range(rounds + 1)]
    assert published_model(history, averaging=averaging) == pytest.approx([expected])
