"""The worker has no network: a database is read by a third process, which hands over one snapshot and ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from data_homes import ChatDatabase, at, chat_database
from federation_harness import make_federation, make_plan
from worker_targets import (
    FETCHED,
    fetch_for_ever,
    fetch_for_ever_and_never_stop,
    read_and_hang,
    read_and_look_around,
)

from ringfence.client import reading_process
from ringfence.client import worker as worker_module
from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings, save_member_settings
from ringfence.client.reading_process import Reading
from ringfence.client.snapshot import Snapshot
from ringfence.client.worker import Worker
from ringfence.model.round_messages import Refusal, RefusalCode, TrainRequest, TrainUpdate
from ringfence.server.signing_keys import load_coordinator_key

PLANTED = "the blue heron waits"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_federation(tmp_path_factory.mktemp("reading"), members=("acme",))


@pytest.fixture
def request_(federation: Any) -> TrainRequest:
    plan = make_plan().canonical_json()
    signature = load_coordinator_key(federation.coordinator, name="plan").sign(plan)
    return TrainRequest("run", plan, signature, 1, 1, np.zeros(109))


@pytest.fixture(params=["postgresql", "sqlite"])
def database(
    request: pytest.FixtureRequest, federation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ChatDatabase]:
    with chat_database(request.param, tmp_path) as made:
        for number in range(30):
            made.say(
                (f"c{number}", 1, f"a{number}", at(number), f"{PLANTED} {number}"),
                (f"c{number}", 2, f"b{number}", at(number + 1), "an answer"),
            )
            made.decide((f"c{number}", "ban" if number % 2 else "no_violation", at(59)))
        monkeypatch.setenv("CHAT_DB_URL", made.url)
        home = federation.members["acme"]
        settings = load_member_settings(home, environment={})
        save_member_settings(home, settings=settings.model_copy(update={"data": made.settings()}))
        yield made
        save_member_settings(home, settings=settings)


@pytest.fixture
def home(federation: Any) -> MemberHome:
    found: MemberHome = federation.members["acme"]
    return found


def test_a_round_is_answered_from_a_database_and_no_text_stays_on_disk(
    home: MemberHome, database: ChatDatabase, request_: TrainRequest
) -> None:
    with Worker(home) as worker:
        answer = worker.answer(request_, timeout_s=240)
        assert isinstance(answer.answer, TrainUpdate), answer.reason
        assert len(answer.dataset_digest) == 64
        assert list(home.snapshots.iterdir()) == []
        kept = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
        assert PLANTED.encode() not in kept
        process = psutil.Process(worker.process_id)
        assert not [child for child in process.children() if child.is_running()]
        # The next round is computed from the same rows: what was added meanwhile is for the next plan.
        database.say(("c0", 9, "a0", at(40), "later"))
        again = worker.answer(request_, timeout_s=240)
        assert again.dataset_digest == answer.dataset_digest


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_that_is_down_leaves_as_a_code_and_the_reason_stays_here(
    home: MemberHome, database: ChatDatabase, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_DB_URL", "postgresql://user:sesame@127.0.0.1:1/test")
    with Worker(home) as worker:
        answer = worker.answer(request_, timeout_s=240)
        assert answer.answer == Refusal(RefusalCode.NO_DATA)
        assert "could not be asked" in answer.reason
        assert "sesame" not in answer.reason
        # When it is back, the same worker answers: its environment is the agent's at the time of reading.
        monkeypatch.setenv("CHAT_DB_URL", database.url)
        assert isinstance(worker.answer(request_, timeout_s=240).answer, TrainUpdate)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_reader_that_is_killed_leaves_a_code_and_no_file(
    home: MemberHome, database: ChatDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "_serve", read_and_hang)
    with Reading(home) as reading:
        (child,) = [each for each in multiprocessing.active_children() if each.name == "ringfence-reader"]
        assert child.pid is not None
        _wait_until(lambda: [path for path in home.snapshots.iterdir() if path.stat().st_size])
        os.kill(child.pid, signal.SIGKILL)
        assert reading.pipe.poll(120)
        assert reading.taken().path is None
    assert list(home.snapshots.iterdir()) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_reader_that_takes_too_long_is_ended_with_the_worker(
    home: MemberHome, database: ChatDatabase, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "_serve", read_and_hang)
    with Worker(home) as worker:
        assert worker.answer(request_, timeout_s=20).answer == Refusal(RefusalCode.FAILED)
        assert not [each for each in multiprocessing.active_children() if each.name == "ringfence-reader"]
        assert list(home.snapshots.iterdir()) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_reader_knows_nothing_of_the_run_and_holds_no_connection_to_the_coordinator(
    home: MemberHome, database: ChatDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "_serve", read_and_look_around)
    with Reading(home) as reading:
        assert reading.pipe.poll(120)
        said = json.loads(reading.taken().reason)
    assert said == {"sockets": 1, "torch": False, "flwr": False, "dumpable": 0}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_handed_over_is_private_and_opened_once(home: MemberHome, database: ChatDatabase) -> None:
    with Reading(home) as reading:
        assert reading.pipe.poll(120)
        path = reading.taken().opened_path()
    assert path.stat().st_mode & 0o077 == 0
    with Snapshot(path) as snapshot:
        assert len(snapshot) == 30
        assert not path.exists()


def test_files_on_this_machine_are_read_by_the_worker_itself(
    home: MemberHome, request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: object) -> object:
        raise AssertionError("a reader was started")

    monkeypatch.setattr(worker_module, "Reading", unwanted)
    with Worker(home) as worker:
        assert isinstance(worker.answer(request_, timeout_s=240).answer, TrainUpdate)


@pytest.fixture
def far_files(home: MemberHome) -> Iterator[None]:
    settings = load_member_settings(home, environment={})
    data = DataSettings(files=("endless://far/chats.jsonl",))
    save_member_settings(home, settings=settings.model_copy(update={"data": data}))
    yield
    save_member_settings(home, settings=settings)


def _copies(home: MemberHome) -> list[Path]:
    return [path for path in home.snapshots.glob("fetched-*/**/*") if path.is_file() and path.stat().st_size]


@pytest.mark.usefixtures("far_files")
def test_a_reader_that_is_stopped_while_it_fetches_leaves_no_copy(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "_serve", fetch_for_ever)
    with Reading(home) as reading:
        _wait_until(lambda: _copies(home))
        (copy,) = _copies(home)
        assert copy.read_bytes().startswith(FETCHED)
        assert copy.stat().st_mode & 0o077 == 0, "the copy is private from its first byte on"
        (child,) = [each for each in multiprocessing.active_children() if each.name == "ringfence-reader"]
        child.terminate()
        child.join(60)
        assert child.exitcode == 0
        assert not list(home.snapshots.glob("fetched-*"))
        assert reading.taken().path is None
    assert list(home.snapshots.iterdir()) == []


@pytest.mark.usefixtures("far_files")
def test_a_reader_that_has_to_be_killed_leaves_no_copy_either(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "_serve", fetch_for_ever_and_never_stop)
    monkeypatch.setattr(reading_process, "_STOP_S", 0.5)
    with Reading(home):
        _wait_until(lambda: _copies(home))
    assert list(home.snapshots.iterdir()) == []


def _wait_until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
