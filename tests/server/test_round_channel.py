"""The channel says of each message what came back for it, and believes no answer in another's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from ringfence.model.evaluation_messages import EvaluateRequest
from ringfence.model.round_messages import (
    TRAIN_ACTION,
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    answer_to_records,
)
from ringfence.server.round_channel import Arrival, GridChannel

REQUEST = TrainRequest("run", b"{}", b"s" * 64, 1, 1, np.zeros(3))
UPDATE = TrainUpdate("run", "0" * 64, 1, 1, np.ones(3, dtype=np.int64))


@dataclass
class FakeGrid:
    """A grid that stores what is pushed, for the nodes that it knows, and returns what the test puts in."""

    knows: set[int]
    pushed: dict[str, Any] = field(default_factory=dict)
    replies: list[Any] = field(default_factory=list)

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.knows)

    def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
        ids: list[str | None] = []
        for message in messages:
            if message.metadata.dst_node_id in self.knows:
                ids.append(f"message-{message.metadata.dst_node_id}")
                self.pushed[str(ids[-1])] = message
            else:
                ids.append(None)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        ready = [reply for reply in self.replies if reply.metadata.reply_to_message_id in set(message_ids)]
        self.replies = [reply for reply in self.replies if reply not in ready]
        return ready

    def reply(self, to: str, content: RecordDict | None, *, source: int) -> None:
        self.replies.append(
            SimpleNamespace(
                metadata=SimpleNamespace(reply_to_message_id=to, src_node_id=source),
                content=content,
                has_error=lambda: content is None,
            )
        )


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> FakeGrid:
    # Flower takes a message's run and source from the process.
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return FakeGrid(knows={11, 12})


@pytest.fixture
def channel(grid: FakeGrid) -> GridChannel:
    made = GridChannel(grid, group="run")  # type: ignore[arg-type]
    made.ask({11: REQUEST, 12: REQUEST}, time_to_live_s=60.0)
    return made


def test_each_member_gets_a_question_of_its_own(grid: FakeGrid, channel: GridChannel) -> None:
    assert channel.online() == {11, 12}
    assert {message.metadata.dst_node_id for message in grid.pushed.values()} == {11, 12}
    for message in grid.pushed.values():
        assert (message.metadata.message_type, message.metadata.ttl) == (TRAIN_ACTION, 60.0)


def test_answers_and_refusals_arrive_once_each(grid: FakeGrid, channel: GridChannel) -> None:
    assert list(channel.collect()) == []
    grid.reply("message-11", answer_to_records(UPDATE), source=11)
    grid.reply("message-12", answer_to_records(Refusal(RefusalCode.POLICY)), source=12)
    update, refusal = channel.collect()
    assert isinstance(update.answer, TrainUpdate)
    assert refusal == Arrival(12, Refusal(RefusalCode.POLICY), round=1)
    assert list(channel.collect()) == []


def test_what_arrives_says_which_rounds_question_it_answers(grid: FakeGrid) -> None:
    channel = GridChannel(grid, group="run")  # type: ignore[arg-type]
    channel.ask({11: replace(REQUEST, round=7)}, time_to_live_s=60.0)
    channel.ask({12: EvaluateRequest("run", b"{}", b"s" * 64, np.zeros(3))}, time_to_live_s=60.0)
    for node in (11, 12):
        grid.reply(f"message-{node}", answer_to_records(Refusal(RefusalCode.POLICY)), source=node)
    assert {arrival.node_id: arrival.round for arrival in channel.collect()} == {11: 7, 12: 0}


def test_an_answer_in_another_members_name_is_no_answer(grid: FakeGrid, channel: GridChannel) -> None:
    grid.reply("message-11", answer_to_records(UPDATE), source=12)
    assert list(channel.collect()) == [Arrival(11, None, round=1)]


def test_an_answer_that_cannot_be_read_is_no_answer(grid: FakeGrid, channel: GridChannel) -> None:
    grid.reply("message-11", RecordDict({"ringfence": ConfigRecord({"kind": "x"})}), source=11)
    grid.reply("message-12", RecordDict(), source=12)
    assert list(channel.collect()) == [Arrival(11, None, round=1), Arrival(12, None, round=1)]


def test_an_error_of_flowers_says_that_the_member_is_gone(grid: FakeGrid, channel: GridChannel) -> None:
    grid.reply("message-11", None, source=11)
    assert list(channel.collect()) == [Arrival(11, None, gone=True, round=1)]


def test_an_answer_to_nothing_that_was_asked_is_left_out(grid: FakeGrid, channel: GridChannel) -> None:
    grid.reply("message-99", answer_to_records(UPDATE), source=11)
    assert list(channel.collect()) == []


def test_a_question_that_flower_could_not_store_is_not_waited_for(grid: FakeGrid) -> None:
    channel = GridChannel(grid, group="run")  # type: ignore[arg-type]
    channel.ask({11: REQUEST, 99: REQUEST}, time_to_live_s=60.0)
    grid.reply("message-11", answer_to_records(UPDATE), source=11)
    assert [arrival.node_id for arrival in channel.collect()] == [11]


def test_what_was_asked_can_be_forgotten(grid: FakeGrid, channel: GridChannel) -> None:
    channel.forget()
    grid.reply("message-11", answer_to_records(UPDATE), source=11)
    assert list(channel.collect()) == []


def test_the_bytes_of_stored_questions_and_of_answers_are_counted(
    grid: FakeGrid, channel: GridChannel
) -> None:
    both = channel.ask({11: REQUEST, 12: REQUEST}, time_to_live_s=60.0)
    one = channel.ask({11: REQUEST, 99: REQUEST}, time_to_live_s=60.0)
    assert both == 2 * one > 8 * REQUEST.parameters.size
    grid.reply("message-11", answer_to_records(UPDATE), source=11)
    (arrival,) = channel.collect()
    assert arrival.size_bytes > 8 * UPDATE.update.size
