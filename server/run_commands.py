"""``ringfence-coordinator run``: launch training runs and follow them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConnectionFailedError, DeadlineError, RingfenceError
from ringfence.server.coordinator_home import CoordinatorHome

if TYPE_CHECKING:
    from ringfence.model.run_progress import NumberedEvent
    from ringfence.server.run_launch import Launcher
    from ringfence.server.run_store import Run

application = new_application("run", "Launch training runs and follow them.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The coordinator's folder.", envvar="RINGFENCE_COORDINATOR_HOME")
]
RunArgument = Annotated[str, typer.Argument(help="Name of the run.")]
_POLL_S = 0.2
_INTERRUPTED = 130
_RESUMED = ("created", "failed", "stopped")


@application.command(epilog="Example: ringfence-coordinator run start plan.toml --wait")
def start(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    home: HomeOption = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run; else the plan's and a number.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end; exit code 1 unless it completes.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait at most.")] = 86_400.0,
    as_json: JsonOption = False,
) -> None:
    """Sign a plan and start a run with it."""
    from ringfence.model.plan import load_plan
    from ringfence.server.admin_client import open_admin

    launcher = _launcher(home)
    agreed = load_plan(plan)
    launcher.check(agreed)
    signed = launcher.sign(agreed)
    with open_admin(launcher.home) as admin:
        started = admin.start_run(signed, name=name)
    run = launcher.runs.open(started.name)
    if wait:
        _follow(run, timeout_s=timeout, as_json=as_json)
    _show_end(run, as_json=as_json, waited=wait)


@application.command("list", epilog="Example: ringfence-coordinator run list --json")
def list_runs(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List every run."""
    from ringfence.server.run_store import RunStore

    rows = [_summary(run) for run in RunStore.of(_home(home)).all()]
    lines = [f"{row['run']:<32} {row['status']:<10} round {row['round']} of {row['rounds']}" for row in rows]
    emit(
        "\n".join([*lines, _next_of_list(rows)]),
        data={"runs": rows},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator run show grooming-risk-1")
def show(run: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show where one run stands and what happened in it."""
    from ringfence.model.run_progress import event_line
    from ringfence.server.run_feed import numbered
    from ringfence.server.run_store import RunStore, events_as_json

    found = RunStore.of(_home(home)).open(run)
    summary = _summary(found)
    events = found.events()
    lines = [f"{key:<8} {value}" for key, value in summary.items() if value != ""]
    rounds = found.signed_plan().plan.training.rounds
    lines += ["", *(event_line(event, rounds=rounds) for event in numbered(events))]
    lines += [f"Next: ringfence-coordinator {_following(summary)}"]
    emit("\n".join(lines), data={**summary, "events": events_as_json(events)}, as_json=as_json)


@application.command(epilog="Example: ringfence-coordinator run watch grooming-risk-1 --timeout 3600")
def watch(
    run: RunArgument,
    home: HomeOption = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to watch at most.")] = 86_400.0,
    as_json: JsonOption = False,
) -> None:
    """Follow a run until it ends: one line an event. Exit code 1 unless it completes: if it failed or was stopped."""
    from ringfence.server.run_store import RunStore

    found = RunStore.of(_home(home)).open(run)
    if found.record().status == "created":
        note(
            f"The run {run} is created and not started. If that stays so, the coordinator died in between: "
            f"ringfence-coordinator run resume {run}"
        )
    _follow(found, timeout_s=timeout, as_json=as_json)
    _show_end(found, as_json=as_json, waited=True)


@application.command(epilog="Example: ringfence-coordinator run stop grooming-risk-1")
def stop(run: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop a run; what it reached stays, and it can be resumed."""
    from ringfence.server.admin_client import open_admin
    from ringfence.server.run_store import RunStore

    launcher = _launcher(home)
    found = RunStore.of(launcher.home, settings=launcher.settings).open(run)
    try:
        with open_admin(launcher.home, patience_s=0.0) as admin:
            admin.stop_run(run)
    except ConnectionFailedError:
        launcher.stop(found)  # nobody serves: what is recorded decides when somebody does again
    emit(
        f"The run {run} is stopped.\nNext, to go on: ringfence-coordinator run resume {run}",
        data=_summary(found),
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator run resume grooming-risk-1")
def resume(run: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Go on with a run that stopped or failed, from the last model on disk."""
    from ringfence.server.admin_client import open_admin
    from ringfence.server.run_store import RunStore

    located = _home(home)
    found = RunStore.of(located).open(run)
    with open_admin(located) as admin:
        admin.resume_run(run)
    emit(
        f"The run {run} goes on from round {_summary(found)['round']}.\nNext: ringfence-coordinator run watch {run}",
        data=_summary(found),
        as_json=as_json,
    )


def _home(home: Path | None) -> CoordinatorHome:
    return CoordinatorHome.locate(home)


def _launcher(home: Path | None) -> Launcher:
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.run_launch import Launcher

    located = _home(home)
    return Launcher(home=located, settings=load_coordinator_settings(located))


def _summary(run: Run) -> dict[str, str | int]:
    record = run.record()
    return {
        "run": run.name,
        "status": record.status,
        "round": run.rounds_done(),
        "rounds": run.signed_plan().plan.training.rounds,
        "reason": record.reason,
    }


def _follow(run: Run, *, timeout_s: float, as_json: bool) -> None:
    from ringfence.model.run_progress import event_line

    rounds = run.signed_plan().plan.training.rounds
    try:
        for event in _events(run, timeout_s=timeout_s):
            if not as_json:
                note(event_line(event, rounds=rounds))
    except KeyboardInterrupt as interruption:
        note(f"No longer watched; the run goes on. Next: ringfence-coordinator run watch {run.name}")
        raise typer.Exit(_INTERRUPTED) from interruption


def _events(run: Run, *, timeout_s: float) -> Iterator[NumberedEvent]:
    from ringfence.model.run_progress import UNDER_WAY
    from ringfence.server.run_feed import numbered

    seen = 0
    deadline = time.monotonic() + timeout_s
    while True:
        # The record first: events that come after it is read are yielded in the next turn.
        ended = run.record().status not in UNDER_WAY
        events = numbered(run.events(after=seen), after=seen)
        seen += len(events)
        yield from events
        if ended:
            return
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"The run {run.name} has not ended within {timeout_s:.0f} s; it goes on.",
                hint=f"Follow it: ringfence-coordinator run watch {run.name}",
            )
        time.sleep(_POLL_S)


def _show_end(run: Run, *, as_json: bool, waited: bool) -> None:
    summary = _summary(run)
    if waited and summary["status"] == "stopped":
        raise RingfenceError(
            f"The run {run.name} was stopped after round {summary['round']} of {summary['rounds']}.",
            hint=f"To go on: ringfence-coordinator run resume {run.name}",
        )
    if waited and summary["status"] != "completed":
        raise RingfenceError(
            f"The run {run.name} {summary['status']}: {summary['reason']}",
            hint=f"Mend it, then: ringfence-coordinator run resume {run.name}",
        )
    emit(
        f"The run {run.name} is {summary['status']}.\nNext: ringfence-coordinator {_following(summary)}",
        data=summary,
        as_json=as_json,
    )


def _following(summary: dict[str, str | int]) -> str:
    """Return what to do next about a run."""
    if summary["status"] == "completed":
        return f"release candidate {summary['run']} --version 0.1.0"
    # One that was created and never started is carried out by nobody until somebody says so.
    return f"run {'resume' if summary['status'] in _RESUMED else 'watch'} {summary['run']}"


def _next_of_list(rows: list[dict[str, str | int]]) -> str:
    if not rows:
        return "No runs yet.\nNext: ringfence-coordinator run start PLAN"
    never_started = [row["run"] for row in rows if row["status"] == "created"]
    if never_started:
        return f"Next, for what was created and not started: ringfence-coordinator run resume {never_started[-1]}"
    return f"Next: ringfence-coordinator run show {rows[-1]['run']}"
