"""The coordinator's database: SQLite in its home by default, PostgreSQL by URL.

Whoever changes anything is alone: SQLite's ``BEGIN IMMEDIATE``, and on PostgreSQL an advisory lock that every changing
transaction takes first. What a transaction reads is therefore what it changes, on both, and a check before an insert
holds. Waiting for one's turn is bounded.

Transactions join: a store that opens one inside another's takes part in that one, and all is kept or nothing.

    with database.transaction():
        invitations.burn(...)
        members.admit(...)
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ringfence.model.errors import ConfigError, StorageError
from ringfence.server.database_errors import explain

BUSY_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 10
_STATEMENT_TIMEOUT_S = 60
# Of either side, about half a minute until it knows that the other is gone: idle, then so many questions without an answer. A
# server that does not know keeps what a lost connection held, claims included; the systems' own default is two hours.
_KEEP_ALIVE_IDLE_S = 15
_KEEP_ALIVE_INTERVAL_S = 5
_KEEP_ALIVE_COUNT = 3
_UNACKNOWLEDGED_S = 30
# Of one schema, so that two federations may share a PostgreSQL database.
_WRITER_LOCK = "SELECT pg_advisory_xact_lock(hashtext('ringfence writer'), hashtext(current_schema()))"


class Database:
    """One database and its connections.

    Args:
        url: where it is; ``sqlite:///`` and ``postgresql://`` are known.
        busy_timeout_s: how long a transaction waits for its turn.

    Raises:
        ConfigError: this is no URL of a database that is known. The operator's to mend.
    """

    def __init__(self, url: str | URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.url = parse_database_url(url)
        self.busy_timeout_s = busy_timeout_s
        self.engine = _sqlite_engine(self) if self.is_sqlite else _postgresql_engine(self)
        self._joined: ContextVar[Connection | None] = ContextVar("ringfence_transaction", default=None)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, and not PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database, else None."""
        return Path(self.url.database or "") if self.is_sqlite else None

    @property
    def place(self) -> str:
        """Where the database is, for people: never with a password."""
        return (
            str(self.file) if self.is_sqlite else self.url.set(query={}).render_as_string(hide_password=True)
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Change the database as the only one who does, all or nothing; joins a transaction that is under way.

        Raises:
            StorageError: the database cannot be used, or the turn did not come in time. Nothing was changed.
        """
        joined = self._joined.get()
        if joined is not None:
            yield joined
            return
        with self._explained(), self.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self.is_sqlite else _WRITER_LOCK)
            token = self._joined.set(connection)
            try:
                yield connection
            finally:
                self._joined.reset(token)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one consistent state, without waiting for anybody; inside a transaction, what that one sees.

        Raises:
            StorageError: the database cannot be used.
        """
        joined = self._joined.get()
        if joined is not None:
            yield joined
            return
        with self._explained(), self.engine.connect() as connection:
            if not self.is_sqlite:
                # Said with the transaction's first words, and so without a question more to the server.
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN")
                yield connection

    def close(self) -> None:
        """Close every connection that is not in use."""
        self.engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise explain(error, place=self.place) from error


def parse_database_url(url: str | URL) -> URL:
    """Return a checked URL, with the driver that we use.

    Raises:
        ConfigError: this is no URL of a database that is known. The operator's to mend.
    """
    hint = "Use sqlite:////absolute/path.db or postgresql://user:password@host/database"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        # The text is not repeated: it may hold a password.
        raise ConfigError("This is not the URL of a database.", hint=hint) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or not Path(parsed.database).is_absolute():
            raise ConfigError("An SQLite database needs an absolute path.", hint=hint)
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"A database of the kind {backend} is not supported.", hint=hint)


def create_sqlite_file(path: Path) -> None:
    """Make an empty file that the coordinator alone can read; opening never makes one.

    Raises:
        StorageError: it cannot be made. The operator's to mend.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(
            f"Cannot make the database {path}: {error.strerror}.", hint="Check the folder and the disk."
        ) from error


def _sqlite_engine(database: Database) -> Engine:
    path = str(database.file)

    def connect() -> sqlite3.Connection:
        # No isolation level: Python's module then begins nothing by itself, and `transaction` does.
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=database.busy_timeout_s,
            check_same_thread=False,
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=5, max_overflow=20)


def _postgresql_engine(database: Database) -> Engine:
    # Loads the driver, which who has an SQLite file does without.
    from ringfence.server.overdue_answers import AnsweredConnection

    engine = create_engine(
        database.url,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "ringfence-coordinator",
            "keepalives_idle": _KEEP_ALIVE_IDLE_S,
            "keepalives_interval": _KEEP_ALIVE_INTERVAL_S,
            "keepalives_count": _KEEP_ALIVE_COUNT,
            "tcp_user_timeout": _UNACKNOWLEDGED_S * 1000,
        },
        pool_pre_ping=True,  # the server may have been restarted since
        pool_size=5,
        max_overflow=20,
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> object:
        return AnsweredConnection.connect(*arguments, **options)

    @event.listens_for(engine, "connect")
    def settle(connection: object, _record: object) -> None:
        settings = {
            "lock_timeout": f"{int(database.busy_timeout_s * 1000)}",
            "statement_timeout": f"{_STATEMENT_TIMEOUT_S * 1000}",
            # A process that stands still inside a transaction must not stop all others for ever.
            "idle_in_transaction_session_timeout": f"{_STATEMENT_TIMEOUT_S * 1000}",
            "synchronous_commit": "on",
            # The server's side of the same connection.
            "tcp_keepalives_idle": f"{_KEEP_ALIVE_IDLE_S}",
            "tcp_keepalives_interval": f"{_KEEP_ALIVE_INTERVAL_S}",
            "tcp_keepalives_count": f"{_KEEP_ALIVE_COUNT}",
            "tcp_user_timeout": f"{_UNACKNOWLEDGED_S * 1000}",
        }
        with connection.cursor() as cursor:  # type: ignore[attr-defined]  # a connection of the driver
            for name, value in settings.items():
                cursor.execute(f"SET {name} = {value}")
        connection.commit()  # type: ignore[attr-defined]

    return engine
