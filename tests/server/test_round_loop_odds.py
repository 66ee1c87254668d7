"""Whatever members do, in whatever order: a run ends in bounded time, with a model of honest answers or with an error."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from round_table import (
    DIMENSION,
    Behaviour,
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

from ringfence.model.errors import ConfigError, DeadlineError, PeerError, StorageBusyError
from ringfence.model.round_messages import Refusal, RefusalCode
from ringfence.server.app import see_through
from ringfence.server.round_loop import NoHeads, RoundLoop, RunStoppedError

DEADLINE_S = 20.0
ROUNDS, ATTEMPTS = 3, 2
DEEDS = ("honest", "bad", "silent", "late", "next round", "busy", "refuses", "gone", "lost", "twice")


def test_an_answer_after_a_refusal_of_the_same_question_counts_and_the_refusal_no_longer(
    tmp_path: Path,
) -> None:
    """Asked twice because the first question seemed lost: both arrive, the first is refused, the second is answered."""

    def refuses_then_answers(request, before):
        return Late(16.0, Refusal(RefusalCode.FAILED)) if before == 0 else Late(4.0, update(request))

    def unhurried(request, before):
        return Late(30.0, update(request))

    plan = table_plan(rounds=1, minimum=2, deadline_s=45, attempts=1)
    table = lay_table(tmp_path, honest, refuses_then_answers, unhurried, plan=plan)
    table.loop().carry_out()
    assert table.channel.times_asked(2, round_=1) == 2
    assert table.events("round") == [(1, 3, 0, 0)]


def test_a_member_that_is_busy_for_good_costs_one_deadline_and_not_one_a_round(tmp_path: Path) -> None:
    table = lay_table(
        tmp_path,
        honest,
        honest,
        lambda request, before: Refusal(RefusalCode.BUSY),
        plan=table_plan(rounds=3, deadline_s=60),
    )
    began = table.clock.now
    table.loop().carry_out()
    assert table.events("round") == [(1, 2, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)]
    assert table.clock.now - began < 62
    assert table.channel.times_asked(3, round_=1) <= 4


def test_a_member_that_is_suspended_and_served_again_within_a_round_is_asked_again_and_counts(
    tmp_path: Path,
) -> None:
    def slow(request, before):
        return Late(40.0, update(request))

    table = lay_table(tmp_path, honest, slow, honest, plan=table_plan(rounds=1, deadline_s=90))
    third = table.roster[3]
    table.clock.at(1.0, lambda: table.roster.pop(3) and None)
    table.clock.at(2.0, lambda: table.roster.update({3: third}))
    table.loop().carry_out()
    assert table.events("round") == [(1, 3, 0, 0)]
    assert table.channel.times_asked(3, round_=1) == 2


def test_members_that_all_come_late_are_waited_for_in_the_next_try(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, plan=table_plan(rounds=1, deadline_s=30, attempts=3))
    table.channel.offline = {1, 2}
    table.clock.at(65.0, lambda: table.channel.offline.clear())
    table.loop().carry_out()
    assert table.events("short") == [(1, 0, 0, 0), (1, 0, 0, 0)]
    assert table.events("round") == [(1, 2, 0, 0)]


class Strict(NoHeads):
    """Takes no head of the third member."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def keep(self, member: str, signed_head: bytes) -> None:
        if member == "member-3":
            raise self.error


def strict(table: Table, error: Exception) -> RoundLoop:
    return RoundLoop(
        table.run,
        channel=table.channel,
        roster=lambda: dict(table.roster),
        heads=Strict(error),
        clock=table.clock,
    )


def test_a_member_whose_head_is_not_its_own_is_left_out(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, honest, plan=table_plan(rounds=2))
    strict(table, PeerError("not signed")).carry_out()
    assert table.events("round") == [(1, 2, 0, 1), (2, 2, 0, 1)]


def test_a_database_that_is_busy_is_no_members_fault_and_does_not_fail_the_run(tmp_path: Path) -> None:
    table = lay_table(tmp_path, honest, honest, honest, plan=table_plan(rounds=2))
    table.run.update(status="running")
    with pytest.raises(StorageBusyError):
        see_through(table.run, strict(table, StorageBusyError("busy")).carry_out)
    # Who keeps runs starts it again: members answer from their outboxes.
    assert table.run.record().status == "running"
    see_through(table.run, table.loop().carry_out)
    assert table.run.record().status == "completed"
    assert [one[0] for one in table.events("round")] == [1, 2]


HOW_RUNS_END = [
    (DeadlineError("too few"), "failed", "failed"),
    (ConfigError("a checkpoint is damaged"), "failed", "failed"),
    (None, "completed", "completed"),
]


@pytest.mark.parametrize(("error", "status", "event"), HOW_RUNS_END)
def test_how_a_run_ended_is_noted(tmp_path: Path, error: Exception | None, status: str, event: str) -> None:
    table = lay_table(tmp_path, honest)
    table.run.update(status="running")

    def part() -> None:
        if error is not None:
            raise error

    if status == "failed":
        with pytest.raises(type(error)):
            see_through(table.run, part)
    else:
        see_through(table.run, part)
    assert table.run.record().status == status
    assert [one.event for one in table.run.events()] == [event]


@pytest.mark.parametrize(("error", "status", "event"), HOW_RUNS_END)
def test_how_a_run_ended_is_noted_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, status: str, event: str
) -> None:
    """Who follows a run reads its status, then its history, and leaves: no end may stand there without its line."""
    table = lay_table(tmp_path, honest)
    table.run.update(status="running")

    def part() -> None:
        if error is not None:
            raise error

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    for write in ("add_event", "_write"):
        with monkeypatch.context() as crashed:
            crashed.setattr(type(table.run), write, dies)
            with pytest.raises(KeyboardInterrupt):
                see_through(table.run, part)
        assert (table.run.record().status, table.run.events()) == ("running", [])


@pytest.mark.parametrize("error", [None, DeadlineError("too few"), RunStoppedError("stopped")])
def test_a_run_that_was_stopped_during_its_last_part_stays_stopped(
    tmp_path: Path, error: Exception | None
) -> None:
    table = lay_table(tmp_path, honest)
    table.run.update(status="running")

    def part() -> None:
        table.run.update(status="stopped", reason="by hand")
        if error is not None:
            raise error

    with suppress(DeadlineError):
        see_through(table.run, part)
    assert (table.run.record().status, table.run.record().reason) == ("stopped", "by hand")
    assert table.run.events() == [], "whoever stopped it noted that"


def member(deeds: tuple[str, ...], value: float) -> Behaviour:
    """Return a member that does one deed a question, over and over, and answers with its own value when it is honest."""

    def behave(request, before):
        right = update(request, *steps(*(value,) * DIMENSION))
        # By what was asked and how often: a member does not know what others do.
        deed = deeds[(request.round + before) % len(deeds)]
        return {
            "honest": right,
            "twice": Late(1.0, right),
            "bad": update(request, *(2**62,) * DIMENSION),
            "silent": Silent(),
            "late": Late(DEADLINE_S * 0.9, right),
            "next round": Late(DEADLINE_S * 1.2, right),
            "busy": Refusal(RefusalCode.BUSY),
            "refuses": Refusal(RefusalCode.POLICY),
            "gone": Gone(),
            "lost": Lost(),
        }[deed]

    return behave


@given(
    members=st.lists(
        st.lists(st.sampled_from(DEEDS), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
    ),
    offline=st.sets(st.integers(1, 4)),
)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_mixture_of_deeds_ends_in_bounded_time_and_uses_honest_answers_only(
    members: list[tuple[str, ...]], offline: set[int]
) -> None:
    values = {f"member-{node}": float(node) for node in range(1, len(members) + 1)}
    behaviours = [member(deeds, float(node)) for node, deeds in enumerate(members, start=1)]
    plan = table_plan(rounds=ROUNDS, minimum=2, deadline_s=DEADLINE_S, attempts=ATTEMPTS)
    with tempfile.TemporaryDirectory() as folder:
        table = lay_table(Path(folder), *behaviours, plan=plan)
        table.channel.offline = offline & set(table.roster)
        table.clock.at(DEADLINE_S * 1.5, lambda: table.channel.offline.clear())
        began = table.clock.now
        try:
            table.loop().carry_out()
        except DeadlineError:
            assert table.run.rounds_done() < ROUNDS
        spent_s = table.clock.now - began
        assert spent_s <= ROUNDS * ATTEMPTS * (DEADLINE_S + 1.0)
        history = table.run.history()
        rounds = [event for event in table.run.events() if event.event == "round"]
        assert len(rounds) == len(history) - 1
        for event, earlier, model in zip(rounds, history, history[1:], strict=False):
            assert event.answered >= 2
            assert event.answered + event.refused + event.missing == len(members)
            assert event.answered + event.refused <= event.asked
            # A weighted average of two or more of the members' own values: nothing larger got in.
            assert min(values.values()) <= (model - earlier)[0] <= max(values.values())
            assert np.ptp(model - earlier) == pytest.approx(0.0)
