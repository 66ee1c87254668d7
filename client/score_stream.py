"""``ringfence score --stream``: messages in as they are sent, the score of their conversation out after each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from ringfence.client.score_lines import printable
from ringfence.client.stream_languages import FEWEST_CLEAR, StreamLanguages, is_other
from ringfence.model.console import note
from ringfence.model.errors import DataError

if TYPE_CHECKING:
    from ringfence.model.conversation import Message
    from ringfence.model.detector import Detector
    from ringfence.model.message_stream import LiveConversations, StreamedScore


def score_stream(detector: Detector, source: str, *, skip_bad: bool, most: int, as_json: bool) -> int:
    """Print one score a message, each as soon as its message was read, and return how many.

    Args:
        detector: scores.
        source: a file of JSON lines, or - for standard input.
        skip_bad: count and pass over lines that cannot be read.
        most: conversations that are held at once.
        as_json: one JSON object a line, else a table.

    Raises:
        DataError: the source or a line of it cannot be read. The sender's fault.
    """
    from ringfence.model.jsonl_reader import STANDARD_INPUT, SkippedLines
    from ringfence.model.message_stream import LiveConversations, read_messages

    languages = StreamLanguages(most=most)
    warned = False
    skipped = SkippedLines() if skip_bad else None
    live = LiveConversations(detector, most=most)
    name = "standard input" if source == STANDARD_INPUT else source
    printed = 0
    if not as_json:
        typer.echo(f"{'probability':>11}  {'score':>8}  {'message':>7}  {'stage':<20}  conversation")
    with _opened(source, standard_input=STANDARD_INPUT) as stream:
        messages = read_messages(stream, name=name, skipped=skipped)
        for found, language in _with_language(live, messages, languages):
            sys.stdout.write((_json(found, language) if as_json else _text(found)) + "\n")
            # Whoever reads the scores must not wait for a buffer to fill.
            sys.stdout.flush()
            printed += 1
            # A stream may never end, so it is said as soon as it can be known.
            warned = warned or _warn(languages.warning(fewest=FEWEST_CLEAR))
    if not warned:
        _warn(languages.warning())
    if live.let_go:
        note(
            f"warning: {live.let_go} conversations were let go while they may have gone on; see --most-conversations."
        )
    if skipped is not None and skipped.first is not None:
        note(f"{skipped.count} lines were passed over; the first: {skipped.first.message}")
    return printed


@contextmanager
def _opened(source: str, *, standard_input: str) -> Iterator[BinaryIO]:
    if source == standard_input:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - a failure to open is not one while reading
    except OSError as error:
        raise DataError(
            f"Cannot read {source}: {error.strerror}.", hint="Check the path and its permissions."
        ) from error
    with stream:
        yield stream


def _with_language(
    live: LiveConversations, messages: Iterable[tuple[str, Message]], languages: StreamLanguages
) -> Iterator[tuple[StreamedScore, str]]:
    """Yield each score, before the next message is read, with the language of its conversation so far."""
    for conversation, message in messages:
        yield live.add(conversation, message), languages.add(conversation, message.text)


def _warn(warning: str | None) -> bool:
    if warning is not None:
        note(f"warning: {warning}")
    return warning is not None


def _json(found: StreamedScore, language: str) -> str:
    record: dict[str, object] = {
        "conversation": found.conversation,
        "message": found.score.message,
        "score": round(found.score.logit, 4),
        "probability": round(found.score.probability, 4),
        "stage": found.score.stage,
        "stage_probability": round(found.score.stage_probability, 4),
    }
    if is_other(language):
        record["language"] = language
    return json.dumps(record)


def _text(found: StreamedScore) -> str:
    score = found.score
    return (
        f"{score.probability:>11.3f}  {score.logit:>+8.3f}  {score.message:>7}  "
        f"{f'{score.stage} ({score.stage_probability:.2f})':<20}  {printable(found.conversation)}"
    )
