"""Members whose question for work is held: they get it when it is there, and nobody is kept from stopping."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from federation_harness import Fleet, Processes, make_federation, make_plan, wait_until
from scripted_coordinator import ScriptedCoordinator

from ringfence.client.flower_adapter import FleetConnection, FleetTask
from ringfence.model.errors import ConnectionFailedError, PeerError

HELD_S = 1.0


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("fleet")
    federation = make_federation(root, conversations=2)
    with Processes(root / "logs") as processes:
        processes.start_fleet(federation)
        yield Fleet(federation, processes, federation.register())


@dataclass
class Question:
    """One question for work, asked on a thread."""

    connection: FleetConnection
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: list[FleetTask | Exception | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self.outcome.append(self.connection.receive(stop=self.stop))
        except PeerError as error:
            self.outcome.append(error)

    def is_held(self) -> bool:
        """Return whether no answer has come for a while: a coordinator that does not hold answers at once."""
        self._thread.join(HELD_S)
        return self._thread.is_alive()

    def answer(self) -> FleetTask | Exception | None:
        self._thread.join(120)
        assert self.outcome, "the question was answered"
        return self.outcome[0]


def test_a_member_that_waits_is_answered_as_soon_as_it_is_asked_something(fleet: Fleet) -> None:
    with ScriptedCoordinator(fleet.federation) as coordinator, fleet.connection("acme") as acme:
        waiting = Question(acme)
        assert waiting.is_held()
        coordinator.ask(fleet.nodes["beta"], coordinator.request(make_plan()))
        assert waiting.is_held(), "a message for another member is none for this one"
        coordinator.ask(fleet.nodes["acme"], coordinator.request(make_plan()))
        answer = waiting.answer()
        assert isinstance(answer, FleetTask), answer
        assert answer.run_id == coordinator.run_id


def test_a_member_that_is_suspended_while_it_waits_gets_nothing_more(fleet: Fleet) -> None:
    with ScriptedCoordinator(fleet.federation) as coordinator, fleet.connection("acme") as acme:
        waiting = Question(acme)
        assert waiting.is_held()
        fleet.federation.registry.suspend("acme")
        coordinator.ask(fleet.nodes["acme"], coordinator.request(make_plan()))
        assert waiting.answer() is None
        with pytest.raises(ConnectionFailedError):
            acme.receive()


def test_a_member_that_stops_while_it_waits_leaves_nothing_behind(fleet: Fleet) -> None:
    with fleet.connection("acme") as acme:
        waiting = Question(acme)
        assert waiting.is_held()
        waiting.stop.set()
        assert waiting.answer() is None
    wait_until(
        lambda: not any(each.name == "held-question" for each in threading.enumerate()),
        what="the coordinator let go of the question",
        timeout_s=15,
    )
    with fleet.connection("acme") as acme:
        assert acme.receive() is None


def test_a_coordinator_that_is_told_to_stop_answers_those_who_wait(fleet: Fleet) -> None:
    process = fleet.processes.running["fleet"]
    with fleet.connection("acme") as acme, fleet.connection("beta") as beta:
        questions = [Question(acme), Question(beta)]
        assert all(question.is_held() for question in questions)
        process.send_signal(signal.SIGTERM)
        # Answered with nothing, or not reached any more: in no case left to wait.
        for question in questions:
            answer = question.answer()
            assert answer is None or isinstance(answer, ConnectionFailedError)
        assert process.wait(60) == 0
    log = fleet.processes.log("fleet")
    assert "Traceback" not in log
    assert re.search(r"Cancel [1-9]", log) is None, "uvicorn cancels what does not end in time"
