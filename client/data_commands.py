"""``ringfence data``: look at one's own conversations before anybody trains on them; forget people, and what is old."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.member_home import MemberHome
from ringfence.client.passing_home import passing_home
from ringfence.model.bounds import RECOMMENDED_BOUNDS, Bounds
from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import BudgetError, ConfigError, DataError

if TYPE_CHECKING:
    from ringfence.client.data_settings import DataSettings
    from ringfence.client.data_summary import DataSummary, LabelCounts
    from ringfence.client.erasure import ErasureReport
    from ringfence.client.retention import RetentionReport
    from ringfence.client.snapshot import Snapshot

application = new_application("data", "Look at the member's own conversations; forget people.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]

_SECRET_BYTES = 32
_LANGUAGES = 6


@application.callback()
def _data() -> None:
    """Look at the member's own conversations; forget people."""


@application.command(epilog="Example: ringfence data check --contribution-bound 2")
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of conversations to check; what member.toml names by default."),
    ] = None,
    contribution_bound: Annotated[
        int, typer.Option("--contribution-bound", min=1, max=64, help="What a person counts for.")
    ] = 2,
    bounds: Annotated[
        Bounds, typer.Option("--bounds", help="How that is kept, as in a plan: greedy, fractional, grouped.")
    ] = RECOMMENDED_BOUNDS,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count and pass over lines that cannot be read.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count what is there and what the contribution bound keeps. Prints no text and no names, and sends nothing.

    Of several files, each is taken for a part that should share nobody with the others, such as training and test.
    """
    from ringfence.client.data_summary import summarise
    from ringfence.client.reading_progress import reading_progress
    from ringfence.client.taking_snapshot import take_snapshot
    from ringfence.model.jsonl_reader import SkippedLines

    located = MemberHome.locate(home)
    skipped = SkippedLines() if skip_bad else None
    with ExitStack() as stack:
        # A look leaves nothing behind: without a member's folder, what is read lies elsewhere meanwhile.
        where = located if located.settings_file.exists() else passing_home(stack, located)
        secret = contribution_secret(located) if where is located else os.urandom(_SECRET_BYTES)
        progress = stack.enter_context(reading_progress())
        snapshot = stack.enter_context(
            take_snapshot(
                where,
                data=chosen_data(files, located),
                labelled_only=False,
                secret=secret,
                skipped=skipped,
                progress=progress,
            )
        )
        if not snapshot:
            raise DataError(
                "Every conversation holds somebody who was forgotten.",
                hint="Point the member at newer conversations.",
            )
        summary = summarise(
            snapshot,
            contribution_bound=contribution_bound,
            bounds=bounds,
            secret=secret,
            part=snapshot.part,
        )
        notes = _found_while_reading(snapshot)
    data: dict[str, object] = asdict(summary)
    if skipped is not None:
        data["skipped_lines"] = skipped.count
    emit(_text(summary), data=data, as_json=as_json)
    for line in notes:
        note(line)
    if skipped is not None and skipped.first is not None:
        note(f"{skipped.count} lines were passed over; the first: {skipped.first.message}")
    note(_next_after_check(summary))


@application.command(name="preview-schema", epilog="Example: ringfence data preview-schema")
def preview_schema(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of conversations to look at; what member.toml names by default."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which columns the data has, of which types, and what each is taken for. Prints no value."""
    from ringfence.client.data_preview import preview

    located = MemberHome.locate(home)
    with ExitStack() as stack:
        where = located if located.settings_file.exists() else passing_home(stack, located)
        columns = preview(where, data=chosen_data(files, located))
    width = max(len(item.column) for item in columns)
    lines = [
        f"{item.source:<9} {item.column:<{width}}  {item.type:<16} {item.meaning}".rstrip()
        for item in columns
    ]
    emit("\n".join(lines), data={"columns": [asdict(item) for item in columns]}, as_json=as_json)
    missing = [item for item in columns if item.missing]
    if missing:
        note(f"{len(missing)} columns that are needed are missing.")
    note("Next: correct [data] of member.toml" if missing else "Next: ringfence data check")


@application.command(epilog="Example: ringfence data forget user-123")
def forget(
    person: Annotated[
        str, typer.Argument(help="The participant's id in the data; - reads it from standard input.")
    ],
    even_if_unknown: Annotated[
        bool, typer.Option("--even-if-unknown", help="Exclude a name of which nothing is found here.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a person from all that was derived from their conversations, and never use them again.

    May be repeated. Exit code 1 if the running agent still has answers to withdraw.
    """
    from ringfence.client.erasure import WHAT_A_MODEL_FORGETS, forget_person

    located = MemberHome.locate(home)
    name = sys.stdin.readline().strip("\r\n") if person == "-" else person
    report = forget_person(located, name, now=time.time(), even_if_unknown=even_if_unknown)
    if report.answers_waiting:
        note(_forgotten_text(report))
        raise BudgetError(
            "The person is excluded, but unsent answers that may hold them wait in the ledger, which the agent has open.",
            hint="It withdraws them before it sends anything more, most often within a minute. Repeat this command to make sure.",
        )
    emit(
        f"{_forgotten_text(report)}\n\n{WHAT_A_MODEL_FORGETS}\nNext: ringfence data check",
        data={**asdict(report), "what_a_model_forgets": WHAT_A_MODEL_FORGETS},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence data expire --json")
def expire(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Remove what is older than the policy's retention times. A running agent does the same every day."""
    from ringfence.client.policy import load_policy
    from ringfence.client.retention import apply_retention

    located = MemberHome.locate(home)
    policy = load_policy(located)
    report = apply_retention(located, policy=policy, now=time.time())
    emit(
        f"{_expired_text(report)}\nNext: ringfence budget verify",
        data={
            **asdict(report),
            "cache_days": policy.retention.cache_days,
            "outbox_days": policy.retention.outbox_days,
        },
        as_json=as_json,
    )


def chosen_data(files: list[Path] | None, home: MemberHome) -> DataSettings:
    """Return the files named on the command line as settings, else those of the member."""
    from ringfence.client.data_settings import DataSettings
    from ringfence.client.member_settings import load_member_settings

    if files:
        return DataSettings(files=tuple(str(file.absolute()) for file in files))
    data = load_member_settings(home).data
    if not data.is_named:
        raise ConfigError(
            f"{home.settings_file} names no conversations.",
            hint='Add: [data] files = ["/path/to/conversations.jsonl"], or name files on the command line.',
        )
    return data


def _next_after_check(summary: DataSummary) -> str:
    kept = summary.kept
    if kept.positive and kept.negative:
        return "Next: ringfence agent run, to take part in training; these counts stay here."
    counts = summary.conversations
    needed = 'a labels query with [data.label_map], or "label": 1 or 0 in files of whole conversations'
    if not counts.positive and not counts.negative:
        return f"Next: give labels, since training uses what people have decided: {needed}."
    missing = [kind for kind in ("positive", "negative") if not getattr(counts, kind)]
    if missing:
        return (
            f"Next: add conversations labelled {missing[0]}, since training learns from both kinds: {needed}."
        )
    return (
        "Next: label more conversations of people who are in few others, since the bound on each person keeps only one kind: "
        "see kept and dropped above."
    )


def _found_while_reading(snapshot: Snapshot) -> list[str]:
    found = []
    if snapshot.excluded:
        found.append(f"{snapshot.excluded} conversations hold somebody who was forgotten; they are left out.")
    if snapshot.contradicting_labels:
        found.append(
            f"{snapshot.contradicting_labels} conversations have newest decisions that contradict each other; they count as "
            "not decided."
        )
    if snapshot.decisions_without_messages:
        found.append(
            f"{snapshot.decisions_without_messages} decided conversations have no message in the data."
        )
    return found


def _forgotten_text(report: ErasureReport) -> str:
    found = report.source_conversations
    rows = [
        "This person was forgotten before; it was done again."
        if report.already_since
        else "This person is forgotten: their name is remembered as a salted hash, to pass them over.",
        "The source cannot be read now; whatever it holds of the person is passed over."
        if found is None
        else f"Passed over from now on: {found} conversations of the source, with all who take part in them.",
        (
            f"Removed: feature rows of {report.rows_removed} conversations, {report.manifests_removed} manifests, "
            f"{report.answers_withdrawn} unsent answers."
        ),
    ]
    if report.epsilon_spent is not None and report.delta is not None:
        rows.append(
            f"What was released until now may reveal of any one person at this member: epsilon {report.epsilon_spent:.2f} "
            f"(PLD, delta {report.delta:g}, if everybody else colludes)."
        )
    return "\n".join(rows)


def _expired_text(report: RetentionReport) -> str:
    text = (
        f"Removed: feature rows of {report.rows_removed} conversations, {report.manifests_removed} manifests, "
        f"{report.payloads_removed} sent answers, {report.answers_withdrawn} unsent answers of people forgotten."
    )
    if report.payloads_waiting:
        text += f"\n{report.payloads_waiting} answers wait for the running agent, which holds the ledger."
    return text


def _text(summary: DataSummary) -> str:
    counts = summary.conversations
    span = " to ".join(dict.fromkeys(at for at in (summary.first_at, summary.last_at) if at)) or "no times"
    people = (
        f"{summary.participants}; median {summary.median_group:g}, at most {summary.largest_group} in a conversation, "
        f"one person in at most {summary.busiest}"
    )
    languages = ", ".join(
        f"{name} {share:.0%}" for name, share in list(summary.languages.items())[:_LANGUAGES]
    )
    kept = f"{summary.kept.total}: {_by_label(summary.kept)}; {summary.bounds}"
    if summary.examples < summary.kept.total:
        kept += f", {summary.examples} examples"
    rows = [
        ("conversations", f"{counts.total}: {_by_label(counts)}"),
        ("messages", f"{summary.messages}; median {summary.median_length:g}, longest {summary.longest}"),
        ("time", span),
        ("people", people),
        ("languages", languages),
        (f"kept at k = {summary.contribution_bound}", kept),
        ("dropped", f"{summary.dropped.total}: {_by_label(summary.dropped)}"),
    ]
    lines = [f"{name:<16} {value}" for name, value in rows]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in summary.warnings)])


def _by_label(counts: LabelCounts) -> str:
    text = f"{counts.positive} positive, {counts.negative} negative"
    return f"{text}, {counts.undecided} undecided" if counts.undecided else text
