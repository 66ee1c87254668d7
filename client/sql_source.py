"""A member's database, read within one read-only transaction: PostgreSQL and SQLite.

Only these two, because for them the server itself refuses every write and keeps one state for all queries of the
transaction; both are tested against real ones. Errors of the driver carry statements, parameters and values of rows, so
none is passed on: a code and what it means are.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from ringfence.client.data_settings import SINCE, DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.query_source import Column, QueryRows, since_value
from ringfence.model.errors import ConfigError, DataError, RingfenceError

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult
    from sqlalchemy.engine import URL, Engine

_CONNECT_TIMEOUT_S = 15
# Rows that the server sends at a time: a thousand messages of a megabyte would be a gigabyte.
_BLOCK = 256
_OTHER_PARAMETER = re.compile(r"(?<![:\w\\]):(?!since\b)(\w+)")
_STATES = {
    "25006": ("would change the database", "Queries only read: give a SELECT."),
    "42501": ("reads what this login may not read", "Grant SELECT on its tables to the login."),
    "57014": ("took too long, or was cancelled", "Make it faster, or raise query_timeout_s."),
    "28P01": ("could not be asked: the login is refused", "Check the user and password in the URL."),
    "28000": ("could not be asked: the login is refused", "Check the user and password in the URL."),
    "3D000": ("could not be asked: there is no such database", "Check the name of the database in the URL."),
}
_NOT_CONVERTED = "22"
_CLASSES = {
    "08": ("could not be asked: the connection failed", "Check host and port, and that the server runs."),
    _NOT_CONVERTED: (
        "meets a value that cannot be converted",
        "Convert the column in the query, as NULLIF(sent_at, 'infinity'), or leave such rows out.",
    ),
    "40": ("was ended by the server to protect other work", "Try again."),
    "42": ("is not valid here", "Run it in the database's own console."),
    "53": ("was refused: the server is short of something", "Try again later."),
    "57": ("was ended by the server", "Try again."),
}


class SqlSource:
    """A database, used as a context manager.

    Args:
        home: the member's folder; relative paths count from it.
        data: settings of kind ``sql``.
        environment: where ``url_env`` is looked up; the process's own by default.

    Raises:
        ConfigError: the URL is missing or is of another kind of database. The operator's to mend.
    """

    def __init__(
        self, home: MemberHome, *, data: DataSettings, environment: Mapping[str, str] | None = None
    ) -> None:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        self._since = since_value(data)
        self._timeout_s = data.query_timeout_s
        text = _url_text(home, data, os.environ if environment is None else environment)
        try:
            url = make_url(text)
        except ArgumentError:
            # Not chained: the cause may quote the URL, and with it the password.
            raise ConfigError(
                "The database's URL is not one.",
                hint="Write postgresql://user:password@host/database or sqlite:////path.",
            ) from None
        self._kind = url.get_backend_name()
        if self._kind not in ("postgresql", "sqlite"):
            raise ConfigError(
                f"Databases of kind {self._kind} are not read.",
                hint="Use PostgreSQL or SQLite, or export to Parquet, CSV or JSONL and name the files as tables.",
            )
        self._url = url
        self._home = home
        self._open = ExitStack()
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        """Connect and begin the transaction that every query sees.

        Raises:
            DataError: there is no such database, or it refuses. The data owner's to mend.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = self._postgresql() if self._kind == "postgresql" else self._sqlite()
            self._open.callback(engine.dispose)
            self._connection = self._open.enter_context(engine.connect())
            if self._kind == "sqlite":
                self._connection.exec_driver_sql("BEGIN")
                _only_reading(self._connection)
        except SQLAlchemyError as error:
            self._open.close()
            raise _refusal(error, "database") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the transaction and disconnect."""
        self._open.close()

    def query(self, name: str, statement: str) -> QueryRows:
        """Run a query and stream its rows; see `QuerySource.query`."""
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        if self._connection is None:
            raise ConfigError("The database is not open.")
        # A colon before any other word stands for itself.
        prepared = text(_OTHER_PARAMETER.sub(r"\\:\1", statement.strip().rstrip(";")))
        parameters = {"since": self._since_parameter()} if SINCE.search(statement) else {}
        try:
            result = self._connection.execution_options(stream_results=True, yield_per=_BLOCK).execute(
                prepared, parameters
            )
            if not result.returns_rows:
                raise DataError(f"The {name} query yields no rows.", hint="Queries only read: give a SELECT.")
            columns = _columns(result, self._kind)
        except SQLAlchemyError as error:
            raise _refusal(error, name) from None
        return QueryRows(columns=columns, rows=_rows(result, name))

    def _since_parameter(self) -> object:
        if self._kind == "sqlite" and self._since is not None and not isinstance(self._since, int):
            return self._since.strftime("%Y-%m-%d %H:%M:%S")  # SQLite has no times: they are text that sorts
        return self._since

    def _postgresql(self) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        given = self._url.query.get("options", "")
        # Read-only by default for every transaction, so that a statement that ends ours is refused its writes as well.
        options = (
            f"{given if isinstance(given, str) else ' '.join(given)} -c default_transaction_read_only=on "
            f"-c statement_timeout={self._timeout_s * 1000} -c timezone=UTC"
        ).strip()
        engine = create_engine(
            self._url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "options": options,
                "application_name": "ringfence",
            },
        )
        # All queries see the state at the first of them.
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _sqlite(self) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        path = _sqlite_path(self._home, self._url)

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode=ro", uri=True, timeout=_CONNECT_TIMEOUT_S, isolation_level=None
            )
            # A text that is not UTF-8 (an old client's) is read with U+FFFD in the place of what is broken.
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("PRAGMA query_only = ON")
            return connection

        return create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


def _url_text(home: MemberHome, data: DataSettings, environment: Mapping[str, str]) -> str:
    if data.url_env is not None:
        text = environment.get(data.url_env, "")
        if not text:
            raise ConfigError(
                f"The environment variable {data.url_env} is not set; the database's URL should be in it.",
                hint="Set it for the agent and for this command, or use url_file.",
            )
        return text.strip()
    path = home.root / (data.url_file or "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"Cannot read {path}, which should hold the database's URL.",
            hint="Check url_file and its permissions.",
        ) from None


def _sqlite_path(home: MemberHome, url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise ConfigError("The SQLite URL names no file.", hint="Write sqlite:////absolute/path.db")
    path = (home.root / url.database).absolute()
    if not path.is_file():
        raise DataError(f"There is no database {path}.", hint="Check the path in the URL.")
    return path


def _only_reading(connection: Connection) -> None:
    """Refuse, in SQLite itself, everything but reading: also ATTACH, which would make a file."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise ConfigError("The SQLite driver is not Python's own.", hint="Write sqlite:////path.db")
    reading = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
    ending = sqlite3.SQLITE_TRANSACTION

    def allow(action: int, first: str | None, *_: str | None) -> int:
        allowed = action in reading or (action == ending and first == "ROLLBACK")
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    driver.set_authorizer(allow)


def _columns(result: CursorResult[tuple[object, ...]], kind: str) -> tuple[Column, ...]:
    described = result.cursor.description if result.cursor is not None else ()
    if kind != "postgresql":
        return tuple(Column(str(item[0]), "") for item in described)
    from psycopg import adapters

    types = {}
    for item in described:
        known = adapters.types.get(cast(int, item[1]))
        types[item[0]] = known.name if known is not None else ""
    return tuple(Column(str(item[0]), types[item[0]]) for item in described)


def _rows(result: CursorResult[tuple[object, ...]], name: str) -> Iterator[Sequence[object]]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for block in result.partitions(_BLOCK):
            yield from block
    except SQLAlchemyError as error:
        raise _refusal(error, name) from None
    except UnicodeDecodeError:
        raise DataError(f"The {name} query meets a text in another encoding than the database's.") from None


def _refusal(error: Exception, name: str) -> RingfenceError:
    """Return what may be said of a driver's error: what its code stands for."""
    from sqlalchemy.exc import DataError as UnreadableValueError

    subject = "The database" if name == "database" else f"The {name} query"
    cause = getattr(error, "orig", None)
    state = getattr(cause, "sqlstate", None) or ""
    if isinstance(cause, sqlite3.Error):
        meaning, hint = _sqlite_meaning(cause)
        return DataError(f"{subject} {meaning}.", hint=hint)
    meaning, hint = (
        _STATES.get(state)
        # A value that the server sent and the driver has no form for, as a time of 'infinity', has no SQLSTATE.
        or _CLASSES.get(_NOT_CONVERTED if isinstance(error, UnreadableValueError) else state[:2])
        or (
            "could not be asked" if not state else "failed",
            "Check host, port and name in the URL, and that the server runs."
            if not state
            else "Run it in the database's own console.",
        )
    )
    if state in ("42P01", "42703", "42883"):
        # These name a table, a column or a function of the query, never a value.
        primary = getattr(getattr(cause, "diag", None), "message_primary", None)
        meaning = f"{meaning}: {primary}" if primary else meaning
    code = f" (SQLSTATE {state})" if state else ""
    return DataError(f"{subject} {meaning}{code}.", hint=hint)


def _sqlite_meaning(error: sqlite3.Error) -> tuple[str, str]:
    text = str(error)
    if text.startswith(("no such table:", "no such column:", "no such function:")):
        return f"is not valid here: {text}", "Run it in the database's own console."
    code = getattr(error, "sqlite_errorname", "") or ""
    if code in ("SQLITE_AUTH", "SQLITE_READONLY") or "not authorized" in text:
        return "would change the database", "Queries only read: give a SELECT."
    if code.startswith("SQLITE_BUSY"):
        return "could not be asked: somebody is writing to it", "Try again."
    if code in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return "could not be asked: the file is damaged or no SQLite database", "Check the path in the URL."
    return f"failed ({code or type(error).__name__})", "Run it in the database's own console."
