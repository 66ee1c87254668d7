"""The rows of a member's queries, held to the agreed columns. An error names query and column, never what stands in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from ringfence.client.snapshot_writer import SourceMessage
from ringfence.model.conversation_record import LONE_SURROGATE, FieldError, identifier_from
from ringfence.model.errors import DataError

MESSAGES = "messages"
LABELS = "labels"
MESSAGE_COLUMNS: Mapping[str, str] = {
    "conversation_id": "the conversation, under a pseudonym",
    "message_id": "orders messages of one time; must not repeat",
    "sender_id": "the person, under a pseudonym",
    "sent_at": "a time, or seconds since 1970; may be null",
    "text": "what was written; null is an empty message",
}
LABEL_COLUMNS: Mapping[str, str] = {
    "conversation_id": "the conversation, as in messages",
    "label": "a decision, looked up in label_map; null is no decision",
}
OPTIONAL_LABEL_COLUMNS: Mapping[str, str] = {"decided_at": "the newest decision stands"}

_UNDECIDED = object()
_NUMBERS_BELOW = 2**63
_LONGEST_NUMBER = 20


class MessageRows:
    """Turns rows of the messages query into messages.

    Args:
        columns: names of the query's columns, in order; others than the agreed ones are passed over.

    Raises:
        DataError: a column is missing or stands twice. The data owner's fault.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        places = _places(columns, MESSAGES, required=MESSAGE_COLUMNS)
        self._places = tuple(places[name] for name in MESSAGE_COLUMNS)

    def message(self, row: Sequence[object]) -> SourceMessage:
        """Return the message of a row.

        Raises:
            DataError: a value is of the wrong kind. The data owner's fault.
        """
        conversation, number, sender, sent_at, text = (row[place] for place in self._places)
        return SourceMessage(
            conversation=_identifier(conversation, MESSAGES, "conversation_id"),
            id=_message_id(number),
            sender=_identifier(sender, MESSAGES, "sender_id"),
            sent_at=_time(sent_at, MESSAGES, "sent_at"),
            text=_text(text),
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """One row of the labels query.

    Attributes:
        conversation: identifier in the source.
        label: 1, 0, or None for neither.
        decided_at: seconds since the epoch, or None.
    """

    conversation: str
    label: int | None
    decided_at: float | None


class LabelRows:
    """Turns rows of the labels query into decisions.

    Args:
        columns: names of the query's columns, in order.
        meanings: of the values of ``label``: 1, 0, or None for neither.

    Raises:
        DataError: a column is missing or stands twice. The data owner's fault.
    """

    def __init__(self, columns: Sequence[str], *, meanings: Mapping[str, int | None]) -> None:
        places = _places(columns, LABELS, required=LABEL_COLUMNS)
        self._conversation, self._label = places["conversation_id"], places["label"]
        self._decided_at = places.get("decided_at")
        self._meanings: Mapping[str, object] = meanings

    def decision(self, row: Sequence[object]) -> Decided | None:
        """Return the decision of a row, or None where there is none yet.

        Raises:
            DataError: a value is of the wrong kind, or is not in the label map. The data owner's fault.
        """
        from ringfence.client.data_settings import label_text

        if row[self._label] is None:
            return None
        label = self._meanings.get(label_text(row[self._label]), _UNDECIDED)
        if label is _UNDECIDED:
            raise DataError(
                "The labels query, column label: holds a decision that [data.label_map] does not name.",
                hint="Look at the distinct values of that column and name each one as positive, negative or ignore.",
            )
        at = None if self._decided_at is None else row[self._decided_at]
        return Decided(
            conversation=_identifier(row[self._conversation], LABELS, "conversation_id"),
            label=label if isinstance(label, int) else None,
            decided_at=_time(at, LABELS, "decided_at"),
        )


def _places(columns: Sequence[str], query: str, *, required: Mapping[str, str]) -> dict[str, int]:
    names = [column.lower() for column in columns]
    for name in required:
        if name not in names:
            raise DataError(
                f"The {query} query yields no column {name}.",
                hint=f"It must yield {', '.join(required)}: rename with AS. See: ringfence data preview-schema",
            )
    for name in (*required, *OPTIONAL_LABEL_COLUMNS):
        if names.count(name) > 1:
            raise DataError(
                f"The {query} query yields the column {name} twice.",
                hint="Name the columns of a join one by one.",
            )
    return {name: place for place, name in enumerate(names)}


def _bad(query: str, column: str, reason: str) -> DataError:
    return DataError(
        f"The {query} query, column {column}: {reason}.",
        hint="Leave such rows out, or convert the column in the query.",
    )


def _message_id(value: object) -> str | int:
    """Return a whole number as one, whatever type the source gives it: 9 comes before 10, and "10" before "9"."""
    if type(value) is int and abs(value) < _NUMBERS_BELOW:
        return value
    identifier = _identifier(value, MESSAGES, "message_id")
    if len(identifier) > _LONGEST_NUMBER or not identifier.removeprefix("-").isdecimal():
        return identifier
    number = int(identifier)
    # 007 is not 7, and what a snapshot cannot hold as a number stays a text.
    return number if str(number) == identifier and abs(number) < _NUMBERS_BELOW else identifier


def _identifier(value: object, query: str, column: str) -> str:
    if value is None:
        raise _bad(query, column, "is null in some row")
    if isinstance(value, UUID):
        value = str(value)
    elif isinstance(value, Decimal | float):
        if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
            raise _bad(query, column, "is not a finite number in some row")
        if value == int(value):
            value = int(value)
    try:
        return identifier_from(value, column)
    except FieldError as error:
        raise _bad(query, column, error.reason) from None


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if not isinstance(value, str):
        raise _bad(MESSAGES, "text", "must be a text")
    return value if value.isascii() else LONE_SURROGATE.sub("\ufffd", value)


def _time(value: object, query: str, column: str) -> float | None:
    if value is None or isinstance(value, float | int | Decimal):
        return None if value is None else _seconds(value, query, column)
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        try:
            return _seconds(float(text), query, column)
        except ValueError:
            pass
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise _bad(query, column, "is neither a time nor a number of seconds in some row") from None
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        try:
            return moment.timestamp()
        except OverflowError:
            raise _bad(query, column, "lies outside the calendar in some row") from None
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    raise _bad(query, column, "is neither a time nor a number of seconds in some row")


def _seconds(value: float | Decimal, query: str, column: str) -> float:
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if isinstance(value, bool) or not math.isfinite(seconds):
        raise _bad(query, column, "must be a finite number of seconds")
    return seconds
