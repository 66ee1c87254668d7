"""A question for messages is held until there is one; never for somebody who left, was suspended or asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse

from ringfence.server.held_pulls import HeldPulls
from ringfence.server.mail import Mail

ACME = 7
PULL = {"type": "http", "path": "/v1/fleet/pull-messages", "headers": []}
LONG_S = 60.0
WORK = b"a message for acme"


@dataclass
class SuperLink:
    """Answers with what lies ready for acme, once, as Flower does; and takes what is pushed."""

    ready: bytes = b""
    status: int = 200
    asked: int = 0
    wanted: tuple[str, ...] = ()
    scopes: list[Any] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        scope["left behind"] = True
        await receive()
        answer = b""
        if scope["path"].endswith("pull-messages"):
            self.asked += 1
            answer, self.ready = self.ready, b""
        elif scope["path"] == "/v1/fleet/push-messages":
            answer = PushMessagesResponse(objects_to_push=self.wanted).SerializeToString()
        elif scope["path"] == "/v1/runtime/push-messages":
            answer = PushAppMessagesResponse(objects_to_push=self.wanted).SerializeToString()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": answer})


@dataclass
class Table:
    """A coordinator's process in front of a SuperLink."""

    link: SuperLink
    mail: Mail = field(default_factory=Mail)
    most: int = 10
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.held = HeldPulls(self.link, self.mail, most=self.most)

    async def _receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def pull(
        self,
        holder: str = "acme",
        *,
        wait_s: float = LONG_S,
        may: bool = True,
        looks: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[int, bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def may_ask_again() -> bool:
            if looks is not None:
                await looks()
            return may

        await self.held.pull(
            dict(PULL),
            b"",
            self._receive,
            send,
            holder=holder,
            receiver=ACME,
            wait_s=wait_s,
            may_ask_again=may_ask_again,
        )
        return sent[0]["status"], b"".join(each.get("body", b"") for each in sent)

    async def push(self, path: str, body: bytes) -> None:
        async def send(message: Any) -> None:
            return None

        await self.held.push({"type": "http", "path": path, "headers": []}, body, self._receive, send)

    async def is_held(self, times: int = 1) -> None:
        while self.mail.waiting() < times:
            await asyncio.sleep(0)


def play(scene: Callable[[Table], Awaitable[None]], link: SuperLink | None = None, most: int = 10) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await scene(Table(link or SuperLink(), most=most))

    asyncio.run(run())


def test_a_question_is_held_until_the_message_is_whole_and_then_answered_with_it() -> None:
    async def scene(table: Table) -> None:
        question = asyncio.create_task(table.pull())
        await table.is_held()
        table.mail.announce(ACME, missing={"a"})
        await asyncio.sleep(0.01)
        assert not question.done()
        table.link.ready = WORK
        table.mail.part_came("a")
        assert await question == (200, WORK)
        assert table.link.asked == 2

    play(scene)


def test_what_lies_ready_is_answered_at_once() -> None:
    async def scene(table: Table) -> None:
        assert await table.pull() == (200, WORK)
        assert table.link.asked == 1

    play(scene, SuperLink(ready=WORK))


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_never_held(status: int) -> None:
    async def scene(table: Table) -> None:
        assert await table.pull() == (status, b"")

    play(scene, SuperLink(status=status))


def test_nothing_is_answered_when_the_time_is_over() -> None:
    async def scene(table: Table) -> None:
        assert await table.pull(wait_s=0.01) == (200, b"")
        await asyncio.sleep(0)
        assert (table.link.asked, table.mail.waiting()) == (1, 0)

    play(scene)


def test_a_message_that_came_while_flower_was_asked_is_not_missed() -> None:
    class Between(SuperLink):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope, receive, send)
            if self.asked == 1:
                self.ready = WORK
                mail.announce(ACME, missing=())

    mail = Mail()

    async def run() -> None:
        async with asyncio.timeout(20):
            assert await Table(Between(), mail).pull() == (200, WORK)

    asyncio.run(run())


def test_for_somebody_who_left_flower_is_not_asked_again() -> None:
    """Flower hands a message out once: asked for nobody, it would be lost."""

    async def scene(table: Table) -> None:
        question = asyncio.create_task(table.pull())
        await table.is_held()
        table.gone.set()
        await question
        await asyncio.sleep(0)
        assert table.mail.waiting() == 0
        table.mail.announce(ACME, missing=())
        await asyncio.sleep(0)
        assert table.link.asked == 1

    play(scene)


def test_for_somebody_who_was_suspended_meanwhile_flower_is_not_asked_again() -> None:
    async def scene(table: Table) -> None:
        question = asyncio.create_task(table.pull(may=False))
        await table.is_held()
        table.link.ready = WORK
        table.mail.announce(ACME, missing=())
        assert await question == (200, b"")
        assert table.link.asked == 1

    play(scene)


def test_of_each_member_one_question_is_held_and_the_newer_ends_the_older() -> None:
    async def scene(table: Table) -> None:
        older = asyncio.create_task(table.pull())
        await table.is_held()
        newer = asyncio.create_task(table.pull())
        assert await older == (200, b"")
        assert not newer.done()
        table.link.ready = WORK
        table.mail.announce(ACME, missing=())
        assert await newer == (200, WORK)

    play(scene)


@pytest.mark.parametrize("happens", ["asked again", "gone"])
def test_a_question_that_is_over_while_its_member_is_looked_up_takes_no_message(happens: str) -> None:
    """The database answers when it can. Flower hands a message out once, and the older question's asker has left."""

    async def scene(table: Table) -> None:
        looking, found = asyncio.Event(), asyncio.Event()

        async def looks() -> None:
            looking.set()
            await found.wait()

        older = asyncio.create_task(table.pull(looks=looks))
        await table.is_held()
        table.link.ready = WORK
        table.mail.announce(ACME, missing=())
        await looking.wait()
        if happens == "gone":
            table.gone.set()
            await asyncio.sleep(0)
        else:
            # Flower is asked at once for the newer one, and has nothing yet: the message is not whole.
            table.link.ready = b""
            newer = asyncio.create_task(table.pull())
            await table.is_held()
            table.link.ready = WORK
        found.set()
        assert await older == (200, b"")
        assert table.link.ready == WORK
        if happens == "asked again":
            table.mail.announce(ACME, missing=())
            assert await newer == (200, WORK)

    play(scene)


def test_no_more_questions_are_held_than_agreed() -> None:
    async def scene(table: Table) -> None:
        first = asyncio.create_task(table.pull("acme"))
        await table.is_held()
        assert await table.pull("beta") == (200, b"")
        table.held.release("acme")
        assert await first == (200, b"")

    play(scene, most=1)


def test_whoever_connects_or_leaves_has_nothing_held() -> None:
    async def scene(table: Table) -> None:
        question = asyncio.create_task(table.pull())
        await table.is_held()
        table.held.release("beta")
        table.held.release("acme")
        assert await question == (200, b"")

    play(scene)


def test_before_it_stops_everything_is_answered_and_nothing_more_is_held() -> None:
    async def scene(table: Table) -> None:
        questions = [asyncio.create_task(table.pull(name)) for name in ("acme", "beta")]
        await table.is_held(2)
        table.held.close()
        assert [await question for question in questions] == [(200, b"")] * 2
        assert await table.pull("gamma") == (200, b"")

    play(scene)


def test_each_time_flower_is_asked_with_a_scope_of_its_own() -> None:
    async def scene(table: Table) -> None:
        question = asyncio.create_task(table.pull())
        await table.is_held()
        table.mail.announce(ACME, missing=())
        await question
        first, second = table.link.scopes
        assert first is not second
        assert first["state"] is not second["state"]

    play(scene)


TREE = ObjectTree(object_id="whole", children=[ObjectTree(object_id="part")])
MESSAGE = Message(metadata=Metadata(dst_node_id=ACME, src_node_id=1))


@pytest.mark.parametrize("side", ["fleet", "runtime"])
def test_what_either_side_pushes_wakes_the_receiver_with_its_last_part(side: str) -> None:
    if side == "fleet":
        announcement = PushMessagesRequest(
            node=Node(node_id=1), messages_list=[MESSAGE], message_object_trees=[TREE]
        ).SerializeToString()
    else:
        announcement = PushAppMessagesRequest(
            messages_list=[MESSAGE], message_object_trees=[TREE]
        ).SerializeToString()

    async def scene(table: Table) -> None:
        question = asyncio.create_task(table.pull())
        await table.is_held()
        await table.push(f"/v1/{side}/push-messages", announcement)
        await table.push(f"/v1/{side}/push-object", PushObjectRequest(object_id="whole").SerializeToString())
        assert not question.done()
        table.link.ready = WORK
        await table.push(f"/v1/{side}/push-object", PushObjectRequest(object_id="part").SerializeToString())
        assert await question == (200, WORK)

    play(scene, SuperLink(wanted=("whole", "part", "another's")))


def test_what_flower_refuses_wakes_nobody() -> None:
    async def scene(table: Table) -> None:
        table.mail.announce(ACME, missing={"part"})
        await table.push("/v1/fleet/push-object", PushObjectRequest(object_id="part").SerializeToString())
        assert table.mail.count(ACME) == 0
        await table.push("/v1/fleet/push-messages", b"\xff\xff")

    play(scene, SuperLink(status=403))
