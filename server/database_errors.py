"""What a database's error means for the operator. Its own words stay out: they may hold values of rows."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ringfence.model.errors import StorageBusyError, StorageError

_RESTORE = "Stop serving, then restore a backup: ringfence-coordinator restore FILE"
_SQLITE = {
    sqlite3.SQLITE_FULL: ("is full", "Free some space on its disk; nothing was changed."),
    sqlite3.SQLITE_IOERR: (
        "cannot be read or written",
        "Check its disk: space, quota, mounts. Nothing was changed.",
    ),
    sqlite3.SQLITE_CORRUPT: ("is damaged", _RESTORE),
    sqlite3.SQLITE_NOTADB: ("is damaged", _RESTORE),
    sqlite3.SQLITE_CANTOPEN: (
        "is not there or cannot be opened",
        "Check --home; a new coordinator begins with: ringfence-coordinator init",
    ),
    sqlite3.SQLITE_READONLY: ("cannot be written", "Check the owner and mode of the file and its folder."),
    sqlite3.SQLITE_PERM: ("cannot be opened", "Check the owner and mode of the file and its folder."),
}
_UPGRADE = "Run: ringfence-coordinator db upgrade"
# By the first characters of PostgreSQL's SQLSTATE.
_POSTGRESQL = (
    ("53100", "is full", "Free some space on its server; nothing was changed."),
    ("53", "has no room for another connection", "Raise max_connections, or stop what else uses the server."),
    ("42P01", "lacks a table", _UPGRADE),
    ("42703", "lacks a column", _UPGRADE),
    ("28", "refuses this user", "Check user and password in the file that database_url_file names."),
    ("3D000", "is not there", "Make it with createdb, or correct the URL."),
    ("25006", "cannot be written", "Point database_url_file at the primary, not at a standby."),
    ("XX00", "is damaged", _RESTORE),
)
_BUSY_STATES = {"55P03", "57014", "40P01", "40001"}


def explain(error: SQLAlchemyError, *, place: str) -> StorageError:
    """Return the error of ours that a database's error stands for.

    Args:
        error: as the database raised it.
        place: where the database is, without a password.
    """
    if isinstance(error, PoolTimeoutError):
        return _busy(place)
    if not isinstance(error, DBAPIError):
        return StorageError(
            f"The database {place} answered {type(error).__name__}.",
            hint="Run again with --debug and report what it prints.",
        )
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _explain_sqlite(code, place=place)
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in _BUSY_STATES:
        return _busy(place)
    for prefix, what, hint in _POSTGRESQL:
        if state.startswith(prefix):
            return StorageError(f"The database {place} {what}.", hint=hint)
    if error.connection_invalidated or not state or state.startswith(("08", "57P")):
        return StorageError(
            f"The database {place} cannot be reached.",
            hint="Check that it runs, and the URL in the file that database_url_file names.",
        )
    return StorageError(
        f"The database {place} refused a change (SQLSTATE {state}).", hint="Nothing was changed."
    )


def _explain_sqlite(code: int, *, place: str) -> StorageError:
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _busy(place)
    if primary in _SQLITE:
        what, hint = _SQLITE[primary]
        return StorageError(f"The database {place} {what}.", hint=hint)
    if primary == sqlite3.SQLITE_ERROR:
        return StorageError(f"The database {place} is not in the form that this version uses.", hint=_UPGRADE)
    return StorageError(
        f"The database {place} refused a change (SQLite {code}).", hint="Nothing was changed."
    )


def _busy(place: str) -> StorageBusyError:
    return StorageBusyError(
        f"The database {place} is busy: another process holds it.",
        hint="Try again; if it stays so, find who holds it open.",
    )
