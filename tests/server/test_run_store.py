"""A run is kept whatever dies: each change whole or not at all, one worker, names that are names; on both databases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from databases import run_store
from federation_harness import wait_until
from round_table import table_plan
from sqlalchemy import select

from ringfence.model.errors import ConfigError, RingfenceError, StorageError
from ringfence.server.artifacts import ArtifactStore
from ringfence.server.database import Database
from ringfence.server.run_store import Run, RunStore, SignedPlan, event_now, events_as_json
from ringfence.server.tables import run_checkpoints, runs

SIGNED = SignedPlan(plan=table_plan(), signature=bytes(range(64)))


@pytest.fixture
def store(database: Database, tmp_path: Path) -> RunStore:
    return RunStore(database, artifacts=ArtifactStore(tmp_path / "artifacts"))


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create("tiny-1", signed=SIGNED, initial=np.arange(3.0))


def test_what_was_put_down_is_read_back(run: Run, store: RunStore) -> None:
    run.save_round(1, np.array([0.1, -0.0, 1e300]))
    run.update(status="running", flower_run_id=2**64 - 1)
    again = store.open("tiny-1")
    assert again.signed_plan() == SIGNED
    assert [one.tobytes() for one in again.history()] == [
        np.arange(3.0).tobytes(),
        np.array([0.1, -0.0, 1e300]).tobytes(),
    ]
    assert (again.record().status, again.record().flower_run_id) == ("running", 2**64 - 1)
    assert again.rounds_done() == 1


@pytest.mark.parametrize(
    "name", ["", "..", "../other", "a/b", "Upper", "-dash", ".hidden", "a" * 64, "name\n", "ä"]
)
def test_only_names_are_names(tmp_path: Path, name: str) -> None:
    store = run_store(tmp_path / "home")
    with pytest.raises(ConfigError):
        store.create(name, signed=SIGNED, initial=np.zeros(1))
    with pytest.raises(ConfigError):
        store.open(name)
    assert store.all() == []


def test_a_name_is_given_once(run: Run, store: RunStore) -> None:
    with pytest.raises(ConfigError, match="already"):
        store.create("tiny-1", signed=SIGNED, initial=np.zeros(3))
    assert run.history()[0].tolist() == [0.0, 1.0, 2.0]


def test_runs_are_listed_oldest_first(store: RunStore) -> None:
    for name in ["b", "a", "c"]:
        store.create(name, signed=SIGNED, initial=np.zeros(1))
    assert [one.name for one in store.all()] == ["b", "a", "c"]


def test_a_round_is_kept_with_its_contributors_and_its_event_or_not_at_all(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "add_event", dies)
    with pytest.raises(KeyboardInterrupt):
        run.save_round(1, np.ones(3), contributors={"acme": 256}, event=event_now("round", round=1))
    monkeypatch.undo()
    assert (run.rounds_done(), run.contributors(), run.events()) == (0, {}, [])
    run.save_round(1, np.ones(3), contributors={"acme": 256}, event=event_now("round", round=1))
    run.save_round(2, np.ones(3), contributors={"acme": 256, "beta": 512})
    assert (run.rounds_done(), run.contributors()) == (2, {"acme": 256, "beta": 512})
    assert [event.round for event in run.events()] == [1]


def test_a_change_is_kept_with_its_event_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run.update_while("running", status="failed", event=event_now("failed"))
    assert (run.record().status, run.events()) == ("created", [])

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as crashed:
        crashed.setattr(Run, "add_event", dies)
        with pytest.raises(KeyboardInterrupt):
            run.update_while("created", status="running", event=event_now("started"))
    assert (run.record().status, run.events()) == ("created", [])
    assert run.update_while("created", status="running", event=event_now("started"))
    assert (run.record().status, [event.event for event in run.events()]) == ("running", ["started"])


def test_a_worker_that_lost_its_claim_cannot_change_a_round_that_others_went_on_from(run: Run) -> None:
    run.save_round(1, np.ones(3))
    run.save_round(1, np.ones(3))
    with pytest.raises(RingfenceError, match="Another process kept another model of round 1"):
        run.save_round(1, np.zeros(3), contributors={"late": 1})
    assert run.history()[1].tolist() == [1.0, 1.0, 1.0]
    assert run.contributors() == {}


@pytest.mark.parametrize("content", [b"{}", b"\xff"])
def test_a_damaged_plan_is_refused(run: Run, database: Database, content: bytes) -> None:
    with database.transaction() as connection:
        connection.execute(runs.update().values(plan=content))
    with pytest.raises(ConfigError):
        run.signed_plan()


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None])
def test_a_damaged_or_missing_model_is_named_and_refused(
    run: Run, tmp_path: Path, database: Database, content: bytes | None
) -> None:
    with database.reading() as connection:
        digest = connection.scalar(select(run_checkpoints.c.artifact))
    path = tmp_path / "artifacts" / str(digest)[:2] / str(digest)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=f"artifact {str(digest)[:12]} is (damaged|missing)"):
        run.history()


def test_a_missing_round_in_the_middle_is_refused(run: Run) -> None:
    run.save_round(2, np.zeros(3))
    with pytest.raises(ConfigError, match="missing"):
        run.history()


def test_following_yields_each_event_once(run: Run) -> None:
    run.add_event(event_now("started"))
    run.add_event(event_now("round", round=1, answered=3, seconds=0.5))
    assert [event.event for event in run.events(after=1)] == ["round"]
    assert run.events(after=2) == []
    assert events_as_json(run.events())[1]["answered"] == 3


def test_events_of_two_runs_do_not_mix(run: Run, store: RunStore) -> None:
    other = store.create("other", signed=SIGNED, initial=np.zeros(1))
    run.add_event(event_now("started"))
    other.add_event(event_now("failed"))
    run.add_event(event_now("completed"))
    assert [event.event for event in run.events()] == ["started", "completed"]
    assert [event.event for event in other.events()] == ["failed"]


def test_a_document_is_replaced_whole(run: Run) -> None:
    assert run.read_document("evaluation.json") is None
    run.write_document("evaluation.json", b"one")
    run.write_document("evaluation.json", b"two")
    assert run.read_document("evaluation.json") == b"two"


def test_a_run_has_one_worker_and_looking_takes_nothing(run: Run, store: RunStore) -> None:
    other = store.create("other", signed=SIGNED, initial=np.zeros(1))
    assert not run.has_worker()
    with run.work():
        assert run.has_worker()
        assert not other.has_worker()
        with pytest.raises(RingfenceError, match="Another process works on run tiny-1"), run.work():
            pass
        assert run.has_worker()
        with other.work():
            assert other.has_worker()
    assert not run.has_worker()
    with run.work():
        pass


_WORKS = """
import pathlib, signal, sys
from ringfence.server.artifacts import ArtifactStore
from ringfence.server.database import Database
from ringfence.server.run_store import RunStore
store = RunStore(Database(sys.argv[1]), artifacts=ArtifactStore(pathlib.Path(sys.argv[2])))
with store.open("tiny-1").work():
    print("works", flush=True)
    signal.pause()
"""


def test_a_killed_workers_claim_is_free(run: Run, database: Database, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WORKS, database.url.render_as_string(hide_password=False)]
    with subprocess.Popen([*command, str(tmp_path / "artifacts")], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"works\n"
            assert run.has_worker()
            with pytest.raises(RingfenceError, match="Another process"), run.work():
                pass
        finally:
            process.kill()
    wait_until(lambda: not run.has_worker(), what="the claim is free")
    with run.work():
        pass


def test_nothing_of_a_run_is_readable_by_others(tmp_path: Path) -> None:
    run = run_store(tmp_path / "home").create("tiny-1", signed=SIGNED, initial=np.zeros(3))
    run.add_event(event_now("started"))
    with run.work():
        found = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        assert len(found) >= 3
        for path in found:
            assert path.stat().st_mode & 0o077 == 0, path
