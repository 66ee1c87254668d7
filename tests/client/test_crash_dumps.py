"""Whatever sees conversations leaves no dump of its memory when it crashes: the worker, the reader, and the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dump_targets import read_and_look, serve_and_look

from ringfence.client import reading_process
from ringfence.client import worker as worker_module
from ringfence.client.member_home import MemberHome
from ringfence.client.reading_process import Reading
from ringfence.client.worker import Worker
from ringfence.model.round_messages import TrainRequest

NO_DUMP = "core (0, 0), dumpable 0"
HARNESS = Path(__file__).resolve().parents[1] / "harness"


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return MemberHome(tmp_path).create()


def test_the_worker_leaves_no_dump(home: MemberHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_serve", serve_and_look)
    with Worker(home) as worker:
        answer = worker.answer(TrainRequest("run", b"", b"", 1, 1, np.zeros(1)), timeout_s=120)
    assert answer.reason == NO_DUMP


def test_the_reader_leaves_no_dump(home: MemberHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "_serve", read_and_look)
    with Reading(home) as reading:
        assert reading.taken().reason == NO_DUMP


def test_the_commands_leave_no_dump() -> None:
    """Those that read text among them: data check, score, data forget."""
    code = (
        "from dump_targets import allow_dumps, dumps_of_this_process\n"
        "from ringfence.client import command_line\n"
        "command_line.run_application = lambda application: print(dumps_of_this_process()) or 0\n"
        "allow_dumps()\n"
        "print(dumps_of_this_process())\n"
        "command_line.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HARNESS,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before.endswith("dumpable 1")
    assert after == NO_DUMP
