"""One conversation in its JSON form: the contract of every file that Ringfence reads.

``{"id", "messages": [{"author", "text", "time"?}], "label"?, "platform"?}``. Other fields are ignored, so that a member
can keep its own beside ours; a known field of the wrong type is an error that names the field and never its content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ringfence.model.conversation import Conversation, Message

MAX_IDENTIFIER_CHARACTERS = 512

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class FieldError(ValueError):
    """A field is not in the agreed form.

    Attributes:
        field: path of the field, such as ``messages[3].time``; empty for the whole line.
        reason: what the field must be; never its value.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


def conversation_from_record(record: object) -> Conversation:
    """Return the conversation that a parsed JSON value holds.

    Identifiers may be strings or integers and become strings without surrounding space. A half of a surrogate pair in a
    text (a message cut inside an emoji) becomes U+FFFD, because nothing downstream could encode it.

    Raises:
        FieldError: a field is missing or of the wrong type. The data owner's fault.
    """
    if not isinstance(record, Mapping):
        raise FieldError("", "must be a JSON object")
    messages = _required(record, "messages", "messages")
    if not isinstance(messages, list):
        raise FieldError("messages", "must be a list")
    return Conversation(
        id=identifier_from(_required(record, "id", "id"), "id"),
        messages=tuple(_message(item, f"messages[{index}]") for index, item in enumerate(messages)),
        label=_label(record.get("label")),
        platform=_platform(record.get("platform")),
    )


def message_from_record(record: object) -> tuple[str, Message]:
    """Return the identifier of a conversation and one message of it: ``{"conversation", "author", "text", "time"?}``.

    Raises:
        FieldError: a field is missing or of the wrong type. The sender's fault.
    """
    if not isinstance(record, Mapping):
        raise FieldError("", "must be a JSON object")
    conversation = identifier_from(_required(record, "conversation", "conversation"), "conversation")
    return conversation, _message(record, "")


def _message(item: object, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise FieldError(field, "must be a JSON object")
    inside = f"{field}." if field else ""
    text = _required(item, "text", f"{inside}text")
    if not isinstance(text, str):
        raise FieldError(f"{inside}text", "must be a string")
    return Message(
        author=identifier_from(_required(item, "author", f"{inside}author"), f"{inside}author"),
        text=LONE_SURROGATE.sub("\ufffd", text),
        time=_time(item.get("time"), f"{inside}time"),
    )


def _required(record: Mapping[str, object], name: str, field: str) -> object:
    if name not in record:
        raise FieldError(field, "is missing")
    return record[name]


def identifier_from(value: object, field: str) -> str:
    """Return an identifier as text: from a string or a whole number, without surrounding space.

    Raises:
        FieldError: it is empty, too long, or holds what neither a terminal nor an encoder should meet.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise FieldError(field, "must be a string or a whole number")
    if isinstance(value, int) and abs(value) >= 10**MAX_IDENTIFIER_CHARACTERS:
        raise FieldError(field, f"must have at most {MAX_IDENTIFIER_CHARACTERS} characters")
    identifier = str(value).strip()
    if not identifier:
        raise FieldError(field, "must not be empty")
    if len(identifier) > MAX_IDENTIFIER_CHARACTERS:
        raise FieldError(field, f"must have at most {MAX_IDENTIFIER_CHARACTERS} characters")
    # Identifiers are printed and hashed: neither a terminal nor an encoder may meet a surprise in one.
    if _CONTROL.search(identifier) or LONE_SURROGATE.search(identifier):
        raise FieldError(field, "must hold neither control characters nor half of a surrogate pair")
    return identifier


def _label(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in (0, 1):
        raise FieldError("label", "must be 0, 1 or null")
    return value


def _platform(value: object) -> str | None:
    return None if value is None else identifier_from(value, "platform")


def _time(value: object, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(field, "must be a number of seconds or null")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise FieldError(field, "must be a finite number of seconds")
    return seconds
