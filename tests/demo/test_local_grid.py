"""The in-process Grid does for messages what Flower's own does, and no failure of a node is more than that node's."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from ringfence.client.app import HOME_KEY
from ringfence.demo.local_grid import LocalGrid

HOMES = {7: Path("seven"), 8: Path("eight"), 9: Path("nine")}
SECRET = "the blue heron waits"  # stands for what a person wrote

Answer = Callable[[Message, Context], Message]


def app_of(answer: Answer) -> ClientApp:
    app = ClientApp()
    app.train("update")(answer)
    return app


def say_home(message: Message, context: Context) -> Message:
    home = context.node_config[HOME_KEY]
    return Message(RecordDict({"said": ConfigRecord({"home": home})}), reply_to=message)


def question(node: int, action: str = "train.update") -> Message:
    return Message(RecordDict({"asked": ConfigRecord({"node": node})}), node, action, group_id="g")


def test_each_node_answers_for_itself_with_its_own_home() -> None:
    with LocalGrid(HOMES, app=app_of(say_home)) as grid:
        assert set(grid.get_node_ids()) == set(HOMES)
        replies = list(grid.send_and_receive([question(node) for node in (9, 7, 8)]))
    said = {reply.metadata.src_node_id: reply.content["said"]["home"] for reply in replies}
    assert said == {node: str(home) for node, home in HOMES.items()}


def test_a_reply_names_its_question_and_is_handed_out_once() -> None:
    with LocalGrid(HOMES, app=app_of(say_home)) as grid:
        numbers = list(grid.push_messages([question(7), question(7)]))
        assert len(set(numbers)) == 2
        first = list(grid.pull_messages(numbers[:1]))
        assert [reply.metadata.reply_to_message_id for reply in first] == numbers[:1]
        assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(numbers)] == numbers[1:]
        assert list(grid.pull_messages(numbers)) == []
        assert list(grid.pull_messages(["never sent"])) == []


def test_the_older_form_of_making_a_message_gives_the_same_message() -> None:
    with LocalGrid(HOMES, app=app_of(say_home)) as grid:
        message = grid.create_message(RecordDict(), "train.update", 8, "g", ttl=5.0)
        assert (message.metadata.dst_node_id, message.metadata.ttl) == (8, 5.0)
        (reply,) = grid.send_and_receive([message])
        assert reply.content["said"]["home"] == "eight"


def raise_with_text(message: Message, context: Context) -> Message:
    raise ValueError(SECRET)


def answer_another_question(message: Message, context: Context) -> Message:
    other = Message(RecordDict(), context.node_id, "train.update")
    return Message(RecordDict(), reply_to=other)


@pytest.mark.parametrize(
    ("answer", "node", "action"),
    [
        pytest.param(raise_with_text, 8, "train.update", id="an app that raises"),
        pytest.param(answer_another_question, 8, "train.update", id="a reply to another message"),
        pytest.param(say_home, 8, "train.other", id="an action that the app does not have"),
        pytest.param(say_home, 99, "train.update", id="a node that is not there"),
    ],
)
def test_what_goes_wrong_at_a_node_comes_back_as_flowers_error_without_any_text(
    answer: Answer, node: int, action: str
) -> None:
    def only_eight_is_odd(message: Message, context: Context) -> Message:
        return (answer if context.node_id == 8 else say_home)(message, context)

    with LocalGrid(HOMES, app=app_of(only_eight_is_odd)) as grid:
        good, odd, also_good = grid.send_and_receive([question(7), question(node, action), question(9)])
    assert odd.has_error()
    assert odd.metadata.src_node_id == node
    assert SECRET not in f"{odd.error.reason}{odd.error}"
    assert not good.has_error()
    assert not also_good.has_error()


def test_a_node_keeps_its_own_state_between_messages() -> None:
    def count(message: Message, context: Context) -> Message:
        seen = int(context.state["seen"]["times"]) if "seen" in context.state else 0
        context.state["seen"] = ConfigRecord({"times": seen + 1})
        return Message(RecordDict({"said": ConfigRecord({"times": seen + 1})}), reply_to=message)

    with LocalGrid(HOMES, app=app_of(count)) as grid:
        replies = [*grid.send_and_receive([question(7), question(8)]), *grid.send_and_receive([question(7)])]
    assert [reply.content["said"]["times"] for reply in replies] == [1, 1, 2]


def test_ctrl_c_in_an_app_stops_the_process_and_not_just_the_node() -> None:
    def stop(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    with LocalGrid(HOMES, app=app_of(stop)) as grid, pytest.raises(KeyboardInterrupt):
        grid.push_messages([question(7)])


def test_the_senders_identity_lasts_as_long_as_the_grid_is_open() -> None:
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    with LocalGrid(HOMES, app=app_of(say_home)) as grid:
        assert grid.run.run_id == question(7).metadata.run_id
    assert (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id) == before
