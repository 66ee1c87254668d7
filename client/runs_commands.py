"""``ringfence runs``: the federation's training runs, as the coordinator tells every member of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note

if TYPE_CHECKING:
    from ringfence.client.federation_client import FederationClient
    from ringfence.model.run_progress import NumberedEvent, RunSummary

application = new_application("runs", "See how the federation's training runs come along.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
RunArgument = Annotated[str, typer.Argument(help="Name of the run.")]
_INTERRUPTED = 130


@application.command("list", epilog="Example: ringfence runs list --limit 5")
def list_runs(
    home: HomeOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest runs, newest first."""
    with _client(home) as client:
        runs = client.list_runs(limit=limit)
    lines = [
        f"{run.name:<32} {run.status:<10} round {run.rounds_done} of {run.rounds}  {run.purpose}"
        for run in runs
    ]
    following = f"ringfence runs show {runs[0].name}" if runs else "ringfence agent run"
    emit(
        "\n".join([*(lines or ["No runs yet."]), f"Next: {following}"]),
        data={"runs": [asdict(run) for run in runs]},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence runs show grooming-risk-1")
def show(run: RunArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show where one run stands, with its finished rounds."""
    from ringfence.model.run_progress import event_line

    with _client(home) as client:
        found = client.get_run(run)
    summary = found.summary
    lines = [
        f"{summary.name} is {summary.status}: round {summary.rounds_done} of {summary.rounds}",
        *(event_line(event, rounds=summary.rounds) for event in found.rounds),
        f"Next: {_following(summary)}",
    ]
    data = {**asdict(summary), "events": [_event_data(event) for event in found.rounds]}
    emit("\n".join(lines), data=data, as_json=as_json)


@application.command(epilog="Example: ringfence runs watch grooming-risk-1 --timeout 3600")
def watch(
    run: RunArgument,
    home: HomeOption = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to watch at most.")] = 86_400.0,
    as_json: JsonOption = False,
) -> None:
    """Follow a run until it ends: one line an event. Goes on by itself when the connection breaks."""
    from ringfence.model.run_progress import event_line

    with _client(home) as client:
        rounds = client.get_run(run).summary.rounds
        try:
            for event in client.watch(run, timeout_s=timeout):
                if not as_json:
                    note(event_line(event, rounds=rounds))
        except KeyboardInterrupt as interruption:
            note(f"No longer watched; the run goes on. Next: ringfence runs watch {run}")
            raise typer.Exit(_INTERRUPTED) from interruption
        summary = client.get_run(run).summary
    emit(
        f"The run {run} is {summary.status}.\nNext: {_following(summary)}",
        data=asdict(summary),
        as_json=as_json,
    )


def _following(summary: RunSummary) -> str:
    if not summary.has_ended:
        return f"ringfence runs watch {summary.name}"
    return "ringfence model list" if summary.status == "completed" else "ringfence runs list"


def _event_data(event: NumberedEvent) -> dict[str, object]:
    return {**asdict(event), "at": event.at.isoformat()}


@contextmanager
def _client(home: Path | None) -> Iterator[FederationClient]:
    from ringfence.client.coordinator_connection import open_release_channel
    from ringfence.client.federation_client import FederationClient

    with open_release_channel(MemberHome.locate(home)) as channel:
        yield FederationClient(channel)
