"""Runs are started and stopped by more than one process: what an operator decided last holds, and is told with its change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from federation_harness import make_plan

from ringfence.model.errors import ConfigError, PeerError
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import Run

SETTINGS = CoordinatorSettings(federation="harness", demonstration=True)


@dataclass
class RefusingControl:
    """Flower's Control API, which starts nothing."""

    meanwhile: Callable[[], object] = lambda: None

    def node_ids(self) -> dict[bytes, int]:
        return {}

    def start_run(self, run: str) -> int:
        self.meanwhile()
        raise PeerError("Flower starts nothing.")


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> RefusingControl:
    made = RefusingControl()
    monkeypatch.setattr(Launcher, "control", lambda self: made)
    return made


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    home = CoordinatorHome(tmp_path / "coordinator")
    initialise_coordinator(home, settings=SETTINGS, now=datetime.now(UTC))
    return Launcher(home=home, settings=SETTINGS)


def history(run: Run) -> list[str]:
    return [event.event for event in run.events()]


def dies(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_could_not_be_started_fails_with_its_reason_in_its_history(
    launcher: Launcher, control: RefusingControl
) -> None:
    with pytest.raises(PeerError):
        launcher.launch(launcher.sign(make_plan()), name="spring")
    run = launcher.runs.open("spring")
    assert (run.record().status, run.record().reason) == ("failed", "Flower starts nothing.")
    assert history(run) == ["started", "failed"]
    assert run.events()[-1].detail == "Flower starts nothing."


def test_a_run_that_is_stopped_while_flower_refuses_it_stays_stopped(
    launcher: Launcher, control: RefusingControl
) -> None:
    control.meanwhile = lambda: launcher.stop(launcher.runs.open("spring"))
    with pytest.raises(PeerError):
        launcher.launch(launcher.sign(make_plan()), name="spring")
    run = launcher.runs.open("spring")
    assert (run.record().status, run.record().reason) == ("stopped", "")
    assert history(run) == ["started", "stopped"]


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("running", lambda launcher, run: launcher.stop(run)),
        ("running", lambda launcher, run: launcher.give_up(run, reason="it stopped again and again")),
        ("created", lambda launcher, run: launcher.start(run)),
    ],
    ids=["stop", "give up", "start"],
)
def test_a_change_stands_with_its_line_of_history_or_not_at_all(
    launcher: Launcher,
    control: RefusingControl,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    change: Callable[[Launcher, Run], object],
) -> None:
    run = launcher.prepare(make_plan(), name="spring")
    run.update(status=before)
    with monkeypatch.context() as crashed:
        crashed.setattr(Run, "add_event", dies)
        with pytest.raises(KeyboardInterrupt):
            change(launcher, run)
    assert (run.record().status, history(run)) == (before, [])


def test_a_run_that_completes_while_it_is_stopped_stays_completed(
    launcher: Launcher, control: RefusingControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launcher.prepare(make_plan(), name="spring")
    run.update(status="running")
    read = Run.record

    def completes_after_it_is_read(self: Run) -> object:
        record = read(self)
        monkeypatch.setattr(Run, "record", read)
        run.update(status="completed")
        return record

    monkeypatch.setattr(Run, "record", completes_after_it_is_read)
    with pytest.raises(ConfigError, match="has ended: completed"):
        launcher.stop(run)
    assert (run.record().status, history(run)) == ("completed", [])


def test_a_run_that_is_started_while_it_is_stopped_is_stopped(
    launcher: Launcher, control: RefusingControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launcher.prepare(make_plan(), name="spring")
    read = Run.record

    def starts_after_it_is_read(self: Run) -> object:
        record = read(self)
        monkeypatch.setattr(Run, "record", read)
        run.update(status="running")
        return record

    monkeypatch.setattr(Run, "record", starts_after_it_is_read)
    launcher.stop(run)
    assert (run.record().status, history(run)) == ("stopped", ["stopped"])
