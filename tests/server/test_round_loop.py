"""The round loop carries a run through everything that members and machines do to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from databases import checkpoint_file, replace_checkpoint
from round_table import (
    ANSWER_BYTES,
    DIMENSION,
    QUESTION_BYTES,
    Behaviour,
    FakeChannel,
    Gone,
    Late,
    Lost,
    Silent,
    Table,
    honest,
    lay_table,
    steps,
    table_plan,
    update,
)
from safetensors.numpy import save

from ringfence.model.errors import ConfigError, DeadlineError
from ringfence.model.round_messages import Refusal, RefusalCode
from ringfence.server.round_loop import NoHeads, RosterMember, RoundLoop, RunStoppedError

GRID_BOUND = 1024 * 2**32


def says(value: float) -> Behaviour:
    return lambda request, before: update(request, *steps(*(value,) * DIMENSION))


def refuses(code: RefusalCode = RefusalCode.POLICY) -> Behaviour:
    return lambda request, before: Refusal(code)


def silent(request, before):
    return Silent()


def test_every_round_is_the_average_weighted_by_public_size_classes(tmp_path: Path) -> None:
    table = lay_table(tmp_path, says(1.0), says(4.0))
    model = table.loop().carry_out()
    # size classes 1 and 2: (1 * 1 + 2 * 4) / 3 = 3 a round
    assert model == pytest.approx([9.0] * DIMENSION)
    assert [float(one[0]) for one in table.run.history()] == pytest.approx([0, 3, 6, 9])
    assert table.events("round") == [(1, 2, 0, 0), (2, 2, 0, 0), (3, 2, 0, 0)]


def test_a_question_carries_the_last_model_and_the_signed_plan(tmp_path: Path) -> None:
    table = lay_table(tmp_path, says(1.0), says(1.0))
    table.loop().carry_out()
    for _, _, request in table.channel.asked:
        assert request.plan == table.run.signed_plan().plan.canonical_json()
        assert request.signature == b"s" * 64
        assert request.attempt == 1
        assert request.parameters == pytest.approx([request.round - 1.0] * DIMENSION)


def test_a_member_that_never_answers_is_left_out_at_the_deadline(tmp_path: Path) -> None:
    table = lay_table(tmp_path, says(1.0), says(1.0), silent, plan=table_plan(rounds=1, deadline_s=60))
    began = table.clock.now
    model = table.loop().carry_out()
    assert model == pytest.approx([1.0] * DIMENSION)
    assert table.events("round") == [(1, 2, 1, 0)]
    assert 60 <= table.clock.now - began < 61


def test_a_member_that_was_late_once_is_not_waited_for_again(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, silent, plan=table_plan(rounds=3, deadline_s=60))
    began = table.clock.now
    table.loop().carry_out()
    assert 60 <= table.clock.now - began < 62
    assert table.events("round") == [(1, 2, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)]


def test_a_late_member_counts_again_when_it_answers_again(tmp_path: Path) -> None:
    def slow_first(request, before):
        return Silent() if request.round == 1 else update(request)

    table = lay_table(tmp_path, honest, honest, slow_first, plan=table_plan(rounds=3, deadline_s=60))
    table.loop().carry_out()
    assert table.events("round") == [(1, 2, 1, 0), (2, 3, 0, 0), (3, 3, 0, 0)]


def test_an_answer_to_an_earlier_round_does_not_count_in_a_later_one(tmp_path: Path) -> None:
    """The third member's change of 100 belongs to round 1 and arrives in round 2."""

    def late(request, before):
        if request.round == 1:
            return Late(61.0, update(request, *steps(*(100.0,) * DIMENSION)))
        return Silent()

    def unhurried(request, before):
        return update(request) if request.round == 1 else Late(5.0, update(request))

    table = lay_table(tmp_path, unhurried, unhurried, late, plan=table_plan(rounds=2, deadline_s=60))
    model = table.loop().carry_out()
    assert model == pytest.approx([2.0] * DIMENSION)


@pytest.mark.parametrize("said", [Refusal(RefusalCode.BUDGET), None], ids=["a refusal", "nothing readable"])
def test_what_comes_back_for_an_earlier_rounds_question_says_nothing_about_this_round(
    tmp_path: Path, said: Refusal | None
) -> None:
    """A slow first round: the question is repeated, and the answer to the repetition arrives in the next round."""

    def repeated(request, before):
        if request.round == 1 and before:
            return Late(8.0, said)
        return Late(21.0 if request.round == 1 else 9.0, update(request))

    table = lay_table(tmp_path, *[repeated] * 3, plan=table_plan(rounds=2, deadline_s=60))
    table.loop().carry_out()
    assert table.channel.times_asked(1, round_=1) == 2
    assert table.events("round") == [(1, 3, 0, 0), (2, 3, 0, 0)]


class Kept(NoHeads):
    """Notes the heads that it is given."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, bytes]] = []

    def keep(self, member: str, signed_head: bytes) -> None:
        self.heads.append((member, signed_head))


def test_the_head_of_a_late_answer_is_kept_because_the_member_was_charged_for_it(tmp_path: Path) -> None:
    def late(request, before):
        if request.round == 1:
            return Silent() if before else Late(61.0, update(request, ledger_head=b"late"))
        return Silent()

    def unhurried(request, before):
        return update(request) if request.round == 1 else Late(5.0, update(request))

    table = lay_table(tmp_path, unhurried, unhurried, late, plan=table_plan(rounds=2, deadline_s=60))
    heads = Kept()
    RoundLoop(
        table.run, channel=table.channel, roster=lambda: dict(table.roster), heads=heads, clock=table.clock
    ).carry_out()
    assert ("member-3", b"late") in heads.heads


BAD_ANSWERS: dict[str, Callable[..., object]] = {
    "another run": lambda request: update(request, run="other"),
    "another plan": lambda request: update(request, plan_digest="f" * 64),
    "another round": lambda request: update(request, round=request.round + 1),
    "another attempt": lambda request: update(request, attempt=2),
    "another shape": lambda request: update(request, *steps(1.0, 1.0)),
    "two dimensions": lambda request: update(request, update=np.ones((2, 2), dtype=np.int64)),
    "another type": lambda request: update(request, update=np.full(DIMENSION, np.nan)),
    "above the grid": lambda request: update(request, *(GRID_BOUND + 1,) * DIMENSION),
    "below the grid": lambda request: update(request, *(-GRID_BOUND - 1,) * DIMENSION),
    "the smallest number": lambda request: update(request, *(-(2**63),) * DIMENSION),
    "nothing readable": lambda request: None,
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_bad_answer_is_left_out_and_counted_and_ends_nothing(tmp_path: Path, kind: str) -> None:
    table = lay_table(tmp_path, says(1.0), says(1.0), lambda request, before: BAD_ANSWERS[kind](request))
    began = table.clock.now
    assert table.loop().carry_out() == pytest.approx([3.0] * DIMENSION)
    assert table.events("round") == [(1, 2, 0, 1), (2, 2, 0, 1), (3, 2, 0, 1)]
    assert all("1 refused: invalid" in event.detail for event in table.run.events() if event.event == "round")
    assert table.clock.now - began < 3  # nobody waits for somebody who has answered


def test_the_largest_change_on_the_grid_is_taken(tmp_path: Path) -> None:
    table = lay_table(
        tmp_path,
        lambda request, before: update(request, *(GRID_BOUND,) * DIMENSION),
        lambda request, before: update(request, *(GRID_BOUND,) * DIMENSION),
        plan=table_plan(rounds=1),
    )
    assert table.loop().carry_out() == pytest.approx([1024.0] * DIMENSION)


def test_a_member_that_refuses_is_left_out_with_its_code(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, refuses(RefusalCode.BUDGET), plan=table_plan(rounds=1))
    table.loop().carry_out()
    (event,) = [event for event in table.run.events() if event.event == "round"]
    assert (event.answered, event.missing, event.refused) == (2, 0, 1)
    assert event.detail == "1 refused: budget"


def test_when_all_refuse_the_run_fails_at_once_and_says_why(tmp_path: Path) -> None:
    table = lay_table(tmp_path, refuses(), refuses(), refuses(RefusalCode.NO_DATA))
    began = table.clock.now
    with pytest.raises(DeadlineError) as caught:
        table.loop().carry_out()
    assert "2 refused: policy" in caught.value.message
    assert "1 refused: no-data" in caught.value.message
    assert "run resume run" in caught.value.hint
    assert table.clock.now - began < 1
    assert table.run.rounds_done() == 0


def test_a_run_fails_at_once_when_refusals_put_the_minimum_out_of_reach(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, refuses(), silent, plan=table_plan(minimum=3, deadline_s=600))
    began = table.clock.now
    with pytest.raises(DeadlineError):
        table.loop().carry_out()
    assert table.clock.now - began < 1


def test_a_round_says_how_many_were_asked_and_how_many_bytes_went_each_way(tmp_path: Path) -> None:
    def busy_once(request, before):
        return Refusal(RefusalCode.BUSY) if before == 0 else update(request)

    table = lay_table(tmp_path, honest, honest, busy_once, silent, honest, plan=table_plan(rounds=1))
    table.channel.offline = {5}
    table.loop().carry_out()
    (event,) = [event for event in table.run.events() if event.event == "round"]
    assert (event.asked, event.answered, event.missing) == (4, 3, 2)
    asked = len(table.channel.asked)
    assert event.bytes_sent == asked * QUESTION_BYTES
    assert event.bytes_received == 4 * ANSWER_BYTES


def test_a_busy_member_is_asked_again_later(tmp_path: Path) -> None:
    def busy_once(request, before):
        return Refusal(RefusalCode.BUSY) if before == 0 else update(request)

    table = lay_table(tmp_path, honest, honest, busy_once, plan=table_plan(rounds=1))
    table.loop().carry_out()
    assert table.events("round") == [(1, 3, 0, 0)]
    assert table.channel.times_asked(3, round_=1) == 2


def test_a_lost_question_is_asked_again_in_the_same_words(tmp_path: Path) -> None:
    def loses_first(request, before):
        return Lost() if before == 0 else update(request)

    table = lay_table(tmp_path, honest, honest, loses_first, plan=table_plan(rounds=1, deadline_s=60))
    began = table.clock.now
    table.loop().carry_out()
    assert table.events("round") == [(1, 3, 0, 0)]
    first, second = (request for _, node, request in table.channel.asked if node == 3)
    assert (first.plan, first.signature, first.round, first.attempt) == (
        second.plan,
        second.signature,
        second.round,
        second.attempt,
    )
    assert np.array_equal(first.parameters, second.parameters)
    assert table.clock.now - began <= 21  # a third of the deadline


def test_a_second_answer_to_a_repeated_question_counts_once(tmp_path: Path) -> None:
    def slow(request, before):
        return Late(25.0, update(request)) if before == 0 else Late(5.5, update(request))

    table = lay_table(tmp_path, honest, honest, slow, plan=table_plan(rounds=1, deadline_s=60))
    assert table.loop().carry_out() == pytest.approx([1.0] * DIMENSION)
    assert table.events("round") == [(1, 3, 0, 0)]


def test_a_member_that_left_and_came_back_is_asked_again_and_counts(tmp_path: Path) -> None:
    def leaves_once(request, before):
        return Gone() if before == 0 else update(request)

    table = lay_table(tmp_path, honest, honest, leaves_once, plan=table_plan(rounds=1, minimum=3))
    table.channel.offline = {3}
    table.clock.at(10.0, lambda: table.channel.offline.clear())
    table.loop().carry_out()
    assert table.events("round") == [(1, 3, 0, 0)]


def test_a_member_that_only_ever_reports_itself_gone_is_not_asked_without_end(tmp_path: Path) -> None:
    """It is connected and answers each question with Flower's error: 60 s of that must not be hundreds of questions."""
    table = lay_table(
        tmp_path, honest, honest, lambda request, before: Gone(), plan=table_plan(rounds=1, minimum=3)
    )
    with pytest.raises(DeadlineError):
        table.loop().carry_out()
    assert table.channel.times_asked(3, round_=1) <= 150


def test_a_disconnected_member_is_waited_for_a_little_only(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, honest, plan=table_plan(rounds=2, deadline_s=600))
    table.channel.offline = {3}
    began = table.clock.now
    table.loop().carry_out()
    assert table.events("round") == [(1, 2, 1, 0), (2, 2, 1, 0)]
    assert table.clock.now - began < 16  # the patience, once


def test_a_member_that_is_admitted_during_a_run_takes_part_from_then_on(tmp_path: Path) -> None:
    def unhurried(request, before):
        return Late(2.0, update(request))

    table = lay_table(tmp_path, unhurried, unhurried, plan=table_plan(rounds=2))

    def admit() -> None:
        table.channel.behaviours[9] = honest
        table.roster[9] = RosterMember(id="member-9", size_class=4)

    table.clock.at(2.5, admit)
    table.loop().carry_out()
    assert table.events("round") == [(1, 2, 0, 0), (2, 3, 0, 0)]


def test_a_suspended_members_answer_is_not_used(tmp_path: Path) -> None:
    """It was asked, then suspended, and answers afterwards: it counts for nothing."""
    table = lay_table(
        tmp_path,
        says(1.0),
        says(1.0),
        lambda request, before: Late(5.0, update(request, *steps(*(100.0,) * DIMENSION))),
        plan=table_plan(rounds=1),
    )
    table.clock.at(1.0, lambda: table.roster.pop(3) and None)
    assert table.loop().carry_out() == pytest.approx([1.0] * DIMENSION)


def test_too_few_answers_fail_the_run_after_all_tries_and_it_resumes_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    plan = table_plan(rounds=3, minimum=2, deadline_s=60, attempts=2)
    table = lay_table(
        tmp_path,
        says(1.0),
        lambda request, before: update(request) if request.round == 1 else Silent(),
        plan=plan,
    )
    with pytest.raises(DeadlineError, match="Round 2: 1 of at least 2 members answered"):
        table.loop().carry_out()
    assert [event.round for event in table.run.events() if event.event == "short"] == [2, 2]
    assert table.run.rounds_done() == 1

    table.channel.behaviours[2] = says(1.0)
    asked_before = len(table.channel.asked)
    assert table.loop().carry_out() == pytest.approx([3.0] * DIMENSION)
    assert {request.round for _, _, request in table.channel.asked[asked_before:]} == {2, 3}
    assert [event.round for event in table.run.events() if event.event == "resumed"] == [1]


def test_a_stopped_run_ends_within_a_moment(tmp_path: Path) -> None:
    table = lay_table(tmp_path, silent, silent, plan=table_plan(deadline_s=600))
    table.clock.at(2.0, lambda: table.run.update(status="stopped") and None)
    began = table.clock.now
    with pytest.raises(RunStoppedError):
        table.loop().carry_out()
    assert table.clock.now - began < 3


def test_the_same_answers_give_the_same_bytes_in_any_order_of_arrival(tmp_path: Path) -> None:
    values = {1: 0.1, 2: 0.7, 3: -0.3}

    def model(name: str, delays: dict[int, float]) -> bytes:
        behaviours = [
            (
                lambda request, before, node=node: Late(
                    delays[node], update(request, *steps(*(values[node],) * DIMENSION))
                )
            )
            for node in values
        ]
        table = lay_table(tmp_path, *behaviours, plan=table_plan(rounds=5), name=name)
        table.loop().carry_out()
        return checkpoint_file(table.folder, table.run, round_=5).read_bytes()

    assert model("one", {1: 0, 2: 1, 3: 2}) == model("two", {1: 2, 2: 1, 3: 0})


def test_a_crash_after_a_checkpoint_costs_no_finished_round(tmp_path: Path) -> None:
    class CrashError(Exception):
        """The process dies here."""

    def dies_in_round_three(request, before):
        if request.round == 3:
            raise CrashError
        return update(request)

    table = lay_table(tmp_path, honest, dies_in_round_three, plan=table_plan(rounds=4))
    with pytest.raises(CrashError):
        table.loop().carry_out()
    whole = lay_table(tmp_path, honest, honest, plan=table_plan(rounds=4), name="whole")
    table.channel.behaviours[2] = honest
    assert np.array_equal(table.loop().carry_out(), whole.loop().carry_out())
    assert [one[0] for one in table.events("round")] == [1, 2, 3, 4]


def _truncate(table: Table) -> None:
    path = checkpoint_file(table.folder, table.run, round_=2)
    path.write_bytes(path.read_bytes()[:40])


def _remove(table: Table) -> None:
    checkpoint_file(table.folder, table.run, round_=1).unlink()


def _forget(table: Table) -> None:
    replace_checkpoint(table.run, round_=1, content=None)


def _other_tensor(table: Table) -> None:
    replace_checkpoint(table.run, round_=2, content=save({"other": np.zeros(DIMENSION)}))


def _not_finite(table: Table) -> None:
    replace_checkpoint(table.run, round_=2, content=save({"parameters": np.full(DIMENSION, np.nan)}))


def _other_shape(table: Table) -> None:
    replace_checkpoint(table.run, round_=2, content=save({"parameters": np.zeros(DIMENSION + 1)}))


@pytest.mark.parametrize("damage", [_truncate, _remove, _forget, _other_tensor, _not_finite, _other_shape])
def test_a_damaged_checkpoint_is_refused_before_anybody_is_asked(
    tmp_path: Path, damage: Callable[[Table], None]
) -> None:
    table = lay_table(tmp_path, honest, honest, plan=table_plan(rounds=2))
    table.loop().carry_out()
    damage(table)
    asked = len(table.channel.asked)
    with pytest.raises(ConfigError, match=r"checkpoint|artifact"):
        table.loop().carry_out()
    assert len(table.channel.asked) == asked


def test_nobody_is_asked_while_nobody_is_connected(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, plan=table_plan(rounds=1, deadline_s=30, attempts=1))
    table.channel = FakeChannel(table.clock, table.channel.behaviours, offline={1, 2})
    with pytest.raises(DeadlineError, match="0 of at least 2"):
        table.loop().carry_out()
    assert table.channel.asked == []
