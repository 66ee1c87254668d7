"""What one process at a time may do: serve a federation, work on a run. A claim falls away when its process dies.

On SQLite a claim is a lock on a file beside the database, on PostgreSQL an advisory lock of a connection that is held for
it. Asking who has a claim never takes it, so that a look cannot be in anybody's way.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from ringfence.model.errors import StorageError
from ringfence.server.database import Database
from ringfence.server.database_errors import explain

# struct flock of Linux on 64 bits: type, whence, start, length (0: the whole file), process (0: the open file's lock).
_FLOCK = struct.Struct("@hhqqi0q")
_WRITE_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_KEYS = "hashtext('ringfence ' || :name), hashtext(current_schema())"
_TAKE = text(  # of constants alone, as the others below
    f"SELECT pg_try_advisory_lock({_KEYS}) AS taken, pg_backend_pid() AS process,"  # noqa: S608
    " (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS since"
)
_GIVE = text(f"SELECT pg_advisory_unlock({_KEYS})")
_HELD = (
    "locktype = 'advisory' AND granted AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    # The view shows the two halves of the key without a sign.
    " AND classid = (hashtext('ringfence ' || :name)::bigint & 4294967295)::oid"
    " AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid"
)
_LOOK = text(f"SELECT count(*) FROM pg_locks WHERE {_HELD}")  # noqa: S608
_END_LEFT_BEHIND = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :process AND backend_start = :since"  # noqa: S608
    f" AND pid IN (SELECT pid FROM pg_locks WHERE {_HELD})"
)


LONGEST_LOOK_S = 10.0
"""What is asked about a claim waits for nobody at the server: whoever answers later stands still."""


class ClaimTakenError(StorageError):
    """Another process has the claim."""

    code = "claim_taken"


class ClaimLeftBehindError(StorageError):
    """PostgreSQL holds the claim for a connection of ours that is gone; nobody else has it."""

    code = "claim_left_behind"


@dataclass(frozen=True, slots=True)
class _Backend:
    """PostgreSQL's own process behind a connection; the number alone may be given again."""

    process: int
    since: datetime


@dataclass(slots=True)
class Claim:
    """A claim that this process has.

    Attributes:
        name: what is claimed.
    """

    name: str
    _database: Database
    _refuse: Callable[[], ClaimTakenError]
    _connection: Connection | None = None
    _backend: _Backend | None = None

    def is_held(self) -> bool:
        """Return whether the claim is still ours: False once PostgreSQL has lost the connection that it hangs on.

        The connection of one that does not answer within `LONGEST_LOOK_S` counts as lost, and is ended.
        """
        if self._connection is None:
            return True  # a file's lock lasts as long as the process
        try:
            with _soon(self._connection):
                self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            # Closed for good: it would come back as another connection, without the lock.
            self._drop()
            return False
        return True

    def take(self) -> None:
        """Take the claim on PostgreSQL, for the first time or anew after it was lost.

        If only this side knows that the connection is gone, PostgreSQL still holds the claim for it: its process there is
        ended, and the next attempt may succeed.

        Raises:
            ClaimTakenError: another process has it.
            ClaimLeftBehindError: it is held for a connection of ours that is gone; try again.
            StorageError: the database cannot be reached.
        """
        self._drop()
        try:
            if self._try():
                return
            if self._end_left_behind():
                raise ClaimLeftBehindError(
                    f"The database {self._database.place} still held a lost connection of this process; it is ended.",
                    hint="Nothing to do: it is tried again.",
                )
            # It may have been given back between the two looks.
            if self._try():
                return
        except SQLAlchemyError as error:
            raise explain(error, place=self._database.place) from error
        raise self._refuse()

    def give(self) -> None:
        """Give the claim back."""
        connection = self._connection
        if connection is not None and not connection.closed:
            try:
                with _soon(connection):
                    connection.execute(_GIVE, {"name": self.name})
            except SQLAlchemyError:
                connection.invalidate()  # the server has dropped the lock with the connection
            connection.close()

    def _try(self) -> bool:
        connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with _soon(connection):
                found = connection.execute(_TAKE, {"name": self.name}).one()
        except SQLAlchemyError:
            connection.invalidate()  # whether it has the lock is not known
            connection.close()
            raise
        if not found.taken:
            connection.close()
            return False
        self._connection, self._backend = connection, _Backend(found.process, found.since)
        return True

    def _end_left_behind(self) -> bool:
        """End PostgreSQL's process of our lost connection, if that is who has the claim; return whether it was."""
        if self._backend is None:
            return False
        lost = {"name": self.name, "process": self._backend.process, "since": self._backend.since}
        with self._database.engine.connect() as connection, _soon(connection):
            return bool(connection.execute(_END_LEFT_BEHIND, lost).all())

    def _drop(self) -> None:
        if self._connection is not None and not self._connection.closed:
            self._connection.invalidate()  # never back into the pool: it may have the lock
            self._connection.close()


@contextmanager
def claim(
    database: Database, name: str, *, taken: str | Callable[[], str], hint: str = ""
) -> Iterator[Claim]:
    """Have a claim for the length of the block.

    Args:
        database: the coordinator's.
        name: what is claimed.
        taken: what to say when another process has it; asked at that moment if it can be.
        hint: what to do then.

    Raises:
        ClaimTakenError: another process has it.
        StorageError: the database cannot be used.
    """

    def refusal() -> ClaimTakenError:
        return ClaimTakenError(taken if isinstance(taken, str) else taken(), hint=hint)

    held = Claim(name, database, refusal)
    if not database.is_sqlite:
        held.take()
        try:
            yield held
        finally:
            held.give()
        return
    handle = os.open(_lock_file(database, name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        except OSError as error:
            raise refusal() from error
        yield held
    finally:
        os.close(handle)


def is_claimed(database: Database, name: str) -> bool:
    """Return whether a process has the claim now, without taking it.

    Raises:
        StorageError: the database cannot be used.
    """
    if not database.is_sqlite:
        with database.reading() as connection:
            return bool(connection.scalar(_LOOK, {"name": name}))
    try:
        handle = os.open(_lock_file(database, name), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        found = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _WRITE_LOCK)
    finally:
        os.close(handle)
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _soon(connection: Connection) -> AbstractContextManager[None]:
    from ringfence.server.overdue_answers import answers_within

    return answers_within(connection, longest_s=LONGEST_LOOK_S)


def _lock_file(database: Database, name: str) -> Path:
    folder = (database.file or Path()).parent / "locks"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.lock"
