"""Files with one message a row, as tables for a member's queries: JSONL, CSV and Parquet, by DuckDB within bounded memory.

The queries see the named tables and nothing else: no other file, no network, no extension, no setting. What DuckDB says of
an error may quote a line of a file, so only its kind is passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ringfence.client.data_settings import SINCE, DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.query_source import Column, QueryRows
from ringfence.client.source_files import SourceFiles
from ringfence.model.errors import ConfigError, DataError, RingfenceError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY = "128MB"
_BLOCK = 1_000
_LONGEST_LINE = 16 * 1024 * 1024
_READERS: Mapping[str, str] = {
    ".parquet": "read_parquet({files}, union_by_name = true)",
    # As text: what looks like a number in the first lines need not be one, and 007 is not 7.
    ".csv": f"read_csv({{files}}, header = true, all_varchar = true, union_by_name = true, max_line_size = {_LONGEST_LINE})",
    ".jsonl": f"read_json({{files}}, format = 'newline_delimited', union_by_name = true, maximum_object_size = {_LONGEST_LINE})",
}
_SAME_AS = {".tsv": ".csv", ".ndjson": ".jsonl", ".json": ".jsonl"}
_COMPRESSED = (".gz", ".zst")
_MEANINGS: Mapping[str, tuple[str, str]] = {
    "CatalogException": ("names a table or function that there is not", "Tables are those of [data.tables]."),
    "BinderException": ("names a column that its table has not", "See: ringfence data preview-schema"),
    "ParserException": ("is not SQL", "Correct it in [data] of member.toml."),
    "PermissionException": (
        "reads what is not in [data.tables]",
        "Name every file there, and read the table.",
    ),
    "ConversionException": ("meets a value that cannot be converted", "TRY_CAST gives null for such values."),
    "OutOfMemoryException": ("needs more memory than is set aside", "Leave sorting and grouping out of it."),
    "InvalidInputException": (
        "meets a line that is damaged or not UTF-8",
        "Export the files again as UTF-8.",
    ),
}


class TableSource:
    """The tables of the settings, used as a context manager.

    Args:
        home: the member's folder; relative paths count from it, and temporary files go there.
        data: settings with tables.
    """

    def __init__(self, home: MemberHome, *, data: DataSettings) -> None:
        self._home = home
        self._data = data
        self._open = ExitStack()
        self._database: DuckDBPyConnection | None = None

    def __enter__(self) -> Self:
        """Find the files, fetch those that lie elsewhere, and close everything else off.

        Raises:
            ConfigError: a file is missing or of an unknown kind. The operator's to mend.
            DataError: a file cannot be read. The data owner's to mend.
        """
        try:
            self._prepare(self._open.enter_context(SourceFiles(self._home)))
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the files and remove what was fetched."""
        self._open.close()

    def query(self, name: str, statement: str) -> QueryRows:
        """Run a query and stream its rows; see `QuerySource.query`."""
        import duckdb

        if self._database is None:
            raise ConfigError("The tables are not open.")
        parameters = {"since": self._data.since} if SINCE.search(statement) else None
        # A cursor is a connection of its own to the same tables: one query may be read while another runs.
        cursor = self._open.enter_context(self._database.cursor())
        try:
            statements = cursor.extract_statements(SINCE.sub("$since", statement))
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise DataError(f"The {name} query is not one SELECT.", hint="Queries only read.")
            cursor.execute(statements[0], parameters)
            columns = tuple(Column(str(item[0]), str(item[1])) for item in cursor.description or ())
        except duckdb.Error as error:
            raise _refusal(error, name) from None
        return QueryRows(columns=columns, rows=_rows(cursor, name))

    def _prepare(self, files: SourceFiles) -> None:
        import duckdb

        temporary = self._home.snapshots
        temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": _MEMORY,
                "threads": 1,
                "temp_directory": str(temporary / "duckdb"),
                "python_enable_replacements": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        self._open.callback(database.close)
        located = {name: _readable(files.locate(named)) for name, named in self._data.tables.items()}
        everything = sorted({str(path) for paths in located.values() for path in paths})
        try:
            for name, paths in located.items():
                database.execute(f'CREATE VIEW "{name}" AS SELECT * FROM {_reader(name, paths)}')  # noqa: S608 - both checked
            database.execute(f"SET allowed_paths = {_list(everything)}")
            database.execute("SET TimeZone = 'UTC'")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
        except duckdb.Error as error:
            raise _refusal(error, "tables") from None
        self._database = database


def _readable(paths: list[Path]) -> list[Path]:
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise DataError(
                f"Cannot read {path}: {error.strerror}.", hint="Check the path and its permissions."
            ) from error
    return paths


def _reader(table: str, paths: Sequence[Path]) -> str:
    kinds = {_kind(path) for path in paths}
    kind = kinds.pop() if len(kinds) == 1 else ""
    if kind not in _READERS:
        raise ConfigError(
            f"The files of table {table} are not all of one known kind.",
            hint="Use .jsonl, .csv or .parquet; .jsonl and .csv may be compressed: .gz, .zst.",
        )
    return _READERS[kind].format(files=_list([str(path) for path in paths]))


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return _SAME_AS.get(name.suffix.lower(), name.suffix.lower())


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def _rows(cursor: DuckDBPyConnection, name: str) -> Iterator[Sequence[object]]:
    import duckdb

    try:
        while block := cursor.fetchmany(_BLOCK):
            yield from block
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise _refusal(error, name) from None


def _refusal(error: Exception, name: str) -> RingfenceError:
    """Return what may be said of an error of DuckDB: what its kind stands for."""
    subject = "A file of [data.tables]" if name == "tables" else f"The {name} query"
    kind = type(error).__name__
    meaning, hint = _MEANINGS.get(kind, (f"failed ({kind})", "Check the query and its files."))
    if name == "tables" and kind not in _MEANINGS:
        meaning = f"cannot be read ({kind})"
    return DataError(f"{subject} {meaning}.", hint=hint)
