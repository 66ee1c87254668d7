"""The extra engine: refused clearly where it is missing, asks nobody twice, and finds each member by its place."""

import importlib.util
import ipaddress
import sys
import threading
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from ringfence.demo.company_data import benign_chat
from ringfence.demo.flower_adapter import number_message, run_on_ray, server_identity
from ringfence.demo.ray_engine import AskedOnce, carry_out_on_ray, check_ray, member_app
from ringfence.demo.simulated_federation import SimulatedFederation, lay_out, simulation_plan
from ringfence.demo.simulation import carry_out
from ringfence.model.errors import ConfigError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.round_messages import (
    TRAIN_ACTION,
    TrainRequest,
    TrainUpdate,
    answer_from_records,
    request_to_records,
)
from ringfence.model.simulation import simulate_companies
from ringfence.server.round_channel import Arrival


@pytest.fixture
def federation(tmp_path: Path) -> SimulatedFederation:
    companies = simulate_companies(
        benign_chat(), companies=3, conversations_per_company=20, test_conversations=0, seed=3
    )
    plan = simulation_plan(members=3, rounds=2, epsilon=8.0, feature_set=load_feature_set())
    return lay_out(tmp_path, plan=plan, companies=companies)


def request_of(federation: SimulatedFederation) -> TrainRequest:
    signed = federation.run.signed_plan()
    return TrainRequest(
        run=federation.run.name,
        plan=signed.plan.canonical_json(),
        signature=signed.signature,
        round=1,
        attempt=1,
        parameters=federation.run.history()[0],
    )


def test_without_ray_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for start in (check_ray, lambda: carry_out_on_ray(print, folder=Path(), members=1)):
        with pytest.raises(ConfigError) as caught:
            start()
        assert 'pip install "ringfence[ray]"' in caught.value.hint


def test_the_engines_app_answers_for_the_member_at_the_place_that_the_engine_names(
    federation: SimulatedFederation, tmp_path: Path
) -> None:
    with server_identity(run_id=1):
        message = Message(request_to_records(request_of(federation)), 5, TRAIN_ACTION)
        number_message(message)
        context = Context(
            run_id=1, node_id=5, node_config={"partition-id": 2}, state=RecordDict(), run_config={}
        )
        reply = member_app(tmp_path)(message, context)
    assert isinstance(answer_from_records(reply.content), TrainUpdate)
    trained = [name for name, home in federation.members.items() if any(home.cache.iterdir())]
    assert trained == [list(federation.members)[2]]


class Recorder:
    """A channel that keeps what it is asked until told who answers."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.arrivals: list[Arrival] = []

    def online(self) -> set[int]:
        return {1, 2, 3}

    def ask(self, requests: Mapping[int, TrainRequest], *, time_to_live_s: float) -> int:
        self.asked.append(sorted(requests))
        return 0

    def collect(self) -> Iterable[Arrival]:
        arrived, self.arrivals = self.arrivals, []
        return arrived


def test_a_member_that_owes_an_answer_is_not_asked_again_and_one_that_answered_is() -> None:
    request = TrainRequest("r", b"", b"", 1, 1, np.zeros(2))
    behind = Recorder()
    channel = AskedOnce(behind)
    channel.ask(dict.fromkeys([1, 2], request), time_to_live_s=1.0)
    channel.ask(dict.fromkeys([1, 2, 3], request), time_to_live_s=1.0)
    channel.ask(dict.fromkeys([1, 2, 3], request), time_to_live_s=1.0)
    behind.arrivals = [Arrival(node_id=2, answer=None, gone=True)]
    assert [arrival.node_id for arrival in channel.collect()] == [2]
    channel.ask(dict.fromkeys([1, 2, 3], request), time_to_live_s=1.0)
    assert behind.asked == [[1, 2], [3], [2]]
    assert channel.online() == {1, 2, 3}


def listening_addresses() -> set[str]:
    """Where any process below this one listens now."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found |= {item.laddr.ip for item in child.net_connections("tcp") if item.status == "LISTEN"}
    return found


def test_ray_that_was_loaded_with_other_settings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with pytest.raises(ConfigError, match="loaded Ray with settings of its own"):
        run_on_ray(ServerApp(), ClientApp(), nodes=1)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs the extra: pip install "ringfence[ray]"'
)
def test_the_same_federation_runs_on_ray_which_listens_on_loopback_only(
    federation: SimulatedFederation,
) -> None:
    addresses: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            addresses.update(listening_addresses())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        outcomes = carry_out(federation, engine="ray")
    finally:
        over.set()
        watcher.join()
    assert [(item.answered, item.missing, item.refused) for item in outcomes] == [(3, 0, 0)] * 2
    assert len(federation.run.history()) == 3
    assert addresses
    assert all(ipaddress.ip_address(item.removeprefix("::ffff:")).is_loopback for item in addresses)
