"""The ledger's file: one SQLite database that is locked, private, append-only, and on disk before anything leaves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ringfence.privacy.ledger_chain import KINDS, LedgerEntry, LedgerState, follow_all
from ringfence.privacy.ledger_place import check_folder, check_private_file
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_schema import CONNECTION_SETTINGS, REBUILT_ENTRIES, SCHEMA

_LOCK_WAIT_S = 10.0
_SELECT_ENTRY = "SELECT seq, kind, key, body, previous, hash FROM entry "


class LedgerStorage:
    """An open, locked ledger file.

    Use `create` or `open`; both refuse files that others can reach, network file systems and a second process.
    """

    def __init__(self, connection: sqlite3.Connection, lock: int) -> None:
        self._connection = connection
        self._lock = lock
        self._process = os.getpid()

    @classmethod
    def create(cls, path: Path) -> LedgerStorage:
        """Make a new file of mode 0600, or take one that a crash left before its first entry.

        Raises:
            BudgetError: there is a ledger already, or its place is not fit for one.
        """
        check_folder(path)
        lock = _take_lock(path)
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            check_private_file(path)
        except OSError as error:
            os.close(lock)
            raise refused(LedgerRefusal.DISK) from error
        except BaseException:
            os.close(lock)
            raise
        storage = cls._connect(path, lock)
        try:
            if storage.newest() is not None:
                raise refused(LedgerRefusal.EXISTS)
        except BaseException:
            storage.close()
            raise
        return storage

    @classmethod
    def open(cls, path: Path) -> LedgerStorage:
        """Open the file.

        Raises:
            BudgetError: it is missing, in use, reachable by others, on a network file system, or no ledger.
        """
        check_private_file(path)
        return cls._connect(path, _take_lock(path))

    @classmethod
    def _connect(cls, path: Path, lock: int) -> LedgerStorage:
        try:
            with storage_errors():
                connection = sqlite3.connect(
                    path, isolation_level=None, timeout=_LOCK_WAIT_S, check_same_thread=False
                )
                try:
                    for statement in CONNECTION_SETTINGS:
                        connection.execute(statement)
                    if _lacks_a_kind(connection):
                        _rebuild_entries(connection)
                    connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
                except BaseException:
                    connection.close()
                    raise
            _sync_folder(path.parent)
        except BaseException:
            os.close(lock)
            raise
        return cls(connection, lock)

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._process == os.getpid():
            self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; commit at the end, with one flush to disk, or undo everything on any error.

        Raises:
            BudgetError: the disk is full or failing, or this process is a fork of the one that opened the file.
        """
        with storage_errors():
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def entries(self, *, after: int = 0) -> Iterator[LedgerEntry]:
        """Yield every entry behind a place in the chain, from the first on."""
        with storage_errors():
            for row in self._execute(f"{_SELECT_ENTRY} WHERE seq > ? ORDER BY seq", after):
                yield LedgerEntry(*row)

    def newest(self) -> tuple[int, str] | None:
        """Return place and hash of the newest entry."""
        row = self._one("SELECT seq, hash FROM entry ORDER BY seq DESC LIMIT 1")
        return None if row is None else (int(row[0]), str(row[1]))

    def find(self, key: str) -> LedgerEntry | None:
        """Return the entry of a key."""
        row = self._one(f"{_SELECT_ENTRY} WHERE key = ?", key)
        return None if row is None else LedgerEntry(*row)

    def at(self, seq: int) -> LedgerEntry | None:
        """Return the entry at a place in the chain."""
        row = self._one(f"{_SELECT_ENTRY} WHERE seq = ?", seq)
        return None if row is None else LedgerEntry(*row)

    def append(self, entry: LedgerEntry, *, payload: bytes | None = None) -> None:
        """Add an entry and, for a release, its payload; inside a transaction."""
        self._execute(
            "INSERT INTO entry(seq, kind, key, body, previous, hash) VALUES (?, ?, ?, ?, ?, ?)",
            entry.seq,
            entry.kind,
            entry.key,
            entry.body,
            entry.previous,
            entry.hash,
        )
        if payload is not None:
            self._execute("INSERT INTO outbox(key, payload) VALUES (?, ?)", entry.key, payload)

    def payload(self, key: str) -> bytes | None:
        """Return the payload of a key; None if there is none or it was withdrawn."""
        row = self._one("SELECT payload FROM outbox WHERE key = ?", key)
        return None if row is None else bytes(row[0])

    def unsent(self) -> tuple[str, ...]:
        """Return the keys of payloads that were not marked as sent, the oldest first."""
        with storage_errors():
            rows = self._execute(
                "SELECT key FROM outbox JOIN entry USING (key) WHERE key NOT IN (SELECT key FROM sent) ORDER BY seq"
            ).fetchall()
        return tuple(str(row[0]) for row in rows)

    def head_was_returned(self, *, since: int) -> bool:
        """Return whether the coordinator returned a head of this ledger.

        Args:
            since: place of the newest entry by which the head was vouched for; 0 if there is none.
        """
        if since:
            return self._one("SELECT 1 FROM returned_again WHERE since = ?", since) is not None
        return self._one("SELECT 1 FROM returned") is not None

    def note_returned_head(self, *, since: int) -> None:
        """Note that the coordinator returned a head, for good; inside a transaction. ``since`` as above."""
        if since:
            self._execute("INSERT OR IGNORE INTO returned_again(since) VALUES (?)", since)
        else:
            self._execute("INSERT OR IGNORE INTO returned(once) VALUES (1)")

    def mark_sent(self, key: str) -> None:
        """Note that a payload left; inside a transaction."""
        self._execute("INSERT OR IGNORE INTO sent(key) VALUES (?)", key)

    def remove_payload(self, key: str) -> None:
        """Remove a payload for good; its entry stays; inside a transaction."""
        self._execute("DELETE FROM outbox WHERE key = ?", key)

    def _execute(self, statement: str, *values: str | int | bytes) -> sqlite3.Cursor:
        if self._process != os.getpid():
            raise refused(LedgerRefusal.FORKED)
        return self._connection.execute(statement, values)

    def _one(self, statement: str, *values: str | int | bytes) -> tuple[Any, ...] | None:
        with storage_errors():
            found: tuple[Any, ...] | None = self._execute(statement, *values).fetchone()
        return found


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn SQLite's errors into refusals: a write that failed is a full disk, anything unreadable is damage."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise refused(LedgerRefusal.DAMAGED) from error
    except sqlite3.OperationalError as error:
        locked = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise refused(LedgerRefusal.LOCKED if locked else LedgerRefusal.DISK) from error
    except sqlite3.DatabaseError as error:
        raise refused(LedgerRefusal.DAMAGED) from error


def _lacks_a_kind(connection: sqlite3.Connection) -> bool:
    """Return whether the table of entries is from before a kind existed: its constraint would refuse such an entry."""
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'entry'"
    ).fetchone()
    return found is not None and not all(f"'{kind}'" in str(found[0]) for kind in KINDS)


def _rebuild_entries(connection: sqlite3.Connection) -> None:
    """Give an older ledger the present table of entries, in one transaction; every entry stays as it is.

    Raises:
        BudgetError: the chain is not sound. Nothing was changed: the file is evidence.
    """
    before = _chain(connection)
    connection.execute("PRAGMA foreign_keys=OFF")
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {REBUILT_ENTRIES}")
        # The newest hash is over all that was hashed before it: the same state is the same entries.
        if (
            _chain(connection) != before
            or connection.execute("PRAGMA foreign_key_check").fetchone() is not None
        ):
            raise refused(LedgerRefusal.DAMAGED)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA foreign_keys=ON")


def _chain(connection: sqlite3.Connection) -> LedgerState | None:
    return follow_all(LedgerEntry(*row) for row in connection.execute(f"{_SELECT_ENTRY} ORDER BY seq"))


def _take_lock(path: Path) -> int:
    """Lock a file beside the ledger: SQLite's own locks fall when any handle of its file is closed."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise refused(LedgerRefusal.PERMISSIONS, place=lock) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise refused(LedgerRefusal.LOCKED) from error
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
