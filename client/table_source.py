"""Files with one message a row, as tables for a member's queries: JSONL, CSV and Parquet, by DuckDB within bounded memory.

The queries see the named tables and nothing else: no other file, no network, no extension, no setting. What DuckDB says of
an error may quote a line of a file, so only its kind is passed on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ringfence.client.data_settings import SINCE, DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.query_source import Column, QueryRows, since_value
from ringfence.client.snapshot_writer import MAXIMUM_CHARACTERS
from ringfence.client.source_files import SourceFiles
from ringfence.client.source_rows import (
    LABEL_COLUMNS,
    LABELS,
    MESSAGE_COLUMNS,
    MESSAGES,
    OPTIONAL_LABEL_COLUMNS,
)
from ringfence.client.table_files import Table, pattern_of, table_of
from ringfence.client.table_refusals import (
    Complaints,
    damaged_file,
    looks_like_a_name,
    named_path,
    refused_query,
)
from ringfence.model.errors import ConfigError, DataError, RingfenceError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY_MIB = 256
# To look at every line of JSONL: room for a few of the longest. What a line usually takes is far less.
_MEMORY_TO_LOOK_MIB = 512
_SHARE_OF_THE_MACHINE = 0.75
_BLOCK = 200
_LISTED = 30
_OF_FILES = ("InvalidInputException", "IOException", "SerializationException", "InternalException")
_AGREED: Mapping[str, frozenset[str]] = {
    MESSAGES: frozenset(MESSAGE_COLUMNS),
    LABELS: frozenset((*LABEL_COLUMNS, *OPTIONAL_LABEL_COLUMNS)),
}
# The snapshot keeps no more of a message; a block of messages of a megabyte would be a gigabyte.
_HALF = MAXIMUM_CHARACTERS // 2
_KEPT = (
    f"CASE WHEN length({{text}}) > {MAXIMUM_CHARACTERS} THEN left({{text}}, {_HALF}) || right({{text}}, {_HALF}) "
    "ELSE {text} END"
)


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
        self._complaints = Complaints()
        self._paths: dict[str, list[Path]] = {}
        self._tables: dict[str, Table] = {}

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
        """Run a query and stream its rows; see `QuerySource.query`.

        Only the agreed columns are read, with null in the place of the others; a long text comes without its middle.
        """
        import duckdb

        if self._database is None:
            raise ConfigError("The tables are not open.")
        asked = SINCE.sub("$since", statement)
        # A time, not its text: a text is before or after another by its letters.
        parameters = {"since": since_value(self._data)} if SINCE.search(statement) else None
        # A cursor is a connection of its own to the same tables: one query may be read while another runs.
        cursor = self._open.enter_context(self._database.cursor())
        try:
            statements = cursor.extract_statements(asked)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise DataError(f"The {name} query is not one SELECT.", hint="Queries only read.")
            inside = f"({_without_end(asked)}\n)"
            cursor.execute(f"FROM {inside} LIMIT 0", parameters)
            columns = tuple(Column(str(item[0]), str(item[1])) for item in cursor.description or ())
        except duckdb.Error as error:
            raise self._refusal(error, name) from None
        return QueryRows(
            columns=columns, rows=self._rows(cursor, name, _agreed(name, columns, inside), parameters)
        )

    def tables(self) -> Mapping[str, tuple[str, ...]]:
        """Return the columns of each table."""
        return {name: table.columns for name, table in self._tables.items()}

    def _rows(
        self, cursor: DuckDBPyConnection, name: str, statement: str, parameters: Mapping[str, object] | None
    ) -> Iterator[Sequence[object]]:
        import duckdb

        try:
            cursor.execute(statement, parameters)
            while block := cursor.fetchmany(_BLOCK):
                yield from block
        except (duckdb.Error, UnicodeDecodeError) as error:
            raise self._refusal(error, name) from None

    def _prepare(self, located: SourceFiles) -> None:
        import duckdb

        temporary = self._home.snapshots
        temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{_MEMORY_TO_LOOK_MIB}MiB",
                "threads": 1,
                "temp_directory": str(temporary / "duckdb"),
                "python_enable_replacements": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        self._open.callback(database.close)
        self._paths = {name: _readable(located.locate(named)) for name, named in self._data.tables.items()}
        files = {path for paths in self._paths.values() for path in paths}
        allowed = sorted({str(path) for path in files} | {pattern_of(path) for path in files})
        # Closed off before any file is looked at: what stands in one can then reach no other.
        database.execute(f"SET allowed_paths = {_list(allowed)}")
        database.execute("SET enable_external_access = false")
        self._tables = {
            name: table_of(database, name, paths, complaints=self._complaints)
            for name, paths in self._paths.items()
        }
        try:
            for name, table in self._tables.items():
                database.execute(f'CREATE VIEW "{name}" AS {table.select}')
            database.execute(f"SET memory_limit = '{_memory_mib(self._tables.values())}MiB'")
            database.execute("SET TimeZone = 'UTC'")
            database.execute("SET lock_configuration = true")
        except duckdb.Error as error:
            raise DataError(
                f"The tables cannot be read together ({type(error).__name__}).",
                hint="Files of one table need columns of types that go together.",
            ) from None
        self._database = database

    def _refusal(self, error: Exception, name: str) -> RingfenceError:
        complaint = self._complaints.raised(error)
        if complaint is not None:
            return complaint
        if type(error).__name__ in _OF_FILES:
            paths = [path for paths in self._paths.values() for path in paths]
            path = named_path(error, paths)
            if path is not None:
                return damaged_file(error, path)
            for table, paths in self._paths.items():
                for path in paths:
                    found = self._damage(table, path)
                    if found is not None:
                        return found
        return refused_query(
            error,
            name,
            tables=_in_words(self.tables()),
            row_group_bytes=max((table.row_group_bytes for table in self._tables.values()), default=0),
        )

    def _damage(self, table: str, path: Path) -> RingfenceError | None:
        """Read one file alone and return what is wrong with it, if anything is."""
        import duckdb

        if self._database is None:
            return None
        try:
            alone = table_of(self._database, table, [path], complaints=Complaints())
            self._database.execute(f"SELECT max(COLUMNS(*)::VARCHAR) FROM ({alone.select})").fetchall()  # noqa: S608 - quoted
        except duckdb.Error as error:
            return damaged_file(error, path) if type(error).__name__ in _OF_FILES else None
        except RingfenceError as error:
            return error
        return None


def _memory_mib(tables: Iterable[Table]) -> int:
    """Return how much DuckDB may use: a row group of Parquet is read as a whole, in buffers that double as they fill."""
    wanted = _MEMORY_MIB + sum(3 * table.row_group_bytes for table in tables) // 1024**2
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    return max(_MEMORY_MIB, min(wanted, int(machine * _SHARE_OF_THE_MACHINE)))


def _readable(paths: list[Path]) -> list[Path]:
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise DataError(
                f"Cannot read {path}: {error.strerror}.", hint="Check the path and its permissions."
            ) from error
    return paths


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def _without_end(statement: str) -> str:
    """Return a statement without the semicolon after it, so that it can stand inside of another."""
    import duckdb

    encoded = statement.encode()
    ends = [place for place, _ in duckdb.tokenize(statement) if encoded[place : place + 1] == b";"]
    return encoded[: ends[-1]].decode() if ends else statement


def _agreed(name: str, columns: Sequence[Column], inside: str) -> str:
    """Return a query for the agreed columns alone. What a file lacks or holds in others is nobody's concern."""
    agreed = _AGREED.get(name)
    chosen = []
    for place, column in enumerate(columns):
        low = column.name.lower()
        if agreed is not None and low not in agreed:
            chosen.append("NULL")
        elif name == MESSAGES and low == "text" and column.type == "VARCHAR":
            chosen.append(_KEPT.format(text=f"c{place}"))
        else:
            chosen.append(f"c{place}")
    names = ", ".join(f"c{place}" for place in range(len(columns)))
    return f"SELECT {', '.join(chosen)} FROM {inside} AS asked({names})"  # noqa: S608 - the member's own query


def _in_words(tables: Mapping[str, Sequence[str]]) -> str:
    """Return the tables with their columns, unless a name among them may be a value of a file without a header."""
    listed = []
    for table, columns in tables.items():
        shown = columns[:_LISTED] if all(looks_like_a_name(column) for column in columns) else ()
        more = f" and {len(columns) - len(shown)} more" if shown and len(shown) < len(columns) else ""
        listed.append(f"{table} has {', '.join(shown) or f'{len(columns)} columns'}{more}.")
    return " ".join(listed)
