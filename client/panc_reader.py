"""CSV in the form of PANC: ``label,chatName,segment``, where a row is a stretch of a chat and nobody says who wrote it.

All stretches of a chat become one conversation, because windows of one conversation must never count as two examples. As no
author is known, each chat has one of its own: the bound then holds for chats, not for people, and the data is for
research on public corpora only.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from ringfence.client.snapshot_writer import SourceMessage
from ringfence.model.conversation_record import FieldError, identifier_from
from ringfence.model.errors import DataError

_COLUMNS = ("label", "chatName", "segment")
_LABELS = {"predator": 1, "non-predator": 0}
_FORM = "Its columns are label (predator or non-predator), chatName and segment."
_LONGEST_FIELD = 16 * 1024 * 1024
_STRETCH = re.compile(r"-\d+$")


def read_panc(source: Path) -> Iterator[tuple[SourceMessage, int]]:
    """Yield each row as a message of its chat, with the row's label.

    Raises:
        DataError: the file cannot be read, or is not in this form. The message holds no content.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    number = 0
    try:
        # A byte order mark, as spreadsheets write one, is no part of the first column's name.
        with source.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{source} has no column {missing[0]}.", hint=_FORM)
            for number, row in enumerate(rows, start=1):
                yield _message(row, number), _label(row, source, number)
            if number == 0:
                raise DataError(f"{source} holds no row.", hint=_FORM)
    except OSError as error:
        raise DataError(f"Cannot read {source}: {error.strerror}.", hint="Check the path.") from error
    except (FieldError, csv.Error, UnicodeDecodeError) as error:
        reason = {FieldError: "chatName is not an identifier", UnicodeDecodeError: "is not UTF-8"}
        raise DataError(
            f"{source}, row {max(number, 1)}: {reason.get(type(error), 'is not CSV')}.", hint=_FORM
        ) from None


def _message(row: dict[str, str | None], number: int) -> SourceMessage:
    chat = _STRETCH.sub("", identifier_from(row["chatName"] or "", "chatName"))
    return SourceMessage(
        conversation=chat, id=number, sender=f"author of {chat}", sent_at=None, text=row["segment"] or ""
    )


def _label(row: dict[str, str | None], source: Path, number: int) -> int:
    label = _LABELS.get((row["label"] or "").strip())
    if label is None:
        raise DataError(f"{source}, row {number}: label is neither predator nor non-predator.", hint=_FORM)
    return label
