"""Conversations that every release carries with their scores, so that whoever pulls it can see that it scores alike.

Written by hand for this purpose, harmless, and chosen for what can go wrong in scoring: nobody's data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector, Score
from ringfence.model.errors import DataError, ReleaseError
from ringfence.model.jsonl_reader import load_conversations

EXAMPLES_FILE = "examples.jsonl"
EXAMPLE_SCORES_FILE = "examples.scores.jsonl"

_PULL_AGAIN = "Pull the release again, or install the version of Ringfence that its card names."


def _spoken(identifier: str, *lines: tuple[str, str]) -> Conversation:
    messages = (Message(author, text, 60.0 * index) for index, (author, text) in enumerate(lines))
    return Conversation(id=identifier, messages=tuple(messages))


EXAMPLES: tuple[Conversation, ...] = (
    _spoken(
        "example-pattern",
        ("a", "hi, are you new in this game?"),
        ("b", "yes, started last week"),
        ("a", "cool! how old are you? which school do you go to?"),
        ("b", "why do you ask"),
        ("a", "just to know you better. are your parents around when you play?"),
        ("b", "not now"),
        ("a", "let's keep this between us, ok? nobody needs to know we talk"),
        ("a", "add me on the other app, it is easier there. i can send you a gift card"),
        ("a", "we could meet on saturday, just the two of us"),
    ),
    _spoken(
        "example-friends-planning",
        ("a", "are you coming to practice on saturday?"),
        ("b", "yes! mum drives me. shall we meet at the station before?"),
        ("a", "good, 10 o'clock. bring the gift for the coach, but keep it secret"),
        ("b", "haha ok, i told only my brother"),
    ),
    _spoken(
        "example-small-talk",
        ("a", "how was the film?"),
        ("b", "too long, but the music was great"),
        ("c", "i liked it 🎬🎶"),
        ("a", "same time next week?"),
    ),
    _spoken("example-one-author", ("a", "anyone here?"), ("a", "ok bye")),
    _spoken("example-empty-text", ("a", ""), ("b", "?")),
    _spoken("example-other-scripts", ("a", "¿vienes mañana?"), ("b", "はい、行きます"), ("a", "отлично")),
    Conversation(id="example-without-messages", messages=()),
)


def write_examples(
    detector: Detector, folder: Path, *, conversations: Sequence[Conversation] = EXAMPLES
) -> None:
    """Write conversations and their scores into a release folder."""
    records = [_record(conversation) for conversation in conversations]
    scores = [
        {"id": score.id, "logit": score.logit, "probability": score.probability}
        for score in detector.score_many(conversations)
    ]
    (folder / EXAMPLES_FILE).write_text(_lines(records), encoding="utf-8")
    (folder / EXAMPLE_SCORES_FILE).write_text(_lines(scores), encoding="utf-8")


def check_examples(detector: Detector, folder: Path, *, tolerance: float = 1e-5) -> None:
    """Refuse a release that does not score its own examples here as it did where it was built.

    Args:
        detector: as loaded from the folder.
        folder: the release.
        tolerance: largest difference of a score, relative to max(1, |score|).

    Raises:
        ReleaseError: a score differs, or the examples are missing or damaged.
    """
    try:
        conversations = load_conversations([folder / EXAMPLES_FILE])
        expected = [_score(line) for line in (folder / EXAMPLE_SCORES_FILE).read_text("utf-8").splitlines()]
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError("The release's examples are missing or damaged.", hint=_PULL_AGAIN) from error
    found = list(detector.score_many(conversations))
    alike = len(found) == len(expected) and all(
        here.id == there.id and abs(here.logit - there.logit) <= tolerance * max(1.0, abs(there.logit))
        for here, there in zip(found, expected, strict=True)
    )
    if not alike:
        raise ReleaseError(
            "The release does not score its own examples as it did when built.", hint=_PULL_AGAIN
        )


def _record(conversation: Conversation) -> dict[str, object]:
    messages = [
        {"author": message.author, "time": message.time, "text": message.text}
        for message in conversation.messages
    ]
    return {"id": conversation.id, "messages": messages}


def _score(line: str) -> Score:
    record = json.loads(line)
    return Score(id=record["id"], logit=float(record["logit"]), probability=float(record["probability"]))


def _lines(records: Sequence[dict[str, object]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in records)
