"""``ringfence data``: look at one's own conversations before anybody trains on them; forget people, and what is old."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import BudgetError, DataError

if TYPE_CHECKING:
    from ringfence.client.data_summary import DataSummary, LabelCounts
    from ringfence.client.erasure import ErasureReport
    from ringfence.client.retention import RetentionReport

application = new_application("data", "Look at the member's own conversations; forget people.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]

_SECRET_BYTES = 32


@application.callback()
def _data() -> None:
    """Look at the member's own conversations; forget people."""


@application.command(epilog="Example: ringfence data check --contribution-bound 2")
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files to check; those of member.toml by default.")
    ] = None,
    contribution_bound: Annotated[
        int, typer.Option("--contribution-bound", min=1, max=64, help="Conversations of one person to use.")
    ] = 2,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count and pass over lines that cannot be read.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count what is there and what the contribution bound keeps. Prints no text and no names, and sends nothing."""
    from ringfence.client.data_summary import summarise
    from ringfence.client.exclusions import load_exclusions
    from ringfence.model.jsonl_reader import SkippedLines, load_conversations

    located = MemberHome.locate(home)
    skipped = SkippedLines() if skip_bad else None
    found = load_conversations(files or _configured_files(located), skipped=skipped)
    conversations = load_exclusions(located).keep(found)
    if not conversations:
        raise DataError(
            "Every conversation holds somebody who was forgotten.",
            hint="Point the member at newer conversations.",
        )
    summary = summarise(conversations, contribution_bound=contribution_bound, secret=_secret(located))
    data: dict[str, object] = asdict(summary)
    if len(found) > len(conversations):
        note(
            f"{len(found) - len(conversations)} conversations hold somebody who was forgotten; they are left out."
        )
    if skipped is not None:
        data["skipped_lines"] = skipped.count
    emit(_text(summary), data=data, as_json=as_json)
    if skipped is not None and skipped.first is not None:
        note(f"{skipped.count} lines were passed over; the first: {skipped.first.message}")
    note("Next: ringfence agent run, to take part in training; these counts stay here.")


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
            hint="Stop the agent, repeat this command, and start the agent again.",
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


def _configured_files(home: MemberHome) -> list[Path]:
    from ringfence.client.member_settings import load_member_settings
    from ringfence.model.errors import ConfigError

    named = load_member_settings(home).data.files
    if not named:
        raise ConfigError(
            f"{home.settings_file} names no conversations.",
            hint='Add: [data] files = ["/path/to/conversations.jsonl"], or name files on the command line.',
        )
    return [home.root / file for file in named]


def _secret(home: MemberHome) -> bytes:
    """Return the secret that training will use; before joining there is none, and any gives much the same counts."""
    from ringfence.client.local_data import contribution_secret

    return contribution_secret(home) if home.settings_file.exists() else os.urandom(_SECRET_BYTES)


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
            f"Removed: {report.caches_removed} feature caches, {report.manifests_removed} manifests, "
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
        f"Removed: {report.caches_removed} feature caches, {report.manifests_removed} manifests, "
        f"{report.payloads_removed} sent answers, {report.answers_withdrawn} unsent answers of people forgotten."
    )
    if report.payloads_waiting:
        text += f"\n{report.payloads_waiting} answers wait for the running agent, which holds the ledger."
    return text


def _text(summary: DataSummary) -> str:
    counts = summary.conversations
    span = f"{summary.first_at} to {summary.last_at}" if summary.first_at else "no times"
    people = (
        f"{summary.participants}; at most {summary.largest_group} in a conversation, "
        f"one person in at most {summary.busiest}"
    )
    rows = [
        ("conversations", f"{counts.total}: {_by_label(counts)}"),
        ("messages", f"{summary.messages}; median {summary.median_length:g}, longest {summary.longest}"),
        ("time", span),
        ("people", people),
        (f"kept at k = {summary.contribution_bound}", f"{summary.kept.total}: {_by_label(summary.kept)}"),
        ("dropped", f"{summary.dropped.total}: {_by_label(summary.dropped)}"),
    ]
    lines = [f"{name:<16} {value}" for name, value in rows]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in summary.warnings)])


def _by_label(counts: LabelCounts) -> str:
    text = f"{counts.positive} positive, {counts.negative} negative"
    return f"{text}, {counts.undecided} undecided" if counts.undecided else text
