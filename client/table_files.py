"""What a table's files hold: their columns, found in every row of JSONL and in every header, and the SQL that reads them.

Nothing is guessed from what values look like in the first rows: JSONL has the types of its own values over all rows, CSV is
text in one form of quoting, Parquet declares its types. What only some files or rows lack is an error once a query uses it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ringfence.client.table_refusals import Complaints, damaged_file, shown_name
from ringfence.model.errors import ConfigError, DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LONGEST_LINE = 16 * 1024 * 1024

_MOST_COLUMNS = 2_000
_KINDS = (".parquet", ".csv", ".jsonl")
_SAME_AS = {".tsv": ".csv", ".ndjson": ".jsonl", ".json": ".jsonl"}
_COMPRESSED = (".gz", ".zst")
# Twice the longest line: a line must fit into a buffer, and DuckDB's own choice needs eight times as much.
_CSV = f"max_line_size = {LONGEST_LINE}, buffer_size = {2 * LONGEST_LINE}, auto_detect = false"
_JSON = f"format = 'newline_delimited', maximum_object_size = {LONGEST_LINE}"
_DELIMITERS = (",", ";", "\t", "|")
_FIRST_LINES = 16
_LONGEST_HEADER = 100_000  # characters; Python's reader takes a value of 131,072
# A header holds neither a moment nor a long number: such a line is the first message.
_A_VALUE = re.compile(r"\s*(\d{9,}(\.\d*)?|\d{4}-\d\d-\d\d.*)\s*", re.DOTALL)
_GUESSED = re.compile(r"(?<= )(UUID|DATE|TIME|TIMESTAMP|TIMESTAMP WITH TIME ZONE|TIMESTAMP_NS)(?=[,)\[]|$)")

# What the values of one JSON key are, as bits: over all rows, and over all files.
_TEXT, _WHOLE, _LONG, _HUGE, _FRACTION, _BOOLEAN, _NESTED = (1 << place for place in range(7))
# A DOUBLE holds every whole number of 15 digits, a BIGINT every one of 18. DuckDB calls one that no integer holds a DOUBLE.
_BITS = f"""CASE json_type({{key}})
    WHEN 'VARCHAR' THEN {_TEXT}
    WHEN 'BOOLEAN' THEN {_BOOLEAN}
    WHEN 'DOUBLE' THEN CASE WHEN regexp_full_match({{key}}::VARCHAR, '-?[0-9]+') THEN {_HUGE} ELSE {_FRACTION} END
    WHEN 'ARRAY' THEN {_NESTED}
    WHEN 'OBJECT' THEN {_NESTED}
    WHEN 'BIGINT' THEN {{whole}}
    WHEN 'UBIGINT' THEN {{whole}}
    ELSE 0 END"""
_WHOLE_BITS = f"""CASE WHEN length({{key}}::VARCHAR) <= 15 THEN {_WHOLE}
    WHEN length({{key}}::VARCHAR) <= 18 THEN {_LONG}
    WHEN length({{key}}::VARCHAR) = 19 AND {{key}}::VARCHAR <= '{2**63 - 1}' THEN {_LONG}
    ELSE {_HUGE} END"""


@dataclass(frozen=True, slots=True)
class Table:
    """How a table is read.

    Attributes:
        select: a SELECT of all its rows, in the order of the files.
        columns: their names.
        row_group_bytes: of the largest row group of its Parquet files, packed and unpacked; 0 for other kinds.
    """

    select: str
    columns: tuple[str, ...]
    row_group_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """Files that follow each other and have the same columns.

    Attributes:
        paths: the files.
        source: a table function that reads them.
        columns: name -> what to select for it.
    """

    paths: Sequence[Path]
    source: str
    columns: Mapping[str, str]


@dataclass(slots=True)
class _Keys:
    """The keys of one JSONL file: each with the bits of its values; and those that are spelled in two ways."""

    path: Path
    bits: dict[str, int] = field(default_factory=dict)
    twofold: set[str] = field(default_factory=set)


def table_of(
    database: DuckDBPyConnection, name: str, paths: Sequence[Path], *, complaints: Complaints
) -> Table:
    """Look at the files of a table and return how it is read.

    Args:
        database: in which the files may be read.
        name: of the table.
        paths: its files, in order.
        complaints: is told what a query must not use.

    Raises:
        ConfigError: the files are not of one known kind. The operator's to mend.
        DataError: a file is damaged, or has no columns. The data owner's to mend.
    """
    kinds = {_kind(path) for path in paths}
    kind = kinds.pop() if len(kinds) == 1 else ""
    if kind not in _KINDS:
        raise ConfigError(
            f"The files of table {name} are not all of one known kind.",
            hint="Use .jsonl, .csv or .parquet; .jsonl and .csv may be compressed: .gz, .zst.",
        )
    size = 0
    if kind == ".parquet":
        parts = list(_parquet_parts(database, paths))
        size = max(_row_group_bytes(database, path) for path in paths)
    elif kind == ".csv":
        parts = list(_csv_parts(database, paths))
    else:
        parts = list(_json_parts(database, paths, complaints))
    if not parts:
        raise DataError(
            f"The files of table {name} are empty.", hint="Export them again, or leave the table out."
        )
    select, columns = _union(parts, complaints)
    return Table(select, columns, size)


def pattern_of(path: Path) -> str:
    """Return the pattern that matches this file alone: DuckDB takes every path for a pattern."""
    return re.sub(r"([\[*?])", r"[\1]", str(path))


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return _SAME_AS.get(name.suffix.lower(), name.suffix.lower())


def _union(parts: Sequence[_Part], complaints: Complaints) -> tuple[str, tuple[str, ...]]:
    names: dict[str, str] = {}
    for part in parts:
        for name in part.columns:
            names.setdefault(name.lower(), name)
    selects = []
    for part in parts:
        there = {name.lower(): selected for name, selected in part.columns.items()}
        chosen = [
            f"{there[low] if low in there else complaints.expression(_lacking(part, name))} AS {_quoted(name)}"
            for low, name in names.items()
        ]
        selects.append(f"SELECT {', '.join(chosen)} FROM {part.source}")  # noqa: S608 - every name and path is quoted
    return " UNION ALL ".join(selects), tuple(names.values())


def _lacking(part: _Part, column: str) -> DataError:
    more = f" and {len(part.paths) - 1} more" if len(part.paths) > 1 else ""
    return DataError(
        f"{part.paths[0]}{more}: there is no column {shown_name(column)}, which other files of its table have.",
        hint="Export the files with the same columns, or make them two tables.",
    )


# Parquet


def _parquet_parts(database: DuckDBPyConnection, paths: Sequence[Path]) -> Iterator[_Part]:
    found = [
        (
            path,
            [
                str(row[0])
                for row in _asked(database, path, f"DESCRIBE FROM read_parquet([{_text(pattern_of(path))}])")
            ],
        )
        for path in paths
    ]
    for _, run in groupby(found, key=lambda each: sorted(name.lower() for name in each[1])):
        same = list(run)
        together = [path for path, _ in same]
        yield _Part(
            together,
            f"read_parquet({_list(together)}, union_by_name = true)",
            {name: _quoted(name) for name in same[0][1]},
        )


def _row_group_bytes(database: DuckDBPyConnection, path: Path) -> int:
    ((size,),) = _asked(
        database,
        path,
        "SELECT coalesce(max(size), 0) FROM (SELECT sum(total_compressed_size + total_uncompressed_size) AS size "  # noqa: S608 - quoted
        f"FROM parquet_metadata({_text(pattern_of(path))}) GROUP BY row_group_id)",
    )
    return int(str(size))


# CSV


@dataclass(frozen=True, slots=True)
class _Header:
    names: tuple[str, ...]
    delimiter: str
    blank_lines: int


def _csv_parts(database: DuckDBPyConnection, paths: Sequence[Path]) -> Iterator[_Part]:
    found = [(path, header) for path in paths if (header := _header(database, path)) is not None]
    for header, run in groupby(found, key=lambda each: each[1]):
        together = [path for path, _ in run]
        types = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in header.names)
        source = (
            f"read_csv({_list(together)}, {_CSV}, header = true, skip = {header.blank_lines}, "
            f"delim = {_text(header.delimiter)}, quote = '\"', escape = '\"', columns = {{{types}}})"
        )
        yield _Part(together, source, {name: _quoted(name) for name in header.names})


def _header(database: DuckDBPyConnection, path: Path) -> _Header | None:
    """Return the names of a CSV's columns and the sign between them, or None if the file is empty."""
    lines = _asked(
        database,
        path,
        f"SELECT line FROM read_csv([{_text(pattern_of(path))}], {_CSV}, header = false, columns = {{'line': 'VARCHAR'}}, "  # noqa: S608 - quoted
        f"delim = '\x01', quote = '', escape = '', strict_mode = false) LIMIT {_FIRST_LINES}",
    )
    for place, (line,) in enumerate(lines):
        written = "" if line is None else str(line).removeprefix("\ufeff")
        if not written.strip():
            continue
        # The sign that splits the header into most names; of equals, the comma.
        if len(written) > _LONGEST_HEADER:
            raise _no_header(path)
        split = {sign: next(csv.reader([written], delimiter=sign)) for sign in _DELIMITERS}
        delimiter = max(_DELIMITERS, key=lambda sign: len(split[sign]))
        if any(_A_VALUE.fullmatch(name) for name in split[delimiter]):
            raise _no_header(path)
        return _Header(_distinct(split[delimiter]), delimiter, place)
    return None


def _no_header(path: Path) -> DataError:
    return DataError(
        f"{path}: the first line holds values where the names of the columns belong.",
        hint="Export the file with a header.",
    )


def _distinct(written: Sequence[str]) -> tuple[str, ...]:
    """Return names that differ: an index has none, and of a name that stands twice the later ones are numbered."""
    names: list[str] = []
    taken: set[str] = set()
    for place, each in enumerate(written):
        name = first = each.strip() or f"column{place}"
        number = 0
        while name.lower() in taken:
            number += 1
            name = f"{first}_{number}"
        taken.add(name.lower())
        names.append(name)
    return tuple(names)


# JSONL


def _json_parts(
    database: DuckDBPyConnection, paths: Sequence[Path], complaints: Complaints
) -> Iterator[_Part]:
    found = [keys for path in paths if (keys := _keys(database, path)).bits]
    bits: dict[str, int] = {}
    for keys in found:
        for key, seen in keys.bits.items():
            bits[key.lower()] = bits.get(key.lower(), 0) | seen
    nested = _nested_types(database, found, [key for key, seen in bits.items() if seen == _NESTED])
    for _, run in groupby(found, key=lambda each: (sorted(each.bits), sorted(each.twofold))):
        same = list(run)
        together, first = [keys.path for keys in same], same[0]
        types, columns = {}, {}
        for key in first.bits:
            seen = bits[key.lower()]
            types[key] = nested[key.lower()] if seen == _NESTED else _type(seen)
            columns[key] = _quoted(key)
            if key in first.twofold:
                columns[key] = complaints.expression(_spelled(first.path, key))
            elif seen & _NESTED and seen != _NESTED:
                mixed = complaints.expression(_mixed(together, key))
                columns[key] = (
                    f"CASE WHEN json_type({_quoted(key)}) IN ('ARRAY', 'OBJECT') THEN {mixed} ELSE {_quoted(key)}->>'$' END"
                )
        given = ", ".join(f"{_text(key)}: {_text(kind)}" for key, kind in types.items())
        yield _Part(together, f"read_json({_list(together)}, {_JSON}, columns = {{{given}}})", columns)


def _keys(database: DuckDBPyConnection, path: Path) -> _Keys:
    """Return the keys of all lines of a file, with what their values are. Reads the file twice."""
    found = _Keys(path)
    lows: dict[str, str] = {}
    lines = _asked(
        database,
        path,
        "SELECT json_keys(json) AS keys, bool_and(json_type(json) = 'OBJECT') "  # noqa: S608 - quoted
        f"FROM read_ndjson_objects([{_text(pattern_of(path))}], maximum_object_size = {LONGEST_LINE}) GROUP BY keys",
    )
    for keys, are_objects in lines:
        if not are_objects or not isinstance(keys, list):
            raise DataError(
                f"{path} holds lines that are no JSON object.",
                hint='One message a line, as in {"conversation_id": "c1", ...}; no list around them.',
            )
        if len(set(keys)) != len(keys):
            raise DataError(
                f"{path}: in some line a field stands twice.", hint="Of two values only one would count."
            )
        for key in keys:
            if not key:
                continue
            if lows.setdefault(key.lower(), key) != key:
                found.twofold.add(lows[key.lower()])
            found.bits.setdefault(lows[key.lower()], 0)
        if len(found.bits) > _MOST_COLUMNS:
            raise DataError(
                f"{path} has more than {_MOST_COLUMNS} different fields.",
                hint="Put what varies from line to line into one object.",
            )
    if found.bits:
        names = list(found.bits)
        given = ", ".join(f"{_text(key)}: 'JSON'" for key in names)
        each = [_BITS.format(key=_quoted(key), whole=_WHOLE_BITS.format(key=_quoted(key))) for key in names]
        ((*seen,),) = _asked(
            database,
            path,
            f"SELECT {', '.join(f'bit_or({bits})' for bits in each)} "  # noqa: S608 - quoted
            f"FROM read_json([{_text(pattern_of(path))}], {_JSON}, columns = {{{given}}})",
        )
        found.bits = {key: int(str(bits or 0)) for key, bits in zip(names, seen, strict=True)}
    return found


def _type(seen: int) -> str:
    """Return the type of a column whose values are of these kinds: that of all of them, or the text of each."""
    if seen & _NESTED:
        return "JSON"
    if seen and not seen & ~(_WHOLE | _LONG):
        return "BIGINT"
    if seen and not seen & ~(_WHOLE | _FRACTION):
        return "DOUBLE"
    return "BOOLEAN" if seen == _BOOLEAN else "VARCHAR"


def _nested_types(
    database: DuckDBPyConnection, found: Sequence[_Keys], wanted: Sequence[str]
) -> dict[str, str]:
    """Return the types of columns that hold only lists and objects, in which a text stays a text."""
    if not wanted:
        return {}
    paths = [keys.path for keys in found]
    rows = _asked(
        database,
        paths[0],
        f"DESCRIBE FROM read_json({_list(paths)}, {_JSON}, union_by_name = true, sample_size = -1)",
    )
    types = {str(name).lower(): _GUESSED.sub("VARCHAR", str(kind)) for name, kind, *_ in rows}
    return {key: types.get(key, "JSON") for key in wanted}


def _spelled(path: Path, key: str) -> DataError:
    return DataError(
        f"{path}: the field {shown_name(key)} is spelled with small letters in some lines and with capitals in others.",
        hint="Export the file with one spelling.",
    )


def _mixed(paths: Sequence[Path], key: str) -> DataError:
    more = f" or one of {len(paths) - 1} more files" if len(paths) > 1 else ""
    return DataError(
        f"{paths[0]}{more}: the field {shown_name(key)} is a list or an object in some lines and a plain value in others.",
        hint="Leave such lines out, or export the field as one plain value.",
    )


# SQL


def _asked(database: DuckDBPyConnection, path: Path, statement: str) -> list[tuple[object, ...]]:
    import duckdb

    try:
        return list(database.execute(statement).fetchall())
    except duckdb.Error as error:
        raise damaged_file(error, path) from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list(paths: Sequence[Path]) -> str:
    return "[" + ", ".join(_text(pattern_of(path)) for path in paths) + "]"
