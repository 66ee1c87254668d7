"""Messages as they are sent, one JSON line each, from many conversations at once: read and scored while they go on.

At any time one line and the states of the conversations that were last heard of are held, never text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ringfence.model.conversation import Message
from ringfence.model.conversation_record import message_from_record
from ringfence.model.detector import Detector
from ringfence.model.errors import DataError
from ringfence.model.jsonl_reader import TOO_LONG, SkippedLines, numbered_lines, parse_record
from ringfence.model.running_score import LiveConversation, RunningScore

_FORM = 'Each line holds {"conversation", "author", "text", "time"?}.'


@dataclass(frozen=True, slots=True)
class StreamedScore:
    """The score of a conversation after one message of it.

    Attributes:
        conversation: its identifier.
        score: what the detector says.
    """

    conversation: str
    score: RunningScore


class LiveConversations:
    """The conversations that were last heard of, and their scores.

    Args:
        detector: scores them.
        most: how many are held; the one that was silent longest is let go, and begins anew if it goes on. About 3 kB each.

    Attributes:
        let_go: how many were let go so far.
    """

    def __init__(self, detector: Detector, *, most: int = 100_000) -> None:
        self.let_go = 0
        self._detector = detector
        self._most = most
        self._held: OrderedDict[str, LiveConversation] = OrderedDict()

    def add(self, conversation: str, message: Message) -> StreamedScore:
        """Take in a message and return the score of its conversation after it."""
        live = self._held.get(conversation)
        if live is None:
            live = self._held[conversation] = LiveConversation(self._detector, conversation)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
                self.let_go += 1
        self._held.move_to_end(conversation)
        return StreamedScore(conversation, live.add(message))


def read_messages(
    stream: BinaryIO, *, name: str, skipped: SkippedLines | None = None
) -> Iterator[tuple[str, Message]]:
    """Yield each line's conversation and message, as soon as the line is there.

    Args:
        stream: UTF-8 JSON lines.
        name: what errors call it.
        skipped: count bad lines here and go on, instead of raising at the first.

    Raises:
        DataError: a line cannot be read; the message names line and field, never what stands there. The sender's fault.
    """
    for number, line in numbered_lines(stream, name):
        if line is None:
            problem = ("", TOO_LONG)
        elif not line.strip():
            continue
        else:
            found, error = parse_record(line, message_from_record)
            if found is not None:
                yield found
                continue
            problem = ("", "is damaged") if error is None else (error.field, error.reason)
        where = f"{name}, line {number}" + (f", field {problem[0]}" if problem[0] else "")
        failure = DataError(f"{where}: {problem[1]}.", hint=_FORM)
        if skipped is None:
            raise failure
        skipped.count += 1
        skipped.first = skipped.first or failure


def score_messages(
    live: LiveConversations, messages: Iterable[tuple[str, Message]]
) -> Iterator[StreamedScore]:
    """Yield one score a message, in order, before the next message is read."""
    for conversation, message in messages:
        yield live.add(conversation, message)
