"""What one process at a time may do: serve a federation, work on a run. A claim falls away when its process dies.

On SQLite a claim is a lock on a file beside the database, on PostgreSQL an advisory lock of a connection that is held for
it. Asking who has a claim never takes it, so that a look cannot be in anybody's way.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
_TAKE = text(f"SELECT pg_try_advisory_lock({_KEYS})")
_GIVE = text(f"SELECT pg_advisory_unlock({_KEYS})")
_LOOK = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    # The view shows the two halves of the key without a sign.
    " AND classid = (hashtext('ringfence ' || :name)::bigint & 4294967295)::oid"
    " AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid"
)


class ClaimTakenError(StorageError):
    """Another process has the claim."""

    code = "claim_taken"


@dataclass(slots=True)
class Claim:
    """A claim that this process has.

    Attributes:
        name: what is claimed.
    """

    name: str
    _database: Database
    _refusal: ClaimTakenError
    _connection: Connection | None

    def is_held(self) -> bool:
        """Return whether the claim is still ours: False once PostgreSQL has lost the connection that it hangs on."""
        if self._connection is None:
            return True  # a file's lock lasts as long as the process
        try:
            self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            # Closed for good: it would come back as another connection, without the lock.
            self._connection.close()
            return False
        return True

    def take_again(self) -> None:
        """Take the claim anew after it was lost.

        Raises:
            ClaimTakenError: another process was faster.
            StorageError: the database cannot be reached yet.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = _take_on_postgresql(self._database, self.name, self._refusal)


@contextmanager
def claim(database: Database, name: str, *, taken: str, hint: str = "") -> Iterator[Claim]:
    """Have a claim for the length of the block.

    Args:
        database: the coordinator's.
        name: what is claimed.
        taken: what to say when another process has it.
        hint: what to do then.

    Raises:
        ClaimTakenError: another process has it.
        StorageError: the database cannot be used.
    """
    refusal = ClaimTakenError(taken, hint=hint)
    if not database.is_sqlite:
        held = Claim(name, database, refusal, _take_on_postgresql(database, name, refusal))
        try:
            yield held
        finally:
            _give_on_postgresql(held)
        return
    handle = os.open(_lock_file(database, name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        except OSError as error:
            raise refusal from error
        yield Claim(name, database, refusal, None)
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


def _take_on_postgresql(database: Database, name: str, refusal: ClaimTakenError) -> Connection:
    try:
        connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.scalar(_TAKE, {"name": name}):
            return connection
        connection.close()
    except SQLAlchemyError as error:
        raise explain(error, place=database.place) from error
    raise refusal


def _give_on_postgresql(held: Claim) -> None:
    connection = held._connection
    if connection is not None and not connection.closed:
        try:
            connection.execute(_GIVE, {"name": held.name})
        except SQLAlchemyError:
            connection.invalidate()  # the server has dropped the lock with the connection
        connection.close()


def _lock_file(database: Database, name: str) -> Path:
    folder = (database.file or Path()).parent / "locks"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.lock"
