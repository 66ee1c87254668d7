"""A wait for the coordinator ends when the agent is to stop, and hands on what the call returned or raised."""

from __future__ import annotations

import threading

import pytest

from ringfence.client.stoppable import unless_stopped
from ringfence.model.errors import ConnectionFailedError


def test_what_a_call_returns_is_handed_on() -> None:
    assert unless_stopped(lambda: 41, stop=threading.Event()) == 41


def test_what_a_call_raises_is_raised_here() -> None:
    def fail() -> None:
        raise ConnectionFailedError("The coordinator does not answer.")

    with pytest.raises(ConnectionFailedError):
        unless_stopped(fail, stop=threading.Event())


def test_a_wait_ends_when_it_is_to_stop_whatever_the_call_does() -> None:
    stop, never = threading.Event(), threading.Event()
    threading.Timer(0.05, stop.set).start()
    try:
        assert unless_stopped(never.wait, stop=stop) is None
    finally:
        never.set()


def test_who_is_to_stop_already_waits_for_nothing() -> None:
    stop, never = threading.Event(), threading.Event()
    stop.set()
    try:
        assert unless_stopped(never.wait, stop=stop) is None
    finally:
        never.set()
