"""How the commands about a run end, and what they name next, by how the run stands."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from federation_harness import make_plan

from ringfence.model.console import run_application
from ringfence.server.command_line import application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import Run

SETTINGS = CoordinatorSettings(federation="harness", demonstration=True)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = CoordinatorHome(tmp_path / "coordinator")
    initialise_coordinator(made, settings=SETTINGS, now=datetime.now(UTC))
    return made


@pytest.fixture
def run(home: CoordinatorHome) -> Run:
    """As a coordinator leaves it that dies between making a run and starting it."""
    return Launcher(home=home, settings=SETTINGS).prepare(make_plan(), name="spring")


def typed(
    home: CoordinatorHome, *words: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object], str]:
    code = run_application(application, ["run", *words, "--home", str(home.root), "--json"])
    answered, said = capsys.readouterr()
    return code, json.loads(answered), said


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [("completed", 0, "completed"), ("stopped", 1, "was stopped"), ("failed", 1, "no space")],
)
def test_watching_ends_with_0_only_if_the_run_completed(
    home: CoordinatorHome,
    run: Run,
    status: str,
    code: int,
    word: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run.update(status=status, reason="no space" if status == "failed" else "")
    ended, answer, _ = typed(home, "watch", "spring", capsys=capsys)
    assert ended == code
    assert word in str(answer)
    if code:
        assert "run resume spring" in str(answer["hint"])


def test_a_run_that_was_made_and_never_started_is_told_with_the_command_that_starts_it(
    home: CoordinatorHome, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.record().status == "created"
    code, _, said = typed(home, "watch", "spring", "--timeout", "1", capsys=capsys)
    assert code == 3
    assert "run resume spring" in said
    for words in (["list"], ["show", "spring"]):
        assert run_application(application, ["run", *words, "--home", str(home.root)]) == 0
        assert "run resume spring" in capsys.readouterr().out
    run.update(status="running")
    assert run_application(application, ["run", "list", "--home", str(home.root)]) == 0
    assert "resume" not in capsys.readouterr().out
