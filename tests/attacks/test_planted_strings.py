"""What people wrote stays: strings planted in a member's data are searched in every byte it sends and everything it keeps.

The member is a real one, with its agent's own loop, its worker, its ledger and mutual TLS to a real gateway. The bytes are
taken where HTTP leaves the process.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from federation_harness import Fleet, make_plan
from scripted_coordinator import ScriptedCoordinator

from ringfence.client import worker as worker_module
from ringfence.client.agent import Agent
from ringfence.client.answering import Answering, TrainingWorker
from ringfence.client.audit_against_ledger import verify_departures
from ringfence.client.audit_log import AuditLog, audit_entries, audit_file
from ringfence.client.firewall import Firewall
from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import open_member_ledger
from ringfence.client.member_settings import load_member_settings
from ringfence.client.withdrawals import Withdrawals
from ringfence.client.worker import Worker, WorkerAnswer
from ringfence.model.errors import ConnectionFailedError, DataError
from ringfence.model.evaluation_messages import EvaluateRequest, EvaluateUpdate
from ringfence.model.plan import PrivacyTerms
from ringfence.model.round_messages import (
    Refusal,
    RefusalCode,
    RoundRequest,
    RoundUpdate,
    TrainRequest,
    TrainUpdate,
    action_of,
)
from ringfence.privacy.ledger_terms import LedgerTerms

TEXT, PERSON, CONVERSATION = "cormorant-quilt", "osprey-lantern-7", "bittern-kettle-3"
PLANTED = (TEXT, PERSON, CONVERSATION)
PLAN = make_plan(privacy=PrivacyTerms(noise_multiplier=10.0, evaluation_noise_multiplier=10.0))
Ask = Callable[..., RoundUpdate | Refusal | None]


def disguises(planted: str) -> Iterator[bytes]:
    """Yield the forms in which a string might travel."""
    raw = planted.encode()
    yield from (raw, planted.encode("utf-16-le"), raw.hex().encode(), raw[::-1], raw.upper())
    for shift in range(3):  # base64 of the string at any place in a longer text
        yield base64.b64encode(b"\0" * shift + raw)[4:-4]


def find_planted(content: bytes) -> list[str]:
    return [planted for planted in PLANTED if any(form in content for form in disguises(planted))]


@dataclass
class Sent:
    """Every request that left for the gateway."""

    requests: list[bytes] = field(default_factory=list)

    def content(self) -> bytes:
        return b"\n".join(self.requests)


@pytest.fixture
def sent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Sent:
    taken = Sent()
    send = httpx.Client.send

    def taking(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        if f"{request.url.host}:{request.url.port}" == fleet.address:
            headers = b"\n".join(name + b": " + value for name, value in request.headers.raw)
            taken.requests.append(str(request.url).encode() + b"\n" + headers + b"\n" + request.content)
        return send(client, request, **options)

    monkeypatch.setattr(httpx.Client, "send", taking)
    return taken


def plant(home: MemberHome, *, broken_line: bool = False) -> None:
    """Fill a member's conversations with the planted strings."""
    lines = []
    for index in range(24):
        messages = [
            {"author": f"{PERSON}-{index}", "text": f"hello, it is {TEXT} today"},
            {"author": f"other-{index}", "text": f"{TEXT} {TEXT}, please keep it our secret"},
        ]
        lines.append(json.dumps({"id": f"{CONVERSATION}-{index}", "label": index % 2, "messages": messages}))
    if broken_line:
        lines.insert(3, json.dumps({"id": CONVERSATION, "label": TEXT, "messages": [{"author": PERSON}]}))
    (home.root / "data.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def heads() -> dict[str, bytes]:
    """What a coordinator keeps: the newest signed ledger head of each member."""
    return {}


@pytest.fixture
def ask(fleet: Fleet, heads: dict[str, bytes]) -> Ask:
    """Have a member's agent answer one question, and return what the coordinator got."""

    def asking(
        worker: TrainingWorker, *, member: str = "acme", evaluate: bool = False
    ) -> RoundUpdate | Refusal | None:
        home, stop = fleet.member(member), threading.Event()
        settings = load_member_settings(home)
        with open_member_ledger(
            home,
            terms=LedgerTerms(lineage=settings.data.lineage),
            anchor_file=home.ledger_anchor_file,
            federation=settings.federation,
            now=time.time,
        ) as ledger:
            agent = Agent(
                home,
                settings=settings,
                answering=Answering(
                    settings=settings,
                    worker=worker,
                    ledger=ledger,
                    permit=lambda plan, asked="answer": None,
                    forgetting=Withdrawals(home, owner=ledger),
                ),
                ledger=ledger,
                firewall=Firewall(AuditLog.of(home), destination=settings.fleet_address),
                connect=lambda: fleet.connection(member),
                poll_s=0.05,
            )
            running = threading.Thread(target=agent.run, args=(stop,), daemon=True)
            running.start()
            try:
                with ScriptedCoordinator(fleet.federation) as coordinator:
                    request: RoundRequest = coordinator.request(
                        PLAN, run=f"planted-{time.time_ns()}", known_head=heads.get(member, b"")
                    )
                    if evaluate:
                        names = EvaluateRequest.__dataclass_fields__
                        request = EvaluateRequest(**{name: getattr(request, name) for name in names})
                    coordinator.ask(fleet.nodes[member], request, action=action_of(request))
                    (arrival,) = coordinator.collect(timeout_s=90)
            finally:
                stop.set()
                running.join(30)
        if arrival.answer is not None and not isinstance(arrival.answer, Refusal):
            heads[member] = arrival.answer.ledger_head
        return arrival.answer

    return asking


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def kept(home: MemberHome) -> bytes:
    """Return everything under a member's folder but its own conversations and the file names."""
    files = [path for path in home.root.rglob("*") if path.is_file() and path.name != "data.jsonl"]
    assert {"audit.jsonl", "ledger.db"} <= {path.name for path in files}
    return b"\n".join(path.read_bytes() for path in files)


def assert_nothing_planted(
    fleet: Fleet, sent: Sent, logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = capfd.readouterr()
    places = {
        "sent": sent.content(),
        "logged": logged.text.encode(),
        "printed": f"{printed.out}{printed.err}".encode(),
        "kept": kept(fleet.member("acme")),
        "the coordinator's log": fleet.processes.log("fleet").encode(),
    }
    assert {place: found for place, content in places.items() if (found := find_planted(content))} == {}
    verify_departures(fleet.member("acme"))


def test_the_search_finds_what_is_there() -> None:
    for planted in PLANTED:
        for form in disguises(planted):
            assert find_planted(b"\x00before " + form + b" after\xff") == [planted]
    assert find_planted(base64.b64encode(f"someone said {TEXT}!".encode())) == [TEXT]


def test_nothing_that_people_wrote_leaves_with_an_honest_answer(
    fleet: Fleet, ask: Ask, sent: Sent, logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(fleet.member("acme"))
    with Worker(fleet.member("acme")) as worker:
        answer = ask(worker)
    assert isinstance(answer, TrainUpdate)
    assert answer.update.tobytes() in sent.content()  # the bytes were taken where they leave
    assert_nothing_planted(fleet, sent, logged, capfd)
    *_, newest = audit_entries(audit_file(fleet.member("acme")))
    assert (newest.kind, newest.size_bytes) == ("train-update", 8 * 109)


def test_nothing_that_people_wrote_leaves_with_an_evaluation(
    fleet: Fleet, ask: Ask, sent: Sent, logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(fleet.member("acme"))
    with Worker(fleet.member("acme")) as worker:
        answer = ask(worker, evaluate=True)
    assert isinstance(answer, EvaluateUpdate)
    assert answer.histogram.tobytes() in sent.content()
    assert_nothing_planted(fleet, sent, logged, capfd)
    *_, newest = audit_entries(audit_file(fleet.member("acme")))
    assert (newest.kind, newest.round) == ("evaluate-update", 0)


def test_a_line_that_cannot_be_read_leaves_as_a_code(
    fleet: Fleet, ask: Ask, sent: Sent, logged: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(fleet.member("acme"), broken_line=True)
    with Worker(fleet.member("acme")) as worker:
        assert ask(worker) == Refusal(RefusalCode.NO_DATA)
    assert_nothing_planted(fleet, sent, logged, capfd)


class InThisProcess:
    """The worker's own way of answering around a trainer of the test's, without a child process."""

    def __init__(self, train: Callable[[TrainRequest], Any]) -> None:
        self._train = train

    def answer(self, request: TrainRequest, *, timeout_s: float = 0.0) -> Any:
        if timeout_s:
            return worker_module._answer(self, request)  # type: ignore[arg-type]
        return self._train(request)


def raises(error: Exception) -> Callable[[TrainRequest], Any]:
    def train(request: TrainRequest) -> Any:
        raise error

    return train


def an_error_of_numpy(request: TrainRequest) -> Any:
    return np.array([f"{TEXT}"]).astype(np.float64)


def an_error_with_a_cause(request: TrainRequest) -> Any:
    try:
        raise KeyError(PERSON)
    except KeyError as error:
        raise RuntimeError(f"cannot train on {TEXT}") from error


@pytest.mark.parametrize(
    ("train", "code"),
    [
        pytest.param(raises(ValueError(TEXT)), RefusalCode.FAILED, id="an exception with text"),
        pytest.param(raises(UnicodeDecodeError("utf-8", TEXT.encode(), 0, 1, PERSON)), RefusalCode.FAILED, id="unicode"),
        pytest.param(raises(MemoryError(TEXT)), RefusalCode.FAILED, id="memory"),
        pytest.param(raises(AssertionError(f"{TEXT} != {PERSON}")), RefusalCode.FAILED, id="an assertion"),
        pytest.param(an_error_of_numpy, RefusalCode.FAILED, id="a library that quotes its input"),
        pytest.param(an_error_with_a_cause, RefusalCode.FAILED, id="a chain of errors"),
        pytest.param(lambda request: TEXT, RefusalCode.FAILED, id="text in place of an answer"),
    ],
)  # fmt: skip
def test_a_defect_of_the_trainer_leaves_as_a_code(
    fleet: Fleet,
    ask: Ask,
    sent: Sent,
    logged: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    train: Callable[[TrainRequest], Any],
    code: RefusalCode,
) -> None:
    assert ask(InThisProcess(train)) == Refusal(code)
    assert_nothing_planted(fleet, sent, logged, capfd)


@pytest.mark.parametrize("words", [TEXT, f"it is {TEXT} today"], ids=["a word", "a sentence"])
def test_a_worker_that_puts_text_into_an_answer_is_stopped_before_the_wire(
    ask: Ask, sent: Sent, logged: pytest.LogCaptureFixture, words: str
) -> None:
    """The worker's answer is of the right class, with words where a name and numbers should be."""

    class Careless:
        def answer(self, request: TrainRequest, *, timeout_s: float) -> WorkerAnswer:
            update = TrainUpdate(words, "0" * 64, 1, 1, np.zeros(109, dtype=np.int64))
            return WorkerAnswer(update, dataset_digest="0" * 64)

    assert ask(Careless(), member="gamma") == Refusal(RefusalCode.FAILED)
    assert find_planted(sent.content()) == []
    assert TEXT not in logged.text


def test_an_answer_does_not_follow_the_coordinator_elsewhere(fleet: Fleet) -> None:
    asked: list[str] = []

    def redirecting(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url.host))
        return httpx.Response(307, headers={"location": "http://elsewhere.example/v1/fleet/pull-messages"})

    with fleet.connection("acme") as connection:
        inner = connection._client._client
        connection._client._client = httpx.Client(
            transport=httpx.MockTransport(redirecting), follow_redirects=inner.follow_redirects
        )
        try:
            with pytest.raises(ConnectionFailedError):
                connection.receive()
        finally:
            connection._client._client = inner
    # As often as it asks (its heartbeat asks too), it asks its own coordinator.
    assert set(asked) == {"127.0.0.1"}


def test_errors_of_data_name_a_place_and_no_words(fleet: Fleet) -> None:
    """What the log of a refusal is made of."""
    from ringfence.client.local_data import load_labelled

    home = fleet.member("acme")
    plant(home, broken_line=True)
    with pytest.raises(DataError) as error:
        load_labelled(home, load_member_settings(home))
    assert find_planted(f"{error.value.message} {error.value.hint}".encode()) == []
