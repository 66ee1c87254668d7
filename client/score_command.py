"""``ringfence score``: score conversations with a release. Needs neither torch nor Flower; text is never printed."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.client.score_lines import (
    EXPLAINED,
    explanation_of,
    header,
    queued_json,
    queued_text,
    score_json,
    score_text,
)
from ringfence.model.console import JsonOption, note

if TYPE_CHECKING:
    from ringfence.model.conversation import Conversation
    from ringfence.model.detector import Detector, Score
    from ringfence.model.errors import DataError
    from ringfence.model.review_capacity import QueueThreshold

_BATCH = 64


def score(
    source: Annotated[
        str, typer.Argument(help="A .jsonl or .jsonl.gz file of conversations, or - for standard input.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", help="A release folder; the member's release in use by default.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Print only the N highest scores, highest first.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Name author, stage and share in the score of the messages that matter; of each one with --json.",
        ),
    ] = False,
    all_messages: Annotated[
        bool, typer.Option("--all-messages", help="With --explain: print each message, whatever it does.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count and pass over lines that cannot be read.")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help='Lines are messages, {"conversation", "author", "text", "time"?}: score after each one.',
        ),
    ] = False,
    most_conversations: Annotated[
        int,
        typer.Option(
            "--most-conversations", min=1, help="With --stream: held at once, about 3 kB each; the oldest go."
        ),
    ] = 100_000,
    capacity: Annotated[
        str | None,
        typer.Option(
            "--capacity", help="Print what reviewers have time for, as 50/day, by a threshold that is kept."
        ),
    ] = None,
    new_threshold: Annotated[
        bool,
        typer.Option(
            "--new-threshold",
            help="With --capacity: choose the threshold anew, on the newest 7 days with conversations.",
        ),
    ] = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score conversations, one a line; scores come as they are computed.

    With --json each score is one JSON object on its own line, so that a stream stays a stream. A line that cannot be read
    ends the command with exit code 4 after the scores of the lines before it, unless --skip-bad is given.
    """
    from ringfence.client.local_calibration import calibrated
    from ringfence.client.personal_head import personalised
    from ringfence.client.score_stream import score_stream
    from ringfence.model.detector import Detector
    from ringfence.model.errors import ConfigError
    from ringfence.model.jsonl_reader import STANDARD_INPUT, SkippedLines, read_conversations
    from ringfence.model.language import LanguageWatch
    from ringfence.model.review_capacity import parse_capacity

    if all_messages and not explain:
        raise ConfigError("Only an explanation names messages.", hint="Add --explain to --all-messages.")
    located = MemberHome.locate(home)
    folder = model if model is not None else _release_in_use(located)
    released = Detector.load(folder)
    detector = calibrated(personalised(released, located), located)
    if detector.digest() != released.digest():
        note("This company's own head scores: see ringfence model personalise --help")
    if stream:
        if top is not None or explain or capacity is not None:
            raise ConfigError(
                "A stream of messages has no highest scores, no explanation and no queue.",
                hint="Leave out --top, --explain and --capacity, or score whole conversations.",
            )
        count = score_stream(detector, source, skip_bad=skip_bad, most=most_conversations, as_json=as_json)
        _verdict(count, folder, detector)
        note("Next: ringfence score --top 10 --explain FILE, to see which messages raise a score.")
        return
    if capacity is not None and (top is not None or explain):
        raise ConfigError(
            "A review queue is neither a number of highest scores nor an explanation.",
            hint="Leave out --top and --explain; the queue's last line says how to explain what it holds.",
        )
    if new_threshold and capacity is None:
        raise ConfigError(
            "There is no threshold without a capacity.", hint="Add --capacity, as --capacity 50/day."
        )
    skipped = SkippedLines() if skip_bad else None
    # Encoding many at once is faster; a stream that a person or a service feeds must not wait for the next line.
    together = 1 if source == STANDARD_INPUT else _BATCH
    watched = LanguageWatch(read_conversations(source, skipped=skipped))
    lines: Iterator[str]
    if capacity is not None:
        per_day = parse_capacity(capacity)
        lines = _queue(
            detector,
            iter(watched),
            home=located,
            per_day=per_day,
            choose_anew=new_threshold,
            as_json=as_json,
        )
    else:
        scored = _scored(detector, iter(watched), together=together)
        # Memory grows with N, never with the file; only what is printed is explained.
        chosen = scored if top is None else heapq.nlargest(top, scored, key=lambda pair: pair[1].logit)
        explained = (
            (found, explanation_of(detector, conversation) if explain else None)
            for conversation, found in chosen
        )
        lines = (
            score_json(*pair) if as_json else score_text(*pair, all_messages=all_messages)
            for pair in explained
        )
    printed = 0
    if not as_json:
        typer.echo(header(with_day=capacity is not None))
    for line in lines:
        typer.echo(line)
        printed += 1
    _verdict(printed, folder, detector)
    if watched.warning() is not None:
        note(f"warning: {watched.warning()}")
    if skipped is not None and skipped.first is not None:
        note(f"{skipped.count} lines were passed over; the first: {skipped.first.message}")
    if explain:
        note(EXPLAINED)
    else:
        # What a queue flags are the highest scores of its file.
        count = max(1, printed) if capacity is not None else 10
        note(
            f"Next: ringfence score --top {count} --explain FILE, to see which messages raise or lower a score."
        )


def _verdict(count: int, folder: Path, detector: Detector) -> None:
    note(
        f"{count} {'score' if count == 1 else 'scores'} by {folder.resolve().name}. A score is a reason for a person to look, "
        "never a verdict."
    )
    note(f"Calibration of the probability: {detector.calibration.origin}.")


def _release_in_use(home: MemberHome) -> Path:
    from ringfence.client.releases import ReleaseStore

    return ReleaseStore(home).verified_current()


def _queue(
    detector: Detector,
    conversations: Iterator[Conversation],
    *,
    home: MemberHome,
    per_day: float,
    choose_anew: bool,
    as_json: bool,
) -> Iterator[str]:
    from ringfence.client.review_queue import review

    found = review(
        detector,
        _scored(detector, conversations, together=_BATCH),
        home=home,
        per_day=per_day,
        today=datetime.now(tz=UTC).date(),
        choose_anew=choose_anew,
    )
    yield from ((queued_json if as_json else queued_text)(item.score, item.day) for item in found.flagged)
    threshold = found.threshold
    if threshold is None:
        note(
            f"All {found.scored} conversations: there is time for every one that was scored so far, and a threshold that flags "
            "everything would say nothing about later days. None is kept yet; score a longer span to have one chosen."
        )
        return
    note(
        f"{len(found.flagged)} of {found.scored} conversations score {threshold.score:+.2f} or more, the threshold for "
        f"{threshold.per_day:g} a day; {'just chosen' if found.is_new else 'chosen'} on "
        f"{_days(threshold, of=threshold.days)} up to "
        f"{threshold.last_day}."
    )
    if found.recent is not None:
        note(
            f"On the newest {_days(threshold, of=found.recent.days, kind='complete ')} {found.recent.per_day:.1f} a day were "
            f"flagged; there is time for {threshold.per_day:g}."
        )
    if found.drift is not None:
        note(
            f"warning: {found.drift.found_per_day:.1f} a day were flagged on the newest {found.drift.days} days, where "
            f"{found.drift.expected_per_day:.1f} were expected: the conversations changed, or the release no longer fits them."
        )
        note("  fix: ringfence model evaluate, then --new-threshold if the scores still order well.")
    elif found.recent is not None and found.recent.is_over:
        note(
            "warning: more was flagged lately than there is time for, and chance alone seldom brings so much."
        )
        note(
            "  fix: --new-threshold chooses on the newest days; or give --capacity what there is time for now."
        )


def _days(threshold: QueueThreshold, *, of: int, kind: str = "") -> str:
    which = "" if threshold.idle_days_count else " with conversations"
    return f"{of} {kind}{'day' if of == 1 else 'days'}{which}"


def _scored(
    detector: Detector, conversations: Iterator[Conversation], *, together: int
) -> Iterator[tuple[Conversation, Score]]:
    for held, failure in _batches(conversations, together):
        yield from zip(held, detector.score_together(held), strict=True)
        if failure is not None:
            raise failure


def _batches(
    conversations: Iterator[Conversation], size: int
) -> Iterator[tuple[list[Conversation], DataError | None]]:
    """Yield conversations in batches; a bad line comes with the conversations before it, so that none goes unscored."""
    from ringfence.model.errors import DataError

    while True:
        held: list[Conversation] = []
        failure: DataError | None = None
        try:
            for conversation in itertools.islice(conversations, size):
                held.append(conversation)  # one by one: what was read before a bad line stays
        except DataError as error:
            failure = error
        if not held and failure is None:
            return
        yield held, failure
