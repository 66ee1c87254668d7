"""What ``ringfence score`` prints of a conversation: a line for a person, or one JSON object. Never what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringfence.model.conversation import Conversation
    from ringfence.model.detector import Detector, Score
    from ringfence.model.explanation import MessageShare
    from ringfence.model.running_score import RunningScore

EXPLAINED = (
    "Share: the score less the score without that message; below 0 the message lowers it. Stage: the likeliest of nine, or "
    '"other", with its probability. Over time: the probability after each message. A conversation of more than 60 messages is '
    "read in stretches of 60; its score and the shares are those of the highest one."
)

_MARGIN = " " * 13
_SPARKLINE_WIDTH = 60
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a conversation scores as it does.

    Attributes:
        messages: stage and share of each.
        timeline: the score after each.
    """

    messages: tuple[MessageShare, ...]
    timeline: tuple[RunningScore, ...]


def explanation_of(detector: Detector, conversation: Conversation) -> Explanation:
    """Return the explanation of a conversation's score."""
    from ringfence.model.explanation import explain
    from ringfence.model.running_score import timeline

    return Explanation(explain(detector, conversation), timeline(detector, conversation))


def header(*, with_day: bool = False) -> str:
    """Return the heading above lines for a person."""
    return f"{'probability':>11}  {'score':>8}  {'last message  ' if with_day else ''}conversation"


def score_text(score: Score, explanation: Explanation | None = None, *, all_messages: bool = False) -> str:
    """Return a score for a person, with the messages that matter or all of them below it if it is explained."""
    first = f"{score.probability:>11.3f}  {score.logit:>+8.3f}  {printable(score.id)}"
    if explanation is None or not explanation.messages:
        return first
    return "\n".join([first, *_explained(explanation, all_messages=all_messages)])


def score_json(score: Score, explanation: Explanation | None = None) -> str:
    """Return a score as one JSON object, with each of its messages if it is explained."""
    record = _record(score)
    if explanation is not None:
        record["messages"] = [
            {
                "index": item.index,
                "message": item.message,
                "author": item.author,
                "stage": item.stage,
                "stage_probability": round(item.stage_probability, 4),
                "share": round(item.share, 4),
                "running_score": round(after.logit, 4),
            }
            for item, after in zip(explanation.messages, explanation.timeline, strict=True)
        ]
    return json.dumps(record)


def queued_text(score: Score, day: date | None) -> str:
    """Return a score of a review queue for a person, with the day of the last message."""
    shown = "-" if day is None else day.isoformat()
    return f"{score.probability:>11.3f}  {score.logit:>+8.3f}  {shown:<12}  {printable(score.id)}"


def queued_json(score: Score, day: date | None) -> str:
    """Return the same as one JSON object."""
    return json.dumps({**_record(score), "last_message": None if day is None else day.isoformat()})


def _record(score: Score) -> dict[str, object]:
    return {
        "id": score.id,
        "score": round(score.logit, 4),
        "probability": round(score.probability, 4),
    }


def _explained(explanation: Explanation, *, all_messages: bool) -> Iterator[str]:
    """Yield the lines below a score: how it went, then messages in their order."""
    from ringfence.model.explanation import telling

    messages = explanation.messages
    shown = messages if all_messages else telling(messages)
    yield f"{_MARGIN}over time  {_sparkline([after.probability for after in explanation.timeline])}"
    yield f"{_MARGIN}{'share':>8}  {'message':>7}  {'stage':<27}  author"
    for item in shown:
        stage = f"{item.stage} ({item.stage_probability:.2f})"
        yield f"{_MARGIN}{item.share:>+8.3f}  {item.message:>7}  {stage:<27}  {printable(item.author)}"
    left = len(messages) - len(shown)
    if left:
        yield f"{_MARGIN}{left} {'message' if left == 1 else 'messages'} more: --all-messages, or --json"


def printable(identifier: str) -> str:
    """Return an identifier as it can be shown: whoever chose it may have put a terminal's commands into it."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in identifier
    )


def _sparkline(probabilities: list[float]) -> str:
    """Return probabilities as bars, eight heights from 0 to 1; of many messages the highest of each stretch."""
    width = -(-len(probabilities) // _SPARKLINE_WIDTH)
    highest = [max(probabilities[start : start + width]) for start in range(0, len(probabilities), width)]
    return "".join(_BARS[min(len(_BARS) - 1, int(value * len(_BARS)))] for value in highest)
