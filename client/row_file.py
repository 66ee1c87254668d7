"""The feature rows of one feature set in one file, a row a conversation, each with whom it holds, under pseudonyms.

A row is found by a keyed hash of what it was made from, so that new conversations and another contribution bound cost no
row that is there already. Rows are written in batches: who is stopped loses the last one. A checksum tells a row that was
changed, or that stands in another's place, from the one that was written; such a row counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ringfence.model.conversation import Conversation

KEY_BYTES = 16
_CHECKSUM_BYTES = 16
_VERSION = 1
# The version last: a file in which it stands has its table.
_SCHEMA = f"""
CREATE TABLE feature_row (
    key BLOB NOT NULL, prefixes TEXT NOT NULL, made_at REAL NOT NULL, participants BLOB NOT NULL, checksum BLOB NOT NULL,
    content BLOB NOT NULL, PRIMARY KEY (key, prefixes));
PRAGMA user_version = {_VERSION};
"""
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class ConversationKeys:
    """Names what conversations hold by a hash under the member's own secret: without it, no guess can be tested.

    Args:
        secret: the member's own, at least 16 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.new(secret, b"ringfence feature rows", hashlib.sha256).digest()

    def of(self, conversation: Conversation) -> bytes:
        """Return the key of a conversation's rows: of its id and its messages, not of its label, which no row depends on."""
        state = hashlib.blake2b(key=self._key, digest_size=KEY_BYTES)
        state.update(repr((conversation.id, len(conversation.messages))).encode("utf-8", "surrogatepass"))
        for message in conversation.messages:
            state.update(repr((message.author, message.text, message.time)).encode("utf-8", "surrogatepass"))
        return state.digest()


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The rows of one conversation.

    Attributes:
        key: of `ConversationKeys`.
        participants: everyone in the conversation, as the manifest calls them, in hexadecimal.
        features: (prefixes, dimension) float32.
    """

    key: bytes
    participants: tuple[str, ...]
    features: NDArray[np.float32]


class RowFile:
    """One file of rows, used as a context manager; whoever opens it holds the cache's lock.

    Args:
        path: made with mode 0600 if it is missing; made anew if it is damaged or of another version, as all its rows can be.
        check: look at the whole file for damage, once before it is read, and not only at its beginning.
    """

    def __init__(self, path: Path, *, check: bool = False) -> None:
        database = _opened(path, check=check)
        if database is None:
            remove_row_file(path)
            database = _made(path)
        self._name = path.name
        self._database = database

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._database.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._database.execute("SELECT count(*) FROM feature_row").fetchone()[0])

    def read(self, key: bytes, *, prefixes: tuple[float, ...], dimension: int) -> NDArray[np.float32] | None:
        """Return the rows of a conversation, (prefixes, dimension) float32, or None if there are none that are whole."""
        found = self._database.execute(
            "SELECT checksum, content FROM feature_row WHERE key = ? AND prefixes = ?", (key, _text(prefixes))
        ).fetchone()
        if found is None:
            return None
        checksum, content = found
        rows = len(prefixes)
        if (
            not isinstance(content, bytes)
            or len(content) != 4 * rows * dimension
            or checksum != self._checksum(key, _text(prefixes), content)
        ):
            return None
        return np.frombuffer(content, dtype="<f4").reshape(rows, dimension)

    def write(self, rows: Sequence[FeatureRow], *, prefixes: tuple[float, ...], now: float) -> None:
        """Keep rows, all of them or, if this is cut short, none.

        Args:
            rows: new, or in the place of those of the same conversations and prefixes.
            prefixes: beginnings that the rows are of.
            now: seconds since the epoch.
        """
        text = _text(prefixes)
        with self._transaction():
            for row in rows:
                content = row.features.astype("<f4").tobytes()
                participants = b"".join(bytes.fromhex(person) for person in row.participants)
                self._database.execute(
                    "INSERT OR REPLACE INTO feature_row VALUES (?, ?, ?, ?, ?, ?)",
                    (row.key, text, now, participants, self._checksum(row.key, text, content), content),
                )

    def holds(self, person: str) -> bool:
        """Return whether a row holds a person."""
        found = self._database.execute(
            f"SELECT 1 FROM feature_row WHERE {_HOLDS} LIMIT 1",  # noqa: S608 - no value in it
            _of(person),
        )
        return found.fetchone() is not None

    def remove_person(self, person: str) -> int:
        """Remove the rows that hold a person or do not say whom they hold, and return of how many conversations."""
        return self._remove(f"{_HOLDS} OR length(participants) = 0", _of(person))

    def remove_older(self, *, than: float) -> int:
        """Remove the rows that were made before a time, and return of how many conversations."""
        return self._remove("made_at < ?", (than,))

    def keep_only(self, keys: Collection[bytes]) -> int:
        """Remove the rows of every other key, and return of how many conversations."""
        there = [key for (key,) in self._database.execute("SELECT DISTINCT key FROM feature_row")]
        gone = [(key,) for key in there if key not in keys]
        if gone:
            with self._transaction():
                self._database.executemany("DELETE FROM feature_row WHERE key = ?", gone)
        return len(gone)

    def _remove(self, condition: str, values: tuple[object, ...]) -> int:
        with self._transaction():
            found = self._database.execute(
                f"SELECT count(DISTINCT key) FROM feature_row WHERE {condition}",  # noqa: S608 - no value in it
                values,
            ).fetchone()
            self._database.execute(f"DELETE FROM feature_row WHERE {condition}", values)  # noqa: S608 - the same
        return int(found[0])

    def _checksum(self, key: bytes, prefixes: str, content: bytes) -> bytes:
        state = hashlib.blake2b(digest_size=_CHECKSUM_BYTES)
        state.update(f"{self._name}|{prefixes}|{key.hex()}|".encode())
        state.update(content)
        return state.digest()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.rollback()
            raise
        self._database.commit()


def is_row_file(path: Path) -> bool:
    """Return whether a file is one of rows, of this version and not damaged."""
    database = _opened(path, check=True)
    if database is not None:
        database.close()
    return database is not None


def remove_row_file(path: Path) -> None:
    """Remove a file of rows and what SQLite keeps beside it."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)


# A person's pseudonym is 32 random bytes: that it occurs across two others by chance will not happen.
_HOLDS = "instr(participants, ?) > 0"


def _of(person: str) -> tuple[bytes]:
    return (bytes.fromhex(person),)


def _text(prefixes: tuple[float, ...]) -> str:
    return ",".join(map(repr, prefixes))


def _opened(path: Path, *, check: bool) -> sqlite3.Connection | None:
    """Return a file of rows of this version, or None if it is none or is damaged."""
    if not path.exists():
        return None
    database = _connection(path)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == _VERSION and (
            not check or database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        ):
            return database
    except sqlite3.DatabaseError as error:
        if not str(getattr(error, "sqlite_errorname", "")).startswith(_DAMAGED):
            database.close()
            raise
    database.close()
    return None


def _made(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite would let others read it
    database = _connection(path)
    database.executescript(_SCHEMA)
    return database


def _connection(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    # What is removed is overwritten, not only taken off a list.
    database.execute("PRAGMA secure_delete = ON")
    return database
