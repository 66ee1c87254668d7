"""An agent writes down how it is, tells systemd, and survives a disk that takes nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ringfence.client.agent import Agent, Retry, _only_agent
from ringfence.client.agent_condition import (
    AgentCondition,
    agent_lock_file,
    agent_runs,
    condition_file,
    read_condition,
)
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.model.service_notice import ServiceNotice

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = MemberSettings(
    federation="demo",
    member="acme",
    fleet_address="127.0.0.1:1",
    release_address="127.0.0.1:2",
    plan_public_key="",
)


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return MemberHome(tmp_path).create()


def condition_of(home: MemberHome, *, notice: ServiceNotice | None = None) -> AgentCondition:
    times = (NOW + timedelta(minutes=minute) for minute in range(1000))
    return AgentCondition(home, notice=notice or ServiceNotice(), now=lambda: next(times))


def test_what_an_agent_wrote_down_is_read_back(home: MemberHome) -> None:
    condition = condition_of(home)
    condition.started()
    condition.connected("127.0.0.1:1")
    condition.looked_for_release("Release 0.1.0 in use is the newest.")
    record = read_condition(home)
    assert record is not None
    assert (record.pid, record.started_at) == (os.getpid(), NOW)
    assert (record.connected_at, record.trouble) == (NOW + timedelta(minutes=1), "")
    assert record.release_outcome == "Release 0.1.0 in use is the newest."
    condition.disconnected(ConnectionFailedError("The coordinator does not answer."))
    record = read_condition(home)
    assert record is not None
    assert (record.connected_at, record.trouble) == (None, "The coordinator does not answer.")
    assert condition_file(home).stat().st_mode & 0o077 == 0


def test_the_same_trouble_again_is_not_written_again(home: MemberHome) -> None:
    condition = condition_of(home)
    condition.disconnected(ConnectionFailedError("Nobody."))
    before = condition_file(home).stat().st_ino
    condition.disconnected(ConnectionFailedError("Nobody."))
    assert condition_file(home).stat().st_ino == before


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": 1}', b'{"pid": 1, "started_at": "never"}'])
def test_a_record_that_cannot_be_read_counts_as_none(home: MemberHome, content: bytes) -> None:
    condition_file(home).write_bytes(content)
    assert read_condition(home) is None


def test_a_folder_that_takes_nothing_does_not_stop_the_agent(
    home: MemberHome, caplog: pytest.LogCaptureFixture
) -> None:
    condition = condition_of(home)
    home.agent.rmdir()
    condition.connected("127.0.0.1:1")
    assert "could not be written down" in caplog.text


def test_whether_an_agent_runs_is_seen_by_its_lock(home: MemberHome) -> None:
    assert not agent_runs(home)
    with _only_agent(agent_lock_file(home)):
        assert agent_runs(home)
        with pytest.raises(ConfigError, match="Another agent runs"):
            _only_agent(agent_lock_file(home))
    assert not agent_runs(home)


def test_systemd_hears_of_the_start_the_connection_its_loss_and_each_beat(home: MemberHome) -> None:
    stop = threading.Event()
    connections = iter([None, ConnectionFailedError("Nobody answers.")])

    class Wire:
        def receive(self, *, stop: threading.Event) -> None:
            raise ConnectionFailedError("Lost.")

    @contextmanager
    def connect() -> Iterator[Any]:
        fate = next(connections)
        if fate is not None:
            stop.set()
            raise fate
        wire: Any = Wire()
        wire.node_id = 7
        yield wire

    unused: Any = None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home.root / "notify"))
        manager.settimeout(120)
        notice = ServiceNotice(manager.getsockname(), watchdog_s=3600.0)
        condition = condition_of(home, notice=notice)
        condition.started()
        Agent(
            home,
            settings=SETTINGS,
            answering=unused,
            ledger=unused,
            firewall=unused,
            connect=connect,
            retry=Retry(base_s=0.001, cap_s=0.002),
            condition=condition,
        ).run(stop)
        heard = [manager.recv(4096).decode() for _ in range(5)]
    assert heard == [
        "READY=1\nSTATUS=not connected yet",
        "STATUS=connected to 127.0.0.1:1",
        "WATCHDOG=1",
        "STATUS=not connected: Lost.",
        "STATUS=not connected: Nobody answers.",
    ]
