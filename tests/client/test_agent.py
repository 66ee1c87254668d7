"""The agent stays with its coordinator through lost connections, ended runs and messages that are not whole."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ledger_homes import DAY_S, charge_rounds, make_home, open_home_ledger

from ringfence.client import agent
from ringfence.client.agent import Agent, Retry, run_agent
from ringfence.client.flower_adapter import RunOverError
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.client.policy import default_policy
from ringfence.client.policy_text import save_policy
from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError
from ringfence.privacy.ledger_reader import LedgerReader

SETTINGS = MemberSettings(
    federation="demo",
    member="acme",
    fleet_address="127.0.0.1:1",
    release_address="127.0.0.1:2",
    demonstration=True,
    plan_public_key="",
)


@dataclass
class Coordinator:
    """What happens at each connection and at each question for work; the agent is stopped when nothing more does."""

    stop: threading.Event
    connections: list[Exception | None] = field(default_factory=list)
    receives: list[Exception | None] = field(default_factory=list)
    connected: int = 0
    asked: int = 0
    node_id: int = 42

    @contextmanager
    def connect(self) -> Iterator[Any]:
        fate = self.connections.pop(0) if self.connections else None
        if fate is not None:
            raise fate
        self.connected += 1
        yield self

    def receive(self, *, stop: threading.Event | None = None) -> None:
        self.asked += 1
        if not self.receives:
            self.stop.set()
            return
        fate = self.receives.pop(0)
        if fate is not None:
            raise fate


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return MemberHome(tmp_path).create()


def run(home: MemberHome, *, ledger: Any = None, **script: Any) -> Coordinator:
    stop = threading.Event()
    coordinator = Coordinator(stop, **script)
    unused: Any = None
    Agent(
        home,
        settings=SETTINGS,
        answering=unused,
        ledger=ledger,
        firewall=unused,
        connect=coordinator.connect,
        poll_s=0.001,
        retry=Retry(base_s=0.001, cap_s=0.002),
    ).run(stop)
    return coordinator


def test_an_agent_that_finds_nobody_tries_again_until_it_does(
    home: MemberHome, caplog: pytest.LogCaptureFixture
) -> None:
    away = ConnectionFailedError("Nobody answers.", hint="Check the firewall.")
    with caplog.at_level(logging.INFO):
        coordinator = run(home, connections=[away, away, away])
    assert coordinator.connected == 1
    assert caplog.text.count("Nobody answers. Next try in 0 s. Check the firewall.") == 3


def test_an_agent_that_loses_its_connection_connects_again(home: MemberHome) -> None:
    coordinator = run(home, receives=[None, ConnectionFailedError("Lost."), None])
    assert coordinator.connected == 2


@pytest.mark.parametrize("fault", [RunOverError("The run is over."), PeerError("The message is not whole.")])
def test_a_message_that_comes_to_nothing_does_not_end_the_connection(
    home: MemberHome, fault: PeerError
) -> None:
    coordinator = run(home, receives=[fault, fault, None])
    assert (coordinator.connected, coordinator.asked) == (1, 4)


class Away:
    """A coordinator that nobody reaches; the agent is stopped after some tries."""

    def __init__(self, stop: threading.Event, *, tries: int) -> None:
        self._stop, self._left = stop, tries

    def connect(self) -> Any:
        self._left -= 1
        if self._left <= 0:
            self._stop.set()
        raise ConnectionFailedError("Nobody answers.")


def run_without_coordinator(home: MemberHome, ledger: Any, *, tries: int) -> None:
    stop, unused = threading.Event(), cast(Any, None)
    Agent(
        home,
        settings=SETTINGS,
        answering=unused,
        ledger=ledger,
        firewall=unused,
        connect=Away(stop, tries=tries).connect,
        retry=Retry(base_s=0.001, cap_s=0.002),
    ).run(stop)


def test_what_is_over_its_time_goes_while_the_coordinator_is_away(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", now=time.time() - 2 * DAY_S).create()
    home.policy_file.write_text("[retention]\noutbox_days = 1\n")
    home.policy_file.chmod(0o600)
    charge_rounds(home, "old", rounds=[1], at=time.time() - 2 * DAY_S)
    charge_rounds(home, "young", rounds=[1], at=time.time() - 60)
    with open_home_ledger(home, now=time.time()) as ledger:
        run_without_coordinator(home, ledger, tries=1)
    with LedgerReader.open(home.ledger_file, anchor_path=home.ledger_anchor_file) as reader:
        assert [item.key.split("/")[2] for item in reader.stored()] == ["young"]


@pytest.mark.parametrize(("day_s", "times"), [(DAY_S, 1), (0.0, 5)])
def test_while_the_coordinator_is_away_the_house_is_kept_once_a_day(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch, day_s: float, times: int
) -> None:
    save_policy(home, policy=default_policy())
    kept: list[float] = []
    monkeypatch.setattr(agent, "DAY_S", day_s)
    monkeypatch.setattr(agent, "apply_retention", lambda home, *, now, **_: kept.append(now))
    run_without_coordinator(home, None, tries=5)
    assert len(kept) == times


def test_the_node_id_is_kept_for_the_next_life(home: MemberHome) -> None:
    run(home)
    assert (home.agent / "node-id").read_text() == "42"


def _no_settings(home: MemberHome) -> None:
    home.settings_file.unlink(missing_ok=True)


def _no_key(home: MemberHome) -> None:
    home.key_file.unlink()


def _no_certificate(home: MemberHome) -> None:
    home.certificate_file.unlink()


def _no_ca(home: MemberHome) -> None:
    home.ca_file.unlink()


def _no_policy(home: MemberHome) -> None:
    home.policy_file.unlink()


@pytest.mark.parametrize("loss", [_no_settings, _no_key, _no_certificate, _no_ca, _no_policy])
def test_an_agent_whose_own_files_are_not_in_order_says_so_at_once(
    tmp_path: Path, loss: Callable[[MemberHome], None]
) -> None:
    from federation_harness import make_federation

    home = make_federation(tmp_path, members=("acme",), conversations=2).members["acme"]
    loss(home)
    with pytest.raises(ConfigError) as caught:
        run_agent(home, stop=threading.Event())
    assert caught.value.hint
