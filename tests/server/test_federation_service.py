"""Members see how runs come along: counts only, events as they happen, over whatever happens to the connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from federation_harness import free_port, wait_until
from round_table import table_plan
from trust_harness import TrustFederation, make_trust_federation

from ringfence.client.command_line import application
from ringfence.client.federation_client import FederationClient
from ringfence.client.member_settings import load_member_settings, save_member_settings
from ringfence.model.console import run_application
from ringfence.model.errors import (
    ConnectionFailedError,
    DeadlineError,
    NotFoundError,
    PeerError,
    RingfenceError,
    StorageBusyError,
    TooOftenError,
)
from ringfence.model.run_progress import NumberedEvent
from ringfence.model.wire import federation_service_pb2 as wire
from ringfence.model.wire.federation_service_pb2_grpc import FederationServiceStub
from ringfence.model.wire_errors import from_call
from ringfence.server import member_admission
from ringfence.server.members import ActiveMembers, Member
from ringfence.server.run_store import Run, RunStore, SignedPlan, event_now

SENTENCE = "1 refused: budget"


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    made = make_trust_federation(tmp_path)
    # A port that stays: a listener that starts anew is found where it was.
    settings = made.settings.model_copy(update={"release_address": f"127.0.0.1:{free_port()}"})
    return replace(made, settings=settings)


def new_run(federation: TrustFederation, name: str, *, rounds: int = 2, status: str = "running") -> Run:
    run = RunStore.of(federation.home).create(
        name, signed=SignedPlan(plan=table_plan(rounds=rounds), signature=b"s" * 64), initial=np.zeros(4)
    )
    run.update(status=status)
    return run


def add_round(run: Run, round_: int) -> None:
    run.save_round(round_, np.full(4, float(round_)))
    run.add_event(
        event_now("round", round=round_, asked=3, answered=2, refused=1, bytes_sent=30, bytes_received=20)
    )


class Watching:
    """A watch in a thread of its own."""

    def __init__(self, client: FederationClient, run: str, *, after: int = 0, timeout_s: float = 120) -> None:
        self.seen: list[NumberedEvent] = []
        self.error: Exception | None = None
        self._events = client.watch(run, after=after, timeout_s=timeout_s)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for event in self._events:
                self.seen.append(event)
        except RingfenceError as error:
            self.error = error

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.seen) >= count or self.error, what=f"{count} events")

    def end(self) -> list[int]:
        self._thread.join(120)
        assert not self._thread.is_alive()
        return [event.number for event in self.seen]


@pytest.fixture
def serving(federation: TrustFederation) -> Iterator[Callable[[str], FederationClient]]:
    with federation.serving() as address:
        yield lambda name: FederationClient(federation.channel(name, address))


def test_runs_are_listed_newest_first_and_shown_with_their_rounds(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    first, second = new_run(federation, "first", status="completed"), new_run(federation, "second")
    add_round(first, 1)
    add_round(first, 2)
    first.add_event(event_now("completed"))
    client = serving("acme")
    listed = client.list_runs()
    assert [(run.name, run.status, run.rounds_done, run.rounds) for run in listed] == [
        ("second", "running", 0, 2),
        ("first", "completed", 2, 2),
    ]
    assert listed[0].plan_digest == second.signed_plan().plan.digest()
    assert [run.name for run in client.list_runs(limit=1)] == ["second"]
    shown = client.get_run("first")
    assert [(event.number, event.round, event.asked, event.answered) for event in shown.rounds] == [
        (1, 1, 3, 2),
        (2, 2, 3, 2),
    ]
    assert (shown.rounds[0].bytes_sent, shown.rounds[0].bytes_received) == (30, 20)


def test_members_are_not_told_why_anybody_was_left_out(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    """In a federation of three, "1 refused: budget" says whose budget it is."""
    run = new_run(federation, "one", status="failed")
    run.update(reason=f"Round 1: 1 of at least 2 members answered ({SENTENCE}).")
    run.add_event(event_now("round", round=1, answered=2, refused=1, detail=SENTENCE))
    client = serving("acme")
    (listed,) = client.list_runs()
    (shown,) = client.get_run("one").rounds
    (watched,) = client.watch("one", timeout_s=60)
    assert (listed.reason, shown.detail, watched.detail) == ("", "", "")
    assert (shown.refused, watched.refused) == (1, 1)


def test_a_watch_tells_of_each_event_as_it_happens_and_ends_with_the_run(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    run = new_run(federation, "one")
    run.add_event(event_now("started"))
    watching = [Watching(serving(name), "one") for name in ("acme", "beta")]
    for one in watching:
        one.wait_for(1)
    add_round(run, 1)
    for one in watching:
        one.wait_for(2)
    run.add_event(event_now("completed"))
    run.update(status="completed")
    for one in watching:
        assert one.end() == [1, 2, 3]
        assert [event.event for event in one.seen] == ["started", "round", "completed"]


def test_a_watch_goes_on_where_it_was_when_the_coordinator_starts_anew(federation: TrustFederation) -> None:
    run = new_run(federation, "one")
    run.add_event(event_now("started"))
    client = FederationClient(federation.channel("acme", federation.settings.release_address))
    with federation.serving():
        watching = Watching(client, "one")
        watching.wait_for(1)
    add_round(run, 1)
    with federation.serving():
        watching.wait_for(2)
        run.update(status="stopped")
        assert watching.end() == [1, 2]
    assert watching.error is None


def test_a_coordinator_that_stops_ends_its_watches_itself(federation: TrustFederation) -> None:
    """In good order, before the grace for calls under way: nobody's stop waits for who watches."""
    new_run(federation, "one").add_event(event_now("started"))
    with federation.channel("acme", federation.settings.release_address) as channel:
        with federation.serving():
            call = FederationServiceStub(channel).WatchEvents(wire.WatchEventsRequest(run="one"))
            assert next(call).event.number == 1
        assert list(call) == []
        assert call.code() == grpc.StatusCode.OK


def test_a_watch_begins_after_the_event_that_the_caller_has(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    run = new_run(federation, "one", status="stopped")
    for _ in range(3):
        run.add_event(event_now("started"))
    assert [event.number for event in serving("acme").watch("one", after=2, timeout_s=60)] == [3]
    assert list(serving("acme").watch("one", after=3, timeout_s=60)) == []
    for beyond in (4, -1):
        with pytest.raises(PeerError):
            list(serving("acme").watch("one", after=beyond, timeout_s=60))


def test_a_watch_has_the_end_that_its_caller_sets(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    new_run(federation, "one")
    with pytest.raises(DeadlineError):
        list(serving("acme").watch("one", timeout_s=1.0))


@pytest.mark.parametrize("name", ["none", "", "../members", "one/../one", "x" * 5000])
def test_a_run_that_does_not_exist_is_not_found(
    name: str, federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    new_run(federation, "one")
    client = serving("acme")
    with pytest.raises(NotFoundError):
        client.get_run(name)
    with pytest.raises(NotFoundError):
        list(client.watch(name, timeout_s=60))


def test_a_member_that_is_suspended_while_it_watches_is_told_nothing_more(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    run = new_run(federation, "one")
    run.add_event(event_now("started"))
    acme, beta = Watching(serving("acme"), "one"), Watching(serving("beta"), "one")
    acme.wait_for(1)
    beta.wait_for(1)
    federation.registry.suspend("acme")
    # Nothing happens in the run: the stream ends all the same, and the member is not let in again.
    acme.end()
    assert type(acme.error) is ConnectionFailedError
    add_round(run, 1)
    run.update(status="completed")
    assert beta.end() == [1, 2]
    assert len(acme.seen) == 1


def test_one_members_watches_do_not_take_the_others_place(
    federation: TrustFederation, serving: Callable[[str], FederationClient]
) -> None:
    new_run(federation, "one").add_event(event_now("started"))
    with federation.channel("acme", federation.settings.release_address) as channel:
        stub = FederationServiceStub(channel)
        open_calls = [
            stub.WatchEvents(wire.WatchEventsRequest(run="one"))
            for _ in range(member_admission.MOST_OPEN_CALLS)
        ]
        for call in open_calls:
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.WatchEvents(wire.WatchEventsRequest(run="one")))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert serving("beta").list_runs()
        open_calls[0].cancel()
        wait_until(lambda: serving("acme").list_runs(), what="a place is free again")


def test_a_member_that_calls_too_often_is_told_to_wait_and_the_others_are_served(
    federation: TrustFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_admission, "CALLS_AT_ONCE", 5.0)
    monkeypatch.setattr(member_admission, "CALLS_PER_SECOND", 0.001)
    with federation.serving() as address, federation.channel("acme", address) as channel:
        stub = FederationServiceStub(channel)
        for _ in range(5):
            stub.ListRuns(wire.ListRunsRequest(), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListRuns(wire.ListRunsRequest(), timeout=30)
        found = from_call(caught.value)
        assert isinstance(found, TooOftenError)
        assert found.retry_after_s == 60.0  # a thousand seconds, cut to what a client is ever told
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        FederationClient(federation.channel("beta", address)).list_runs()


def test_a_call_is_answered_while_the_database_says_nothing_of_members(
    federation: TrustFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    look = ActiveMembers.by_spiffe_id

    def by_spiffe_id(members: ActiveMembers, spiffe_id: str) -> Member:
        assert answers.wait(120)
        return look(members, spiffe_id)

    monkeypatch.setattr(member_admission, "LONGEST_LOOK_S", 0.3)
    monkeypatch.setattr(ActiveMembers, "by_spiffe_id", by_spiffe_id)
    with federation.serving() as address, federation.channel("acme", address) as channel:
        stub = FederationServiceStub(channel)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListRuns(wire.ListRunsRequest(), timeout=20)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            found = from_call(caught.value)
            assert isinstance(found, StorageBusyError)
            assert found.message == "The coordinator cannot look that up now."
            assert found.hint == "Try again later."
        finally:
            answers.set()
        wait_until(lambda: FederationClient(channel).list_runs() == (), what="it is served again")


def test_a_member_sees_the_runs_by_its_own_commands(
    federation: TrustFederation, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(federation, "one")
    add_round(run, 1)
    run.update(status="completed")
    home = str(federation.members["acme"].root)
    port = federation.settings.release_address
    member = federation.members["acme"]
    member_settings = load_member_settings(member).model_copy(update={"release_address": port})
    save_member_settings(member, settings=member_settings)
    with federation.serving():
        assert run_application(application, ["runs", "list", "--home", home, "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["data"]["runs"]
        assert [(one["name"], one["rounds_done"]) for one in listed] == [("one", 1)]
        assert run_application(application, ["runs", "show", "one", "--home", home]) == 0
        assert "round 1 of 2: 2 members" in capsys.readouterr().out
        assert run_application(application, ["runs", "watch", "one", "--home", home]) == 0
        watched = capsys.readouterr()
        assert "round 1 of 2: 2 members" in watched.err
        assert "Next: ringfence model list" in watched.out
        assert run_application(application, ["runs", "show", "none", "--home", home]) == 1
        new_run(federation, "endless")
        arguments = ["runs", "watch", "endless", "--home", home, "--timeout", "1"]
        assert run_application(application, arguments) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_a_connection_ends_with_its_age_and_the_next_call_makes_another(federation: TrustFederation) -> None:
    """So that nobody stays whom a new handshake would refuse."""
    settings = federation.settings.model_copy(update={"longest_connection_s": 1.0})
    port = int(settings.release_address.rsplit(":", 1)[1])

    def connections() -> set[int]:
        return {
            found.laddr.port
            for found in psutil.Process().net_connections(kind="tcp")
            if found.raddr and found.raddr.port == port and found.status == psutil.CONN_ESTABLISHED
        }

    with replace(federation, settings=settings).serving() as address:
        client = FederationClient(federation.channel("acme", address))
        client.list_runs()
        first = connections()
        assert first
        wait_until(lambda: not first & connections(), what="the connection ends")
        client.list_runs()
        assert connections()
