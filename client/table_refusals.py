"""What may be said when tables in files cannot be read: the file, the line, the column and what to do; never what stands there.

What DuckDB says of an error may quote a line of a file. Of its words only these are used: its kind, a line's number, a path
that is ours, and a column that the member's own query names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ringfence.model.conversation_record import LONE_SURROGATE
from ringfence.model.errors import DataError, RingfenceError
from ringfence.model.jsonl_reader import TOO_LONG, numbered_lines, open_lines

_MARK = "ringfence complaint "
_MEANINGS: Mapping[str, tuple[str, str]] = {
    "CatalogException": ("names a table or function that there is not", "Tables are those of [data.tables]."),
    "ParserException": ("is not SQL", "Correct it in [data] of member.toml."),
    "PermissionException": (
        "reads what is not in [data.tables]",
        "Name every file there, and read the table.",
    ),
    "ConversionException": ("meets a value that cannot be converted", "TRY_CAST gives null for such values."),
    "InvalidInputException": (
        "meets a line that is damaged or not UTF-8",
        "Export the files again as UTF-8.",
    ),
}
_COLUMN = re.compile(r'(?:Referenced column|does not have a column named) "([^"\n]{1,64})"')
_CSV_LINE = re.compile(r"CSV Error on Line: (\d{1,15})")
_CSV_REASONS: Sequence[tuple[str, str, str]] = (
    (
        "unterminated quote",
        "a quote is not closed, or a quote inside of a value is not doubled",
        'Export with quotes around values and "" for a quote inside of one.',
    ),
    (
        "Expected Number of Columns",
        "has more or fewer values than the first line has names",
        "Export with quotes around values that hold the sign between columns.",
    ),
    ("nicode", "is not UTF-8", "Export the file again as UTF-8."),
    ("aximum line size", TOO_LONG, "Leave such rows out, or cut their texts."),
)


class Complaints:
    """Errors that a query meets only if it uses what they are about, each known to DuckDB by a number."""

    def __init__(self) -> None:
        self._errors: list[DataError] = []

    def expression(self, error: DataError) -> str:
        """Return SQL that raises the error where it is computed."""
        self._errors.append(error)
        return f"error('{_MARK}{len(self._errors) - 1}')"

    def raised(self, error: Exception) -> DataError | None:
        """Return the error that stands behind one of DuckDB's, if it is one of these."""
        found = re.match(rf"(?:[A-Z][A-Za-z ]*: )?{_MARK}(\d+)(?!\d)", str(error))
        return self._errors[int(found[1])] if found and int(found[1]) < len(self._errors) else None


def refused_query(error: Exception, name: str, *, tables: str, row_group_bytes: int) -> DataError:
    """Return what may be said of an error of a query.

    Args:
        error: of DuckDB.
        name: of the query.
        tables: the tables and their columns, in words.
        row_group_bytes: of the largest row group that is read.
    """
    if type(error).__name__ == "OutOfMemoryException":
        return _too_little_memory(f"The {name} query", row_group_bytes=row_group_bytes)
    if type(error).__name__ == "BinderException":
        return _unbound(str(error), name, tables)
    kind = type(error).__name__
    meaning, hint = _MEANINGS.get(kind, (f"failed ({kind})", "Check the query and its files."))
    return DataError(f"The {name} query {meaning}.", hint=hint)


def _too_little_memory(subject: str, *, row_group_bytes: int) -> DataError:
    """Return what to say where memory does not suffice; a large row group is unpacked as a whole."""
    hint = "Leave sorting and grouping out of it."
    if row_group_bytes > 128 * 1024**2:
        hint = (
            f"A row group of its Parquet files has {row_group_bytes // 1024**2} MiB: write smaller ones, as with "
            "row_group_size=50_000 in pandas and pyarrow or ROW_GROUP_SIZE 50_000 in DuckDB."
        )
    return DataError(f"{subject} needs more memory than is set aside.", hint=hint)


def shown_name(column: str) -> str:
    """Return the name of a column as an error may show it: what does not look like a name may be somebody's words."""
    return column if looks_like_a_name(column) else "whose name is no plain word"


def looks_like_a_name(column: str) -> bool:
    """Whether the name of a column looks like one, and not like a value of a file without a header."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", column) is not None


def _unbound(said: str, name: str, tables: str) -> DataError:
    column = _COLUMN.search(said)
    if column is not None:
        return DataError(
            f"The {name} query names a column that its table has not: {column[1]}.",
            hint=f"{tables} See: ringfence data preview-schema",
        )
    if "cast" in said:
        return DataError(
            f"The {name} query compares or computes with a text.",
            hint="CAST it, as in CAST(sent_at AS TIMESTAMPTZ) >= :since or CAST(sent_at AS DOUBLE) / 1000 AS sent_at.",
        )
    return DataError(f"The {name} query names a table, column or type that does not fit.", hint=f"{tables}")


def damaged_file(error: Exception, path: Path) -> RingfenceError:
    """Return what is wrong with a file that DuckDB cannot read: its line, where that can be found out.

    Args:
        error: of DuckDB, met while this file was read.
        path: of the file.
    """
    kind, suffixes = type(error).__name__, [suffix.lower() for suffix in path.suffixes]
    if kind == "OutOfMemoryException":
        return DataError(
            f"{path} needs more memory than is set aside.", hint="Leave values of many megabytes out of it."
        )
    if suffixes[-1:] == [".parquet"]:
        return DataError(
            f"{path} is no whole Parquet file: it is cut off, damaged or of another kind.",
            hint="Copy or export the file again.",
        )
    for suffix, form in ((".gz", "gzip"), (".zst", "zstd")):
        if suffixes[-1:] == [suffix] and kind == "IOException":
            return DataError(
                f"{path} is cut off, damaged or not {form}.",
                hint="Copy the file again, or rename it if it is not compressed.",
            )
    if {".jsonl", ".ndjson", ".json"} & set(suffixes[-2:]):
        found = None if suffixes[-1:] == [".zst"] else _bad_json_line(path)
        return found or DataError(
            f"{path} holds a line that is not JSON, not UTF-8 or longer than 16 MiB.",
            hint="One JSON object a line.",
        )
    return _bad_csv(str(error), path)


def named_path(error: Exception, paths: Sequence[Path]) -> Path | None:
    """Return which of the files an error of DuckDB names, if it is one of them alone."""
    said = str(error)
    found = [path for path in paths if re.search(re.escape(str(path)) + r"(?![\w.])", said)]
    return found[0] if len(found) == 1 else None


def _bad_csv(said: str, path: Path) -> DataError:
    line = _CSV_LINE.search(said)
    where = f"{path}, line {line[1]}" if line else f"{path}"
    for sign, reason, hint in _CSV_REASONS:
        if sign in said:
            return DataError(f"{where}: {reason}.", hint=hint)
    return DataError(
        f"{where}: is no CSV of one form.",
        hint='Export as UTF-8 with one kind of line end, quotes around values and "" for a quote inside of one.',
    )


def _bad_json_line(path: Path) -> DataError | None:
    """Return what is wrong with the first bad line, or None if none is found."""
    try:
        with open_lines(path) as stream:
            for number, line in numbered_lines(stream, str(path)):
                reason = TOO_LONG if line is None else _json_problem(line)
                if reason:
                    return DataError(
                        f"{path}, line {number}: {reason}.", hint="One JSON object a line, as UTF-8."
                    )
    except DataError as error:
        return error
    return None


def _json_problem(line: bytes) -> str:
    if not line.strip():
        return ""
    try:
        text = line.decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start + 1} of the line)"
    except json.JSONDecodeError as error:
        return f"is not JSON (character {error.pos + 1} of the line)"
    except RecursionError:
        return "is nested too deeply"
    except ValueError:
        return "holds a number that is too long"
    if not isinstance(value, dict):
        return "is no JSON object"
    if "\\u" in text and LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        return "holds half of a surrogate pair"
    return ""
