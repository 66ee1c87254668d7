"""Reading a ledger while its agent uses it: one moment of it, without its lock and without a write.

People look at a budget while the agent runs. Reading must neither stop the agent nor let anybody believe a ledger that
the agent would refuse, so the same transition that guards every charge verifies what is read here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ringfence.privacy.ledger_anchor import AnchorFile
from ringfence.privacy.ledger_chain import LedgerEntry, LedgerHead, LedgerState, follow_all
from ringfence.privacy.ledger_place import check_private_file
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused

_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """A release whose bytes are still kept.

    Attributes:
        seq: place of its charge in the chain.
        key: of its charge.
        sent: whether it has left.
    """

    seq: int
    key: str
    sent: bool


class LedgerReader:
    """A ledger as it stood when it was opened for reading. Close it, or use ``with``.

    Everything that it returns belongs to one moment, however much the agent writes meanwhile. The anchor is read first: an
    honest ledger only grows, so an anchor that is read before the chain stands in the chain.

    Attributes:
        anchor: the head that the second place remembers; None if it holds none.
    """

    def __init__(self, connection: sqlite3.Connection, anchor: LedgerHead | None, *, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.anchor = anchor

    @classmethod
    def open(cls, path: Path, *, anchor_path: Path | None) -> Self:
        """Open for reading.

        Args:
            path: of the ledger.
            anchor_path: the second place; None if it is lost, and what is read is not to be trusted before somebody vouches.

        Raises:
            BudgetError: the ledger or its anchor is missing, or others can reach the ledger.
        """
        check_private_file(path)
        anchor = None if anchor_path is None else _read_anchor(anchor_path)
        with _reading_errors(path):
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=_WAIT_S
            )
            try:
                connection.execute("BEGIN")
                connection.execute("SELECT 1 FROM entry LIMIT 1")  # the moment is fixed by the first look
            except BaseException:
                connection.close()
                raise
        return cls(connection, anchor, path=path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def entries(self) -> Iterator[LedgerEntry]:
        """Yield every entry, from the first on, as it lies on disk: not verified."""
        with _reading_errors(self._path):
            for row in self._connection.execute(
                "SELECT seq, kind, key, body, previous, hash FROM entry ORDER BY seq"
            ):
                yield LedgerEntry(*row)

    def verified_state(self) -> LedgerState:
        """Return what the chain adds up to, verified as the agent verifies it when it starts.

        Raises:
            BudgetError: the chain is broken, behind its anchor, or has no entry.
        """
        state = follow_all(self.entries(), known=[] if self.anchor is None else [self.anchor])
        if state is None:
            raise refused(LedgerRefusal.MISSING)
        if self.anchor is None and state.head.seq > 1:
            raise refused(LedgerRefusal.NO_ANCHOR)
        return state

    def stored(self) -> tuple[StoredPayload, ...]:
        """Return the releases whose bytes are kept, the oldest first."""
        with _reading_errors(self._path):
            rows = self._connection.execute(
                "SELECT seq, key, key IN (SELECT key FROM sent) FROM outbox JOIN entry USING (key) ORDER BY seq"
            ).fetchall()
        return tuple(StoredPayload(int(seq), str(key), bool(sent)) for seq, key, sent in rows)

    def sent(self) -> frozenset[str]:
        """Return the keys of all releases that have left, whether or not their bytes are still kept."""
        with _reading_errors(self._path):
            return frozenset(str(key) for (key,) in self._connection.execute("SELECT key FROM sent"))

    def payload_digests(self) -> Iterator[tuple[str, str]]:
        """Yield the key and the SHA-256, in hexadecimal, of each kept payload; one payload is in memory at a time."""
        with _reading_errors(self._path):
            for key, payload in self._connection.execute("SELECT key, payload FROM outbox ORDER BY key"):
                yield str(key), hashlib.sha256(payload).hexdigest()


def _read_anchor(path: Path) -> LedgerHead | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise refused(LedgerRefusal.NO_ANCHOR) from error
    anchor = AnchorFile(path, handle)  # without its lock, which the agent holds
    try:
        return anchor.read()
    finally:
        anchor.close()


@contextlib.contextmanager
def _reading_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into refusals: what cannot be read is in doubt."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        reason = {
            sqlite3.SQLITE_BUSY: LedgerRefusal.LOCKED,
            sqlite3.SQLITE_LOCKED: LedgerRefusal.LOCKED,
            sqlite3.SQLITE_CANTOPEN: LedgerRefusal.PERMISSIONS,
            sqlite3.SQLITE_PERM: LedgerRefusal.PERMISSIONS,
        }.get(code, LedgerRefusal.DAMAGED)
        raise refused(reason, place=path) from error
    except sqlite3.DatabaseError as error:
        raise refused(LedgerRefusal.DAMAGED) from error
