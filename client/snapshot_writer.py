"""Writes a snapshot: everything that one reading of a member's data found, under pseudonyms, in a private file of SQLite.

Rows may come in any order and of any number; memory stays bounded because the file does the grouping. People whom the
member forgot are left out here, where their names are still known.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ringfence.client.pseudonyms import Pseudonyms
from ringfence.model.conversation import Conversation
from ringfence.model.errors import DataError

MAXIMUM_CHARACTERS = 16_384
"""Of a message, what is kept: half of it from the beginning, half from the end. No encoder reads more."""

_BATCH = 1_000
_REMEMBERED = 65_536
_SCHEMA = """
CREATE TABLE found (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE conversation (
    number INTEGER PRIMARY KEY, pseudonym BLOB NOT NULL UNIQUE, label INTEGER, platform TEXT, part INTEGER NOT NULL,
    excluded INTEGER NOT NULL DEFAULT 0, given INTEGER NOT NULL DEFAULT 0, by_time INTEGER NOT NULL DEFAULT 0,
    by_number INTEGER NOT NULL DEFAULT 0);
CREATE TABLE message (
    sequence INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, id, author BLOB NOT NULL, time REAL, text TEXT NOT NULL);
CREATE TABLE decision (conversation INTEGER NOT NULL, label INTEGER, decided_at REAL);
CREATE TABLE entry (position INTEGER PRIMARY KEY, conversation INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """One row of a source.

    Attributes:
        conversation: identifier in the source.
        id: identifier of the message; orders messages of one time.
        sender: identifier of the person in the source.
        sent_at: seconds since the epoch, or None.
        text: what was written.
    """

    conversation: str
    id: str | int
    sender: str
    sent_at: float | None
    text: str


class SnapshotWriter:
    """Fills a new snapshot, used as a context manager; `finish` completes it.

    Args:
        path: of a file that exists, is empty and has mode 0600.
        pseudonyms: of the member.
        excluded: whether a person was forgotten, by the identifier in the source.
        labelled_only: leave out conversations that nobody decided.
    """

    def __init__(
        self, path: Path, *, pseudonyms: Pseudonyms, excluded: Callable[[str], bool], labelled_only: bool
    ) -> None:
        self._pseudonyms = pseudonyms
        self._excluded = lru_cache(_REMEMBERED)(excluded)
        self._labelled_only = labelled_only
        self._database = _open(path)
        self._number_of = lru_cache(_REMEMBERED)(self._look_up)
        self._pending: list[tuple[object, ...]] = []
        self._handed_over = False

    def __enter__(self) -> SnapshotWriter:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, unless it was handed over."""
        if not self._handed_over:
            self._database.close()

    def hand_over(self) -> sqlite3.Connection:
        """Return the open file of a finished snapshot, for a `Snapshot` to read and to close."""
        self._handed_over = True
        return self._database

    def add_conversation(self, conversation: Conversation, *, part: int = 0) -> None:
        """Add a whole conversation whose messages are in order; ``part`` says which of several files it came from.

        Raises:
            DataError: there is one of this identifier. The data owner's fault.
        """
        if self._labelled_only and conversation.label is None:
            return
        try:
            number = self._insert(conversation.id, part)
        except sqlite3.IntegrityError:
            raise DataError(
                "Two conversations have the same id.",
                hint="Give each conversation an id of its own within the data set.",
            ) from None
        self._database.execute(
            "UPDATE conversation SET label = ?, platform = ?, given = 1 WHERE number = ?",
            (conversation.label, conversation.platform, number),
        )
        if any(self._excluded(author) for author in conversation.participants):
            self._exclude(number)
            return
        for message in conversation.messages:
            self._append((number, None, self._pseudonyms.person(message.author), message.time, message.text))

    def add_decision(
        self, conversation: str, label: int | None, decided_at: float | None, *, part: int = 0
    ) -> None:
        """Add one decision about a conversation: 1, 0, or None for neither. Decisions come before messages."""
        number = self._number_of(conversation, part, True)
        self._database.execute("INSERT INTO decision VALUES (?, ?, ?)", (number, label, decided_at))

    def settle_decisions(self) -> None:
        """Give each conversation the label of its newest decision; where the newest contradict, nobody decided."""
        rows = self._database.execute(
            "SELECT conversation, label, decided_at FROM decision ORDER BY conversation"
        )
        contradicting = 0
        for number, group in itertools.groupby(rows, key=lambda row: row[0]):
            label, contradicts = _settled([(row[1], row[2]) for row in group])
            contradicting += contradicts
            self._database.execute("UPDATE conversation SET label = ? WHERE number = ?", (label, number))
        self._note("contradicting_labels", contradicting)

    def add_message(self, message: SourceMessage, *, part: int = 0) -> None:
        """Add one message. Messages of a conversation may come in any order, between those of others."""
        number = self._number_of(message.conversation, part, not self._labelled_only)
        if number is None:
            return
        if self._excluded(message.sender):
            self._exclude(number)
            return
        author = self._pseudonyms.person(message.sender)
        self._append((number, message.id, author, message.sent_at, message.text))

    def finish(self) -> bool:
        """Put the conversations in their final order, and return whether any was found; nothing can be added afterwards.

        Raises:
            DataError: two messages of a conversation have one id. The data owner's fault.
        """
        self._flush()
        database = self._database
        database.execute(
            "DELETE FROM message WHERE conversation IN (SELECT number FROM conversation WHERE excluded)"
        )
        database.execute("CREATE INDEX by_conversation ON message (conversation, id)")
        twice = database.execute(
            "SELECT 1 FROM message WHERE id IS NOT NULL GROUP BY conversation, id HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if twice:
            raise DataError(
                "The messages query yields a message_id twice within one conversation.",
                hint="A join may repeat rows: SELECT DISTINCT, or join fewer tables.",
            )
        # A conversation with a time on every message is put in order of time; any other stays as its rows came.
        database.execute(
            "UPDATE conversation SET by_time = 1 WHERE NOT given AND number NOT IN "
            "(SELECT conversation FROM message WHERE time IS NULL)"
        )
        # Ids that are all of digits count, with zeros before them or without; among others 10 comes before 9a.
        database.execute(
            "UPDATE conversation SET by_number = 1 WHERE by_time AND number NOT IN "
            "(SELECT conversation FROM message WHERE typeof(id) = 'text' AND id GLOB '*[^0-9]*')"
        )
        wanted = "NOT excluded AND (given OR number IN (SELECT conversation FROM message))"
        if self._labelled_only:
            wanted += " AND label IS NOT NULL"
        database.execute(
            f"INSERT INTO entry (conversation) SELECT number FROM conversation WHERE {wanted} ORDER BY number"  # noqa: S608 - no value in it
        )
        excluded = database.execute("SELECT count(*) FROM conversation WHERE excluded").fetchone()[0]
        self._note("excluded", excluded)
        empty = database.execute(
            "SELECT count(DISTINCT conversation) FROM decision WHERE conversation NOT IN "
            "(SELECT conversation FROM message)"
        ).fetchone()[0]
        self._note("decisions_without_messages", empty)
        database.execute("DROP TABLE decision")
        left = database.execute("SELECT count(*) FROM entry").fetchone()[0]
        database.commit()
        return bool(left or excluded)

    def _look_up(self, conversation: str, part: int, make: bool) -> int | None:
        """Return the number of a conversation; of an unknown one, or one without a label, only if it may be made."""
        pseudonym = self._pseudonyms.conversation(conversation)
        found = self._database.execute(
            "SELECT number, label FROM conversation WHERE pseudonym = ?", (pseudonym,)
        ).fetchone()
        if found is None:
            return self._insert(conversation, part) if make else None
        number: int = found[0]
        return number if make or found[1] is not None else None

    def _insert(self, conversation: str, part: int) -> int:
        number = self._database.execute(
            "INSERT INTO conversation (pseudonym, part) VALUES (?, ?)",
            (self._pseudonyms.conversation(conversation), part),
        ).lastrowid
        return int(number or 0)

    def _exclude(self, number: int) -> None:
        self._database.execute("UPDATE conversation SET excluded = 1 WHERE number = ?", (number,))

    def _append(self, row: tuple[object, ...]) -> None:
        *rest, text = row
        self._pending.append((*rest, _kept(str(text))))
        if len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany(
            "INSERT INTO message (conversation, id, author, time, text) VALUES (?, ?, ?, ?, ?)", self._pending
        )
        self._pending.clear()

    def _note(self, key: str, value: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO found VALUES (?, ?)", (key, value))


def _kept(text: str) -> str:
    half = MAXIMUM_CHARACTERS // 2
    return text if len(text) <= MAXIMUM_CHARACTERS else text[:half] + text[-half:]


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    # No journal: a snapshot that was not finished is thrown away, and a journal would be a second file with text in it.
    for pragma in (
        "journal_mode = OFF",
        "synchronous = OFF",
        "locking_mode = EXCLUSIVE",
        "cache_size = -32768",
    ):
        database.execute(f"PRAGMA {pragma}")
    with closing(database.executescript(_SCHEMA)):
        pass
    return database


def _settled(decisions: list[tuple[int | None, float | None]]) -> tuple[int | None, bool]:
    """Return the label that stands and whether the newest decisions contradict each other.

    Decisions without a time are the oldest. "Neither" counts where it is the newest and stands alone.
    """
    newest = max(-float("inf") if at is None else at for _, at in decisions)
    labels = {label for label, at in decisions if (-float("inf") if at is None else at) == newest}
    decided = labels - {None}
    if len(decided) > 1:
        return None, True
    return (decided.pop() if decided else None), False
