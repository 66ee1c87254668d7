"""A receiver is told when a message is whole: not before its last part is there, and not for somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from ringfence.server.mail import Mail

ACME, BETA = 7, 8


def in_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_a_loop
async def test_a_receiver_is_told_when_the_last_part_came() -> None:
    mail = Mail()
    told = mail.next(ACME, after=0)
    mail.announce(ACME, missing={"a", "b"})
    mail.part_came("b")
    assert not told.done()
    mail.part_came("a")
    assert told.done()
    assert mail.count(ACME) == 1


@in_a_loop
async def test_a_message_whose_parts_are_all_there_is_whole_when_it_is_announced() -> None:
    mail = Mail()
    told = mail.next(ACME, after=0)
    mail.announce(ACME, missing=())
    assert told.done()


@in_a_loop
async def test_one_part_may_complete_messages_of_two() -> None:
    mail = Mail()
    mail.announce(ACME, missing={"model", "acme"})
    mail.announce(BETA, missing={"model"})
    mail.part_came("acme")
    assert (mail.count(ACME), mail.count(BETA)) == (0, 0)
    mail.part_came("model")
    assert (mail.count(ACME), mail.count(BETA)) == (1, 1)


@in_a_loop
async def test_a_message_for_another_wakes_nobody() -> None:
    mail = Mail()
    told = mail.next(ACME, after=0)
    mail.announce(BETA, missing=())
    assert not told.done()


@in_a_loop
async def test_what_came_between_the_question_and_the_wait_is_not_missed() -> None:
    mail = Mail()
    known = mail.count(ACME)
    mail.announce(ACME, missing=())
    assert mail.next(ACME, after=known).done()


@in_a_loop
async def test_a_part_that_nobody_waits_for_is_of_no_interest() -> None:
    mail = Mail()
    mail.part_came("unknown")
    mail.announce(ACME, missing={"a"})
    mail.part_came("a")
    mail.part_came("a")
    assert mail.count(ACME) == 1


@in_a_loop
async def test_messages_that_never_become_whole_are_given_up_oldest_first_and_their_receivers_told() -> None:
    mail = Mail(most_missing=2)
    mail.announce(ACME, missing={"never"})
    mail.announce(BETA, missing={"b"})
    assert (mail.count(ACME), mail.count(BETA)) == (0, 0)
    mail.announce(BETA, missing={"c"})
    assert (mail.count(ACME), mail.count(BETA)) == (1, 0)


@pytest.mark.parametrize("end", [asyncio.Future.cancel, lambda told: told.set_result(None)])
def test_nobody_who_stopped_waiting_is_remembered(end: Callable[[asyncio.Future[None]], object]) -> None:
    async def wait() -> int:
        mail = Mail()
        end(mail.next(ACME, after=0))
        await asyncio.sleep(0)
        return mail.waiting()

    assert asyncio.run(wait()) == 0
