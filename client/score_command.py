"""``ringfence score``: score conversations with a release. Needs neither torch nor Flower; text is never printed."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, note

if TYPE_CHECKING:
    from ringfence.model.conversation import Conversation
    from ringfence.model.detector import Detector, Score
    from ringfence.model.errors import DataError
    from ringfence.model.explanation import MessageShare
    from ringfence.model.running_score import RunningScore

_BATCH = 64
_EXPLAINED_MESSAGES = 5
_SPARKLINE_WIDTH = 60
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class _Line:
    score: Score
    messages: tuple[MessageShare, ...] | None
    timeline: tuple[RunningScore, ...] = ()


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
        bool, typer.Option("--explain", help="Name the stage of each message and its share in the score.")
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
        bool, typer.Option("--new-threshold", help="With --capacity: choose the threshold anew.")
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
        _verdict(count, folder)
        note("Next: ringfence score --top 10 --explain FILE, to see which messages raise a score.")
        return
    if capacity is not None and (top is not None or explain):
        raise ConfigError(
            "A review queue is neither a number of highest scores nor an explanation.",
            hint="Leave out --top and --explain; explain single conversations afterwards.",
        )
    skipped = SkippedLines() if skip_bad else None
    # Encoding many at once is faster; a stream that a person or a service feeds must not wait for the next line.
    together = 1 if source == STANDARD_INPUT else _BATCH
    watched = LanguageWatch(read_conversations(source, skipped=skipped))
    chosen: Iterable[_Line]
    if capacity is not None:
        per_day = parse_capacity(capacity)
        chosen = _queue(detector, iter(watched), home=located, per_day=per_day, choose_anew=new_threshold)
    else:
        lines = _lines(detector, iter(watched), together=together, explain=explain)
        chosen = lines if top is None else _highest(lines, top)
    printed = 0
    if not as_json:
        typer.echo(f"{'probability':>11}  {'score':>8}  conversation")
    for line in chosen:
        typer.echo(_json(line) if as_json else _text(line))
        printed += 1
    _verdict(printed, folder)
    if watched.warning() is not None:
        note(f"warning: {watched.warning()}")
    if skipped is not None and skipped.first is not None:
        note(f"{skipped.count} lines were passed over; the first: {skipped.first.message}")
    if not explain:
        note("Next: ringfence score --top 10 --explain FILE, to see which messages raise a score.")


def _verdict(count: int, folder: Path) -> None:
    note(
        f"{count} scores by {folder.resolve().name}. A score is a reason for a person to look, never a verdict."
    )


def _release_in_use(home: MemberHome) -> Path:
    from ringfence.client.releases import ReleaseStore

    return ReleaseStore(home).verified_current()


def _lines(
    detector: Detector, conversations: Iterator[Conversation], *, together: int, explain: bool
) -> Iterator[_Line]:
    from ringfence.model.explanation import explain as explanation_of
    from ringfence.model.running_score import timeline

    for held, failure in _batches(conversations, together):
        for conversation, found in zip(held, detector.score_together(held), strict=True):
            if explain:
                yield _Line(found, explanation_of(detector, conversation), timeline(detector, conversation))
            else:
                yield _Line(found, None)
        if failure is not None:
            raise failure


def _queue(
    detector: Detector,
    conversations: Iterator[Conversation],
    *,
    home: MemberHome,
    per_day: float,
    choose_anew: bool,
) -> Iterator[_Line]:
    from ringfence.client.review_queue import review

    found = review(
        detector,
        _with_scores(detector, conversations),
        home=home,
        per_day=per_day,
        today=datetime.now(tz=UTC).date(),
        choose_anew=choose_anew,
    )
    yield from (_Line(score, None) for score in found.flagged)
    threshold = found.threshold
    if threshold is None:
        note(
            f"All {found.scored} conversations: there is time for every one that was scored so far, and a threshold that flags "
            "everything would say nothing about later days. None is kept yet; score a longer span to have one chosen."
        )
        return
    note(
        f"{len(found.flagged)} of {found.scored} conversations score {threshold.score:+.2f} or more, the threshold for "
        f"{threshold.per_day:g} a day; {'just chosen' if found.is_new else 'chosen'} on {threshold.days} days up to "
        f"{threshold.last_day}."
    )
    if found.drift is not None:
        note(
            f"warning: {found.drift.found_per_day:.1f} a day were flagged on the newest {found.drift.days} days, where "
            f"{found.drift.expected_per_day:.1f} were expected: the conversations changed, or the release no longer fits them."
        )
        note("  fix: ringfence model evaluate, then --new-threshold if the scores still order well.")


def _with_scores(
    detector: Detector, conversations: Iterator[Conversation]
) -> Iterator[tuple[Conversation, Score]]:
    for held, failure in _batches(conversations, _BATCH):
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


def _highest(lines: Iterable[_Line], count: int) -> list[_Line]:
    # Memory grows with N, never with the file.
    return heapq.nlargest(count, lines, key=lambda line: line.score.logit)


def _json(line: _Line) -> str:
    record: dict[str, object] = {
        "id": line.score.id,
        "score": round(line.score.logit, 4),
        "probability": round(line.score.probability, 4),
    }
    if line.messages is not None:
        record["messages"] = [
            {**asdict(message), "running_score": round(after.logit, 4)}
            for message, after in zip(line.messages, line.timeline, strict=True)
        ]
    return json.dumps(record)


def _sparkline(probabilities: list[float]) -> str:
    """Return probabilities as bars, eight heights from 0 to 1; of many messages the highest of each stretch."""
    width = -(-len(probabilities) // _SPARKLINE_WIDTH)
    highest = [max(probabilities[start : start + width]) for start in range(0, len(probabilities), width)]
    return "".join(_BARS[min(len(_BARS) - 1, int(value * len(_BARS)))] for value in highest)


def _text(line: _Line) -> str:
    text = f"{line.score.probability:>11.3f}  {line.score.logit:>+8.3f}  {line.score.id}"
    if line.timeline:
        text += f"\n             over time  {_sparkline([after.probability for after in line.timeline])}"
    strongest = sorted(line.messages or (), key=lambda message: -message.share)[:_EXPLAINED_MESSAGES]
    for message in strongest:
        text += (
            f"\n             {message.share:>+8.3f}    message {message.index + 1}: {message.stage} "
            f"({message.stage_probability:.2f})"
        )
    return text
