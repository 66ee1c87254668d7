"""A Flower Grid without a network: real messages go straight to the member's app, in this process.

The server's side sees Flower's documented Grid and nothing else, so that the round loop which serves a federation serves
a simulation unchanged. Each node keeps a Context of its own between messages, as a SuperNode would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from ringfence.client.app import HOME_KEY
from ringfence.client.app import app as installed_app
from ringfence.demo.flower_adapter import (
    FlowerRun,
    client_app_failed,
    node_unknown,
    number_message,
    server_identity,
)

RUN_ID = 1


class LocalGrid(Grid):
    """Answers every message while it is pushed, one node after the other. Used as a context manager.

    One grid may be open in a process at a time: Flower keeps the sender's identity for the whole process.

    Args:
        homes: the member's folder of each node id.
        app: the member's app; the installed one by default.
    """

    def __init__(self, homes: Mapping[int, Path], *, app: ClientApp | None = None) -> None:
        self._app = app or installed_app
        self._run = FlowerRun.create_empty(RUN_ID)
        self._contexts = {
            node_id: Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={HOME_KEY: str(home)},
                state=RecordDict(),
                run_config={},
            )
            for node_id, home in homes.items()
        }
        self._replies: dict[str, Message] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Become the sender of the messages that this process makes."""
        self._open.enter_context(server_identity(run_id=RUN_ID))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop being it, and drop what nobody fetched."""
        self._replies.clear()
        self._open.close()

    def set_run(self, run: FlowerRun) -> None:
        """Set the run that `run` returns."""
        self._run = run

    @property
    def run(self) -> FlowerRun:
        """The run, as Flower describes it."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message; Flower's older form of ``Message(...)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return every node's id."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each node answer its message now; return the messages' ids."""
        ids = []
        for message in messages:
            number = number_message(message)
            reply = self._answer(message)
            number_message(reply)
            self._replies[number] = reply
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once."""
        return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return all their replies; nothing is left to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        context = self._contexts.get(message.metadata.dst_node_id)
        if context is None:
            return Message(node_unknown(), reply_to=message)
        try:
            reply = self._app(message, context)
        except Exception as error:  # noqa: BLE001 - an app that raises is one node's failure, as on a SuperNode
            return Message(client_app_failed(type(error).__name__), reply_to=message)
        if reply.metadata.reply_to_message_id != message.metadata.message_id:
            return Message(client_app_failed("not a reply to the message"), reply_to=message)
        return reply
