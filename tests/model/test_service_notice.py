"""Telling systemd: exact datagrams to the named socket, a beat at a quarter of the period, silence where nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.model.service_notice import ServiceNotice


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_each_state_is_one_datagram_of_the_protocol(manager: socket.socket) -> None:
    notice = ServiceNotice(manager.getsockname())
    notice.ready("not connected yet")
    notice.status("connected\nto two lines")
    notice.stopping()
    assert heard(manager) == [
        "READY=1\nSTATUS=not connected yet",
        "STATUS=connected to two lines",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_a_watched_service_beats_four_times_a_period_however_often_it_turns(manager: socket.socket) -> None:
    now = [0.0]
    notice = ServiceNotice(manager.getsockname(), watchdog_s=60.0, clock=lambda: now[0])
    for second in range(61):
        now[0] = float(second)
        notice.alive()
    assert heard(manager) == ["WATCHDOG=1"] * 5  # at 0, 15, 30, 45 and 60 seconds


def test_a_service_that_is_not_watched_does_not_beat(manager: socket.socket) -> None:
    ServiceNotice(manager.getsockname()).alive()
    assert heard(manager) == []


@pytest.mark.parametrize(("pid", "beats"), [(os.getpid(), 1), (1, 0)], ids=["this process", "another"])
def test_the_environment_names_the_socket_the_period_and_whose_it_is(
    manager: socket.socket, pid: int, beats: int
) -> None:
    notice = ServiceNotice.from_environment(
        {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(pid)}
    )
    notice.alive()
    assert heard(manager) == ["WATCHDOG=1"] * beats


def test_a_name_in_the_abstract_namespace_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"ringfence-test-{os.getpid()}"
        listener.bind(f"\0{name}")
        listener.setblocking(False)
        ServiceNotice(f"@{name}").ready("up")
        assert heard(listener) == ["READY=1\nSTATUS=up"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    notice = ServiceNotice.from_environment({**environment, "WATCHDOG_USEC": "1000"})
    notice.ready("up")
    notice.alive()
    notice.stopping()
