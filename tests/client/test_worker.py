"""The worker trains without a network; whatever befalls it leaves as a code, and the next request starts another."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from federation_harness import make_federation, make_plan
from worker_targets import (
    confine_as_an_ordinary_user,
    die_of_it,
    hang,
    make_rows_for_long,
    make_rows_too_long,
    opened,
    reach,
    sleep_then_answer,
)

from ringfence.client import worker as worker_module
from ringfence.client.member_home import MemberHome
from ringfence.client.rows_progress import RowsLog, RowsMade
from ringfence.client.worker import Worker, WorkerAnswer, _answer
from ringfence.model.errors import DataError, PolicyError
from ringfence.model.round_messages import Refusal, RefusalCode, TrainRequest, TrainUpdate
from ringfence.server.signing_keys import load_coordinator_key

PLANTED = "planted-words-of-a-conversation"


@pytest.fixture(scope="module")
def home_and_request(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemberHome, TrainRequest]:
    federation = make_federation(tmp_path_factory.mktemp("worker"), members=("acme",))
    plan = make_plan().canonical_json()
    signature = load_coordinator_key(federation.coordinator, name="plan").sign(plan)
    return federation.members["acme"], TrainRequest("run", plan, signature, 1, 1, np.zeros(109))


@pytest.fixture
def worker(home_and_request: tuple[MemberHome, TrainRequest]) -> Iterator[Worker]:
    with Worker(home_and_request[0]) as made:
        yield made


@pytest.fixture
def request_(home_and_request: tuple[MemberHome, TrainRequest]) -> TrainRequest:
    return home_and_request[1]


def failed(answer: WorkerAnswer) -> bool:
    return answer.answer == Refusal(RefusalCode.FAILED)


def test_the_worker_answers_stays_warm_and_ends_with_its_agent(
    worker: Worker, request_: TrainRequest
) -> None:
    first = worker.answer(request_, timeout_s=120)
    assert isinstance(first.answer, TrainUpdate), first.reason
    process = worker.process_id
    again = worker.answer(request_, timeout_s=120)
    assert isinstance(again.answer, TrainUpdate)
    assert worker.process_id == process
    # Two trainings have two noises: that one question gets one answer is for the ledger to see to.
    assert not np.array_equal(first.answer.update, again.answer.update)
    assert process is not None
    child = psutil.Process(process)
    worker.__exit__(None, None, None)
    assert not child.is_running()


def test_a_worker_that_is_killed_over_a_request_is_replaced_and_the_request_is_answered(
    worker: Worker, request_: TrainRequest
) -> None:
    assert isinstance(worker.answer(request_, timeout_s=120).answer, TrainUpdate)
    first = worker.process_id
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    killer = threading.Timer(0.5, os.kill, (first, signal.SIGKILL))
    killer.start()
    assert isinstance(worker.answer(request_, timeout_s=120).answer, TrainUpdate)
    killer.join()
    assert worker.process_id != first


def test_a_request_that_kills_every_worker_is_answered_with_a_code(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_serve", die_of_it)
    assert failed(worker.answer(request_, timeout_s=60))
    monkeypatch.undo()
    assert isinstance(worker.answer(request_, timeout_s=120).answer, TrainUpdate)


def test_a_worker_that_hangs_is_ended_and_leaves_a_code(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_serve", hang)
    answer = worker.answer(request_, timeout_s=0.5)
    assert failed(answer)
    assert "did not answer within" in answer.reason
    assert worker.process_id is None


def test_how_far_the_making_of_rows_is_stands_in_the_agents_log(
    worker: Worker,
    request_: TrainRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker_module, "_serve", make_rows_for_long)
    monkeypatch.setattr("ringfence.client.rows_progress._FIRST_AFTER_S", 0.0)
    with caplog.at_level(logging.INFO, logger="ringfence.agent"):
        assert worker.answer(request_, timeout_s=60).reason == "made"
    assert [record.message.partition(",")[0] for record in caplog.records] == ["making feature rows: 25%"]


def test_the_real_worker_tells_how_many_rows_it_made(
    home_and_request: tuple[MemberHome, TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request_ = home_and_request
    for path in home.cache.glob("rows-*"):
        path.unlink()
    told: list[RowsMade] = []

    class Telling(RowsLog):
        def line(self, made: RowsMade, *, now: float) -> str | None:
            told.append(made)
            return super().line(made, now=now)

    monkeypatch.setattr(worker_module, "RowsLog", Telling)
    with Worker(home) as worker:
        assert isinstance(worker.answer(request_, timeout_s=120).answer, TrainUpdate)
    assert told == [RowsMade(24, 24)]


def test_a_late_answer_is_never_taken_for_the_next_question(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_serve", sleep_then_answer)
    assert failed(worker.answer(request_, timeout_s=0.5))
    monkeypatch.undo()
    answer = worker.answer(request_, timeout_s=120).answer
    assert isinstance(answer, TrainUpdate), "the real worker's, not what the first one had in the pipe"


def test_the_worker_reaches_no_network_not_even_this_machine(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # the agent's process does reach it
        listener.accept()[0].close()
        listener.settimeout(2)
        monkeypatch.setenv("RINGFENCE_TEST_PORT", str(port))
        monkeypatch.setattr(worker_module, "_serve", reach)
        answer = worker.answer(request_, timeout_s=60)
        assert answer.reason.startswith("cut off: "), answer.reason
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("threads", [None, "4"])
def test_the_worker_has_one_thread_when_it_leaves_the_network_so_that_it_need_not_be_root(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch, threads: str | None
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(worker_module, "_serve", confine_as_an_ordinary_user)
    reason = worker.answer(request_, timeout_s=60).reason
    assert reason.startswith("threads: 1, "), reason
    if _user_namespaces_are_allowed():
        assert reason == "threads: 1, left: True"


def _user_namespaces_are_allowed() -> bool:
    done = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    return done.returncode == 0


def test_no_connection_of_the_agent_is_open_in_the_worker(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        monkeypatch.setattr(worker_module, "_serve", opened)
        answer = worker.answer(request_, timeout_s=60)
    assert answer.reason == "sockets: 1", "the pipe to the agent is the only one"


class _Trainer:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def answer(self, request: TrainRequest) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(PLANTED), RefusalCode.FAILED),
        (KeyError(PLANTED), RefusalCode.FAILED),
        (UnicodeDecodeError("utf-8", PLANTED.encode(), 0, 1, PLANTED), RefusalCode.FAILED),
        (MemoryError(PLANTED), RefusalCode.FAILED),
        (RecursionError(PLANTED), RefusalCode.FAILED),
        (PolicyError("The policy says no."), RefusalCode.POLICY),
        (DataError("Line 3 is not JSON."), RefusalCode.NO_DATA),
    ],
)
def test_an_error_leaves_the_worker_as_a_code_without_its_words(
    request_: TrainRequest, error: Exception, code: RefusalCode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = _answer(_Trainer(error), request_)  # type: ignore[arg-type]
    assert answer.answer == Refusal(code)
    assert PLANTED not in repr(answer) + caplog.text


def test_a_worker_whose_data_is_damaged_answers_with_a_code(tmp_path: Path, request_: TrainRequest) -> None:
    federation = make_federation(tmp_path, members=("acme",))
    home = federation.members["acme"]
    (home.root / "data.jsonl").write_text('{"id": "1", "label": 1, "messages": "' + PLANTED + '"}\n')
    plan = make_plan().canonical_json()
    signature = load_coordinator_key(federation.coordinator, name="plan").sign(plan)
    with Worker(home) as worker:
        answer = worker.answer(TrainRequest("run", plan, signature, 1, 1, np.zeros(109)), timeout_s=120)
    assert answer.answer == Refusal(RefusalCode.NO_DATA)
    assert "line 1" in answer.reason
    assert PLANTED not in answer.reason


def test_an_answer_under_way_is_dropped_once_the_agent_stops_and_its_grace_is_over(
    home_and_request: tuple[MemberHome, TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request_ = home_and_request
    monkeypatch.setattr(worker_module, "_serve", hang)
    stop, beats = threading.Event(), list[int]()
    with Worker(home, stop=stop, alive=lambda: (beats.append(1), stop.set())[0], grace_s=0.0) as worker:
        answer = worker.answer(request_, timeout_s=100)
    assert answer.answer == Refusal(RefusalCode.BUSY)
    assert "dropped" in answer.reason
    assert len(beats) in (1, 2)


def test_a_worker_that_tells_how_far_it_is_is_dropped_all_the_same_once_the_agent_stops(
    home_and_request: tuple[MemberHome, TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request_ = home_and_request
    monkeypatch.setattr(worker_module, "_serve", make_rows_too_long)
    stop, beats = threading.Event(), list[float]()

    def alive() -> None:
        beats.append(time.monotonic())
        if len(beats) == 4:
            stop.set()

    with Worker(home, stop=stop, alive=alive, grace_s=1.0) as worker:
        answer = worker.answer(request_, timeout_s=100)
    assert answer.answer == Refusal(RefusalCode.BUSY)
    assert min(after - before for before, after in itertools.pairwise(beats)) >= 0.9


def test_a_worker_that_tells_how_far_it_is_has_no_more_time_for_its_answer(
    worker: Worker, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_serve", make_rows_too_long)
    answer = worker.answer(request_, timeout_s=5.0)
    assert failed(answer)
    assert "did not answer within" in answer.reason
    assert worker.process_id is None


def test_an_answer_that_comes_within_the_grace_of_a_stop_is_kept(
    home_and_request: tuple[MemberHome, TrainRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request_ = home_and_request
    monkeypatch.setattr(worker_module, "_serve", sleep_then_answer)
    stop = threading.Event()
    stop.set()
    with Worker(home, stop=stop, grace_s=120) as worker:
        assert worker.answer(request_, timeout_s=100) == WorkerAnswer(Refusal(RefusalCode.POLICY), "late")
