"""A run's folder holds a run whatever died: whole files, one worker, names that are names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from round_table import table_plan

from ringfence.model.errors import ConfigError, RingfenceError
from ringfence.server.run_store import Run, RunStore, SignedPlan, event_now, events_as_json

SIGNED = SignedPlan(plan=table_plan(), signature=bytes(range(64)))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path / "runs").create("tiny-1", signed=SIGNED, initial=np.arange(3.0))


def test_what_was_put_down_is_read_back(run: Run, tmp_path: Path) -> None:
    run.save_round(1, np.array([0.1, -0.0, 1e300]))
    run.update(status="running", flower_run_id=2**64 - 1)
    again = RunStore(tmp_path / "runs").open("tiny-1")
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
    store = RunStore(tmp_path / "runs")
    with pytest.raises(ConfigError):
        store.create(name, signed=SIGNED, initial=np.zeros(1))
    with pytest.raises(ConfigError):
        store.open(name)
    assert not (tmp_path / "other").exists()


def test_a_name_is_given_once(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already"):
        RunStore(tmp_path / "runs").create("tiny-1", signed=SIGNED, initial=np.zeros(3))


def test_a_run_that_was_never_complete_is_not_listed_and_not_opened(run: Run, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    half = tmp_path / "runs" / "half"
    half.mkdir()
    (half / "plan.json").write_bytes(b"{}")
    assert [one.name for one in store.all()] == ["tiny-1"]
    with pytest.raises(ConfigError, match="no run half"):
        store.open("half")


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    for number, name in enumerate(["b", "a", "c"]):
        made = store.create(name, signed=SIGNED, initial=np.zeros(1))
        os.utime(made.folder / "plan.sig", ns=(0, number))
    assert [one.name for one in store.all()] == ["b", "a", "c"]
    assert RunStore(tmp_path / "nothing").all() == []


@pytest.mark.parametrize(
    ("file", "content", "use"),
    [
        ("record.json", b"{", Run.record),
        ("record.json", b'{"status": "won"}', Run.record),
        ("record.json", b'{"status": "running", "extra": 1}', Run.record),
        ("plan.json", b"{}", Run.signed_plan),
        ("plan.json", b"\xff", Run.signed_plan),
        ("round-000000.safetensors", b"", Run.history),
        ("round-000000.safetensors", b"\xff" * 100, Run.history),
    ],
)
def test_a_damaged_file_is_named_and_refused(
    run: Run, file: str, content: bytes, use: Callable[[Run], object]
) -> None:
    (run.folder / file).write_bytes(content)
    with pytest.raises(ConfigError):
        use(run)


def test_a_missing_round_in_the_middle_is_refused(run: Run) -> None:
    run.save_round(2, np.zeros(3))
    with pytest.raises(ConfigError, match="missing"):
        run.history()


def test_a_half_written_file_never_takes_the_place_of_a_whole_one(run: Run) -> None:
    """Whatever is left of a write that died has another name, and is not a checkpoint."""
    (run.folder / ".round-000001.safetensors.tmp").write_bytes(b"half")
    (run.folder / "round-000001.safetensors.part").write_bytes(b"half")
    assert len(run.history()) == 1


def test_a_history_line_that_a_crash_cut_short_is_left_out(run: Run) -> None:
    run.add_event(event_now("started"))
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"at": "2030-01-01T00')
    assert [event.event for event in run.events()] == ["started"]


def test_history_goes_on_after_a_line_that_was_cut_short(run: Run) -> None:
    run.add_event(event_now("started"))
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"at": "2030-01-01T00')
    run.add_event(event_now("resumed", round=1))
    run.add_event(event_now("completed"))
    assert [event.event for event in run.events()] == ["started", "resumed", "completed"]
    assert [event.event for event in run.events(after=2)] == ["completed"]


def test_following_yields_each_event_once(run: Run) -> None:
    run.add_event(event_now("started"))
    run.add_event(event_now("round", round=1, answered=3, seconds=0.5))
    assert [event.event for event in run.events(after=1)] == ["round"]
    assert run.events(after=2) == []
    assert events_as_json(run.events())[1]["answered"] == 3


def test_a_run_has_one_worker(run: Run) -> None:
    assert not run.has_worker()
    with run.work():
        assert run.has_worker()
        with pytest.raises(RingfenceError, match="Another process"), Run(run.folder).work():
            pass
    assert not run.has_worker()


def test_a_killed_workers_lock_is_free(run: Run) -> None:
    program = (
        "import pathlib, signal, sys; from ringfence.server.run_store import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).work():\n"
        "    print('works', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, run.folder], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"works\n"
            assert run.has_worker()
        finally:
            process.kill()
    assert not run.has_worker()


def test_nothing_of_a_run_is_readable_by_others(run: Run) -> None:
    run.add_event(event_now("started"))
    with run.work():
        pass
    assert run.folder.stat().st_mode & 0o077 == 0
