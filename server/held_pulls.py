"""Holds a question for messages until there is one, so that nobody has to ask four times a second.

Flower answers a question for messages at once, mostly with nothing. Here an empty answer is kept back until a message for
that receiver is whole; then Flower is asked once more. It sees what both sides push, because both go through this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ringfence.server.flower_adapter import announced_messages, stored_part
from ringfence.server.mail import Mail

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PUSHED_MESSAGES = ("/v1/fleet/push-messages", "/v1/runtime/push-messages")
PUSHED_PARTS = ("/v1/fleet/push-object", "/v1/runtime/push-object")
_OK = 200


@dataclass(slots=True)
class _Answer:
    """What the application answered, kept back."""

    messages: list[Message] = field(default_factory=list)

    async def keep(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return next((int(each["status"]) for each in self.messages if "status" in each), 0)

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)


async def _always() -> bool:
    return True


class HeldPulls:
    """Holds questions in front of an application.

    Args:
        application: Flower's SuperLink.
        mail: what is pushed through this process, by either side.
        most: questions that are held at once; one more is answered as Flower answers it.
    """

    def __init__(self, application: Application, mail: Mail, *, most: int = 4096) -> None:
        self._application = application
        self._mail = mail
        self._most = most
        self._held: dict[object, asyncio.Future[None]] = {}
        self._is_closed = False

    async def pull(
        self,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
        *,
        holder: object,
        receiver: int,
        wait_s: float,
        may_ask_again: Callable[[], Awaitable[bool]] = _always,
    ) -> None:
        """Answer a question for messages, when there is one, at the latest after ``wait_s``.

        Args:
            scope: of the request.
            body: of the request, read whole.
            receive: as ASGI has it.
            send: as ASGI has it.
            holder: who asks; of each, one question is held, and a newer one ends the older.
            receiver: Flower's node that messages are asked for.
            wait_s: seconds.
            may_ask_again: asked after the wait; whoever was suspended meanwhile is told that there is nothing.
        """
        known = self._mail.count(receiver)
        answer = await self._ask(scope, body, receive)
        is_empty = answer.status == _OK and not answer.body
        if is_empty and await self._wait(receive, holder, receiver, known, wait_s, may_ask_again):
            answer = await self._ask(scope, body, receive)
        for message in answer.messages:
            await send(message)

    async def push(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Pass on what somebody pushes, and tell who waits for it."""
        answer = _Answer()

        async def keep_and_send(message: Message) -> None:
            await answer.keep(message)
            await send(message)

        await self._application(scope, replay(body, receive), keep_and_send)
        if answer.status != _OK:
            return
        if scope["path"] in PUSHED_MESSAGES:
            for receiver, missing in announced_messages(scope["path"], body, answer.body):
                self._mail.announce(receiver, missing=missing)
        else:
            self._mail.part_came(stored_part(body))

    def release(self, holder: object) -> None:
        """Answer what is held for somebody, if anything is."""
        held = self._held.pop(holder, None)
        if held is not None and not held.done():
            held.set_result(None)

    def close(self) -> None:
        """Answer everything that is held, and hold nothing more: the process is about to stop."""
        self._is_closed = True
        for holder in list(self._held):
            self.release(holder)

    async def _ask(self, scope: Scope, body: bytes, receive: Receive) -> _Answer:
        answer = _Answer()
        # Each time with a scope of its own: the application leaves things in it.
        own = {**scope, "state": dict(scope.get("state") or {})}
        await self._application(own, replay(body, receive), answer.keep)
        return answer

    async def _wait(
        self,
        receive: Receive,
        holder: object,
        receiver: int,
        known: int,
        wait_s: float,
        may_ask_again: Callable[[], Awaitable[bool]],
    ) -> bool:
        """Wait; return whether there is a message now, for somebody who may have it and is still there."""
        self.release(holder)
        if self._is_closed or wait_s <= 0 or len(self._held) >= self._most:
            return False
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held[holder] = released
        told = self._mail.next(receiver, after=known)
        # All of the request was read, so the next thing to come is that the other side is gone.
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({told, released, gone}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if not told.done() or released.done() or gone.done() or not await may_ask_again():
                return False
            # Both once more: while that was awaited, a newer question of the same holder may have taken this one's place.
            return not (gone.done() or released.done())
        finally:
            if self._held.get(holder) is released:
                del self._held[holder]
            for each in (told, released, gone):
                each.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body that was read already, and then what comes after it."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
