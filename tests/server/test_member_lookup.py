"""A look at the database is bounded, and its trouble is said once."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from ringfence.model.errors import ConfigError, StorageError
from ringfence.server.member_lookup import MemberLookup


def test_a_look_that_gets_no_answer_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    answers = threading.Event()

    def member_of(_key: bytes) -> str:
        assert answers.wait(120)
        return "acme"

    async def scene() -> None:
        lookup = MemberLookup(member_of, longest_s=0.05)
        for _ in range(2):
            with pytest.raises(StorageError, match="does not answer"):
                await lookup.find(b"key")
        answers.set()

    asyncio.run(scene())
    assert caplog.messages == ["no member can be looked up: The database does not answer."]


def test_a_damaged_record_is_the_coordinators_trouble_and_no_strangers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def member_of(_key: bytes) -> str:
        raise ConfigError("The record of the member acme is damaged.", hint="Restore it.")

    async def scene() -> None:
        with pytest.raises(StorageError) as caught:
            await MemberLookup(member_of).find(b"key")
        assert caught.value.hint == "Restore it."

    asyncio.run(scene())
    assert caplog.messages == ["no member can be looked up: The record of the member acme is damaged."]


def test_trouble_of_another_kind_is_said_anew(caplog: pytest.LogCaptureFixture) -> None:
    said = iter(["is busy", "is busy", "is full", "", "is busy"])

    def member_of(_key: bytes) -> str:
        if trouble := next(said):
            raise StorageError(trouble, hint="")
        return "acme"

    async def scene() -> None:
        lookup = MemberLookup(member_of)
        for _ in range(3):
            with pytest.raises(StorageError):
                await lookup.find(b"key")
        assert await lookup.find(b"key") == "acme"
        with pytest.raises(StorageError):
            await lookup.find(b"key")

    with caplog.at_level(logging.WARNING):
        asyncio.run(scene())
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
        "is busy",
        "is full",
        "members are looked up again",
        "is busy",
    ]
