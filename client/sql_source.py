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
from datetime import UTC, datetime
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
# What the server sends at a time, as far as the rows before tell: a thousand messages of a megabyte would be a gigabyte.
_FIRST_ROWS = 16
_MOST_ROWS = 256
_BLOCK_CHARACTERS = 8 * 1024 * 1024
_OTHER_PARAMETER = re.compile(r"(?<![:\w\\]):(?!since\b)(\w+)")
_CALENDAR = re.compile(r"\b(date|datetime|julianday|unixepoch|strftime|time)\s*\(", re.IGNORECASE)
_COMPARABLE = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d(\.\d+)?)?)?$")
_CAST = re.compile(f"{SINCE.pattern}(?=::)")
_URL_FORM = (
    "Write postgresql://user:password@host:port/database or sqlite:////path; in a password write %40 for @, %3A for :, %2F "
    "for /, %23 for # and %25 for %."
)
_STATES = {
    "25006": ("would change the database", "Queries only read: give a SELECT."),
    "42501": ("reads what this login may not read", "Grant SELECT on its tables to the login."),
    "57014": ("took too long, or was cancelled", "Make it faster, or raise query_timeout_s."),
    "28P01": ("could not be asked: the login is refused", "Check the user and password in the URL."),
    "28000": (
        "could not be asked: the login is refused",
        "Check the user in the URL, and that the server lets it in from here (pg_hba.conf).",
    ),
    "3D000": ("could not be asked: there is no such database", "Check the name of the database in the URL."),
    "53300": (
        "could not be asked: its server has no connection left",
        "Try again later, or raise max_connections there.",
    ),
    "57P03": ("could not be asked: its server is starting or stopping", "Try again in a moment."),
}
# Whoever is refused while connecting gets words without a code: libpq keeps it to itself. Only what they mean is passed on.
_REFUSED_LOGINS = (
    ("28P01", re.compile("(password|SASL|LDAP|PAM|RADIUS) authentication failed|no password supplied")),
    ("3D000", re.compile('database ".*" does not exist')),
    ("28000", re.compile("pg_hba.conf|role .* does not exist|not permitted to log in|authentication failed")),
    ("53300", re.compile("too many (clients|connections)|connection slots are reserved")),
    ("57P03", re.compile("the database system is|not (yet|currently) accepting connections")),
)
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
        ConfigError: the URL is missing, is none, is of another kind of database, or everybody can read its password. The
            operator's to mend.
    """

    def __init__(
        self, home: MemberHome, *, data: DataSettings, environment: Mapping[str, str] | None = None
    ) -> None:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        self._since = since_value(data)
        self._timeout_s = data.query_timeout_s
        text = _url_text(home, data, os.environ if environment is None else environment)
        if text.startswith("postgres://"):  # as libpq and many hosts of databases write it
            text = text.replace("postgres://", "postgresql://", 1)
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):  # as of a port that is no number
            # Not chained: the cause may quote the URL, and with it the password.
            raise ConfigError("The database's URL is not one.", hint=_URL_FORM) from None
        self._kind = url.get_backend_name()
        if self._kind not in ("postgresql", "sqlite"):
            raise ConfigError(
                f"Databases of kind {self._kind} are not read.",
                hint="Use PostgreSQL or SQLite, or export to Parquet, CSV or JSONL and name the files as tables.",
            )
        if data.url_file is not None:
            _require_private(home.root / data.url_file, url)
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
        except ValueError:  # as of a byte that is not UTF-8; not chained, for it quotes the URL
            self._open.close()
            raise ConfigError("The database's URL is not one.", hint=_URL_FORM) from None
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
        # Bound to a word of its own, also where :: follows; a colon before any other word stands for itself.
        bound = _CAST.sub("(:since)", statement.strip().rstrip(";"))
        prepared = text(_OTHER_PARAMETER.sub(r"\\:\1", bound))
        parameters = {"since": self._since_parameter()} if SINCE.search(statement) else {}
        try:
            result = self._connection.execution_options(stream_results=True).execute(prepared, parameters)
            if not result.returns_rows:
                raise DataError(f"The {name} query yields no rows.", hint="Queries only read: give a SELECT.")
            columns = _columns(result, self._kind)
        except SQLAlchemyError as error:
            raise _refusal(error, name) from None
        rows = _rows(result, name)
        if parameters and self._kind == "sqlite" and not _CALENDAR.search(statement):
            rows = self._compared_rightly(rows, name, columns)
        return QueryRows(columns=columns, rows=rows)

    def _since_parameter(self) -> object:
        if self._kind == "sqlite" and isinstance(self._since, datetime):
            # SQLite has no times: they are text that sorts, in the form and zone of its own datetime().
            return self._since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return self._since

    def _compared_rightly(
        self, rows: Iterator[Sequence[object]], name: str, columns: Sequence[Column]
    ) -> Iterator[Sequence[object]]:
        """Pass rows on, and complain of a time that came through only because its text has another form than ``since``."""
        place = next((at for at, column in enumerate(columns) if column.name.lower() == "sent_at"), None)
        for row in rows:
            if (
                place is not None
                and isinstance(self._since, datetime)
                and _is_earlier_text(row[place], self._since)
            ):
                raise DataError(
                    f"The {name} query yields times before since, in a form that SQLite does not compare with it.",
                    hint="Compare datetime(sent_at) >= :since. SQLite compares texts, and since is bound as 2025-01-31 12:00:00, UTC.",
                )
            yield row

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
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"Cannot read {path}, which should hold the database's URL.",
            hint="Check url_file and its permissions.",
        ) from None


def _require_private(path: Path, url: URL) -> None:
    if (url.password or "password" in url.query) and path.stat().st_mode & 0o007:
        raise ConfigError(
            f"Everybody can read {path}, which holds a password.", hint=f"Run: chmod 600 {path}"
        )


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

    wanted = _FIRST_ROWS
    try:
        while block := result.fetchmany(wanted):
            longest = max(sum(len(value) for value in row if isinstance(value, str | bytes)) for row in block)
            yield from block
            wanted = min(2 * wanted, _MOST_ROWS, max(1, _BLOCK_CHARACTERS // max(1, longest)))
            block = ()  # let go of it before the next one comes
    except SQLAlchemyError as error:
        raise _refusal(error, name) from None
    except UnicodeDecodeError:
        raise DataError(f"The {name} query meets a text in another encoding than the database's.") from None


def _is_earlier_text(value: object, since: datetime) -> bool:
    """Whether a value is a time before another, as a text in another form than ``2025-01-31 12:00:00``."""
    if not isinstance(value, str) or _COMPARABLE.match(value):
        return False
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return False
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) < since


def _refusal(error: Exception, name: str) -> RingfenceError:
    """Return what may be said of a driver's error: what its code stands for."""
    from sqlalchemy.exc import DataError as UnreadableValueError

    subject = "The database" if name == "database" else f"The {name} query"
    cause = getattr(error, "orig", None)
    state = getattr(cause, "sqlstate", None) or (_state_of_login(str(cause)) if name == "database" else "")
    if isinstance(cause, sqlite3.Error):
        meaning, hint = _sqlite_meaning(cause)
        return DataError(f"{subject} {meaning}.", hint=hint)
    meaning, hint = (
        _STATES.get(state)
        # A value that the server sent and the driver has no form for, as a time of 'infinity', has no SQLSTATE.
        or _CLASSES.get(_NOT_CONVERTED if isinstance(error, UnreadableValueError) else state[:2])
        or (
            "could not be asked: nobody answers there, or the login is refused" if not state else "failed",
            "Check host, port, user, password (with %40 for @ in it) and database in the URL, and that the server runs."
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


def _state_of_login(said: str) -> str:
    """Return the SQLSTATE of what was said to a connection that was refused, or ""; another language's words are not known."""
    return next((state for state, words in _REFUSED_LOGINS if words.search(said)), "")


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
