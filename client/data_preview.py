"""What a member's data looks like by its columns: names, types and what each is taken for. Never a value."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.pan12_reader import read_pan12, read_predators
from ringfence.client.panc_reader import read_panc
from ringfence.client.query_source import HasTables, QueryRows, QuerySource
from ringfence.client.snapshot_folder import folder_in_use
from ringfence.client.source_files import SourceFiles
from ringfence.client.source_rows import (
    LABEL_COLUMNS,
    LABELS,
    MESSAGE_COLUMNS,
    MESSAGES,
    OPTIONAL_LABEL_COLUMNS,
)
from ringfence.client.table_refusals import shown_name
from ringfence.client.taking_snapshot import query_source
from ringfence.model.errors import DataError
from ringfence.model.jsonl_reader import numbered_lines, open_lines, stream_conversations

_ROWS = 1_000
_PASSED_OVER = "passed over"
_MISSING = "MISSING"
_CONVERSATION_FIELDS: Mapping[str, str] = {
    "id": "the conversation, under a pseudonym",
    "label": "1, 0, or null where nobody decided",
    "platform": "name of the platform",
    "messages": "in the order in which they were sent",
    "messages[].author": "the person, under a pseudonym",
    "messages[].time": "seconds since 1970; may be null",
    "messages[].text": "what was written",
}
_NEEDED_FIELDS = ("id", "messages", "messages[].author", "messages[].text")


@dataclass(frozen=True, slots=True)
class ColumnPreview:
    """One column or field.

    Attributes:
        source: the query or kind of file that it belongs to.
        column: its name.
        type: as the source declares it, or of the values in the first thousand rows.
        meaning: what it is taken for.
        missing: whether it is needed and not there.
    """

    source: str
    column: str
    type: str
    meaning: str
    missing: bool = False


def preview(home: MemberHome, *, data: DataSettings) -> list[ColumnPreview]:
    """Look at the first rows of the data and return its columns.

    Of tables in files whose queries are refused these are the columns of the tables, and what is wrong with the query.

    Raises:
        ConfigError, DataError: the source cannot be read. The member's to mend.
    """
    if data.by_query:
        with folder_in_use(home), query_source(home, data, None) as source:
            try:
                return _of_queries(source, data)
            except DataError as error:
                if not isinstance(source, HasTables):
                    raise
                return _of_tables(source, error)
    with SourceFiles(home) as files:
        path = files.locate(data.files)[0]
        if data.format == "pan-2012":
            predators = read_predators(files.locate([data.predators or ""])[0])
            return _of_readable(read_pan12(path, predators=predators), "pan-2012")
        if data.format == "panc":
            return _of_readable(read_panc(path), "panc")
        return _of_fields(path)


def probe(home: MemberHome, *, data: DataSettings, first: int) -> None:
    """Read the first rows of every file and query, as training would.

    Args:
        home: the member's folder.
        data: where the data lies.
        first: conversations of each file to read.

    Raises:
        ConfigError, DataError: they cannot be read, or a column is missing. The member's to mend.
    """
    if data.by_query or data.format != "conversations":
        missing = [item for item in _columns_to_probe(home, data) if item.missing]
        if missing:
            raise DataError(
                f"The {missing[0].source} query yields no column {missing[0].column}.",
                hint="See: ringfence data preview-schema",
            )
        return
    with SourceFiles(home) as files:
        for conversations in stream_conversations(files.locate(data.files)):
            for _ in itertools.islice(conversations, first):
                pass


def _columns_to_probe(home: MemberHome, data: DataSettings) -> list[ColumnPreview]:
    """Return what `preview` does, but raise what is wrong with a query."""
    if not data.by_query:
        return preview(home, data=data)
    with query_source(home, data, None) as source:
        return _of_queries(source, data)


def _of_tables(source: HasTables, error: DataError) -> list[ColumnPreview]:
    return [
        *(
            ColumnPreview(table, shown_name(column), "", "column of this table")
            for table, columns in source.tables().items()
            for column in columns
        ),
        ColumnPreview("[data]", "query", _MISSING, error.message, missing=True),
    ]


def _of_queries(source: QuerySource, data: DataSettings) -> list[ColumnPreview]:
    found = _of_query(source.query(MESSAGES, data.messages or ""), MESSAGES, MESSAGE_COLUMNS, {})
    if data.labels is not None:
        found += _of_query(source.query(LABELS, data.labels), LABELS, LABEL_COLUMNS, OPTIONAL_LABEL_COLUMNS)
    return found


def _of_query(
    rows: QueryRows, name: str, needed: Mapping[str, str], optional: Mapping[str, str]
) -> list[ColumnPreview]:
    kinds: dict[int, set[str]] = defaultdict(set)
    if not all(column.type for column in rows.columns):
        for row in itertools.islice(rows.rows, _ROWS):
            for place, value in enumerate(row):
                kinds[place].add(_kind(value))
    meanings = {**needed, **optional}
    found = [
        ColumnPreview(
            name,
            column.name,
            column.type or _joined(kinds[place]),
            meanings.get(column.name.lower(), _PASSED_OVER),
        )
        for place, column in enumerate(rows.columns)
    ]
    return found + _missing(name, needed, {column.name.lower() for column in rows.columns})


def _of_fields(path: Path) -> list[ColumnPreview]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for record in itertools.islice(_records(path), _ROWS):
        for field, value in _fields(record):
            kinds[field].add(_kind(value))
    if not kinds:
        raise DataError(f"{path} holds no JSON object in its first lines.", hint="See: ringfence data check")
    found = [
        ColumnPreview("files", field, _joined(kind), _CONVERSATION_FIELDS.get(field, _PASSED_OVER))
        for field, kind in sorted(kinds.items())
    ]
    return found + _missing("files", dict.fromkeys(_NEEDED_FIELDS, ""), set(kinds))


def _of_readable(items: Iterable[object], name: str) -> list[ColumnPreview]:
    # These formats are fixed: that the first rows can be read is all there is to see.
    for _ in itertools.islice(items, _ROWS):
        pass
    return [ColumnPreview(name, "as in the corpus", "", "its first conversations can be read")]


def _missing(name: str, needed: Mapping[str, str], there: set[str]) -> list[ColumnPreview]:
    return [
        ColumnPreview(name, column, _MISSING, "is needed", missing=True)
        for column in needed
        if column not in there
    ]


def _records(path: Path) -> Iterator[Mapping[str, object]]:
    with open_lines(path) as stream:
        for _, line in numbered_lines(stream, str(path)):
            try:
                record = json.loads(line or b"")
            except (ValueError, RecursionError):
                continue  # which line is wrong, and how, is for data check to say
            if isinstance(record, dict):
                yield record


def _fields(record: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in record.items():
        yield name, value
        if name == "messages" and isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    yield from ((f"messages[].{key}", inner) for key, inner in item.items())


def _kind(value: object) -> str:
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "another type"


_KINDS: Sequence[tuple[type | tuple[type, ...], str]] = (
    (type(None), "null"),
    (bool, "yes or no"),
    (int, "whole number"),
    ((float, Decimal), "number"),
    (str, "text"),
    (bytes, "bytes"),
    (datetime, "time"),
    (date, "date"),
    (list, "list"),
    (dict, "object"),
)


def _joined(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds)) if kinds else "no rows"
