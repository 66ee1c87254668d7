"""A snapshot: what one reading of a member's data found, on disk and without a name, as a sequence of conversations.

A round is computed from one snapshot. Its file holds text: mode 0600, no name in the file system from the moment that it is
opened, and gone when it is closed or its process ends, however it ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, overload

from ringfence.model.conversation import Conversation, Message

_ONE = (
    "SELECT number, pseudonym, label, platform, by_time + by_number FROM entry JOIN conversation "
    "ON number = conversation"
)
_MESSAGES = "SELECT author, text, time FROM message WHERE conversation = ? ORDER BY "
_ORDERS = (
    "sequence",
    "time, CAST(id AS TEXT), sequence",
    # Numbers beyond what SQLite counts with are equal to it: the longer one is larger.
    "time, CAST(id AS INTEGER), length(id), id, sequence",
)


class Snapshot(Sequence[Conversation]):
    """The conversations of one reading, read from disk whenever they are asked for; used as a context manager.

    Args:
        source: path of a finished snapshot, whose name is removed at once; or the open file of one that has no name.
    """

    def __init__(self, source: Path | sqlite3.Connection) -> None:
        if isinstance(source, Path):
            # Immutable: nobody writes it any more, so no lock, journal or shared memory is made beside it.
            self._database = sqlite3.connect(f"{source.as_uri()}?mode=ro&immutable=1", uri=True)
        else:
            self._database = source
            self._database.execute("PRAGMA query_only = ON")
        self._database.execute("PRAGMA cache_size = -16384")
        self._length: int = self._database.execute("SELECT count(*) FROM entry").fetchone()[0]
        if isinstance(source, Path):
            source.unlink()
        self._found: dict[str, int] = dict(self._database.execute("SELECT key, value FROM found"))

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file, and with it of its content."""
        self.close()

    def close(self) -> None:
        """Let go of the file, and with it of its content. May be repeated."""
        self._database.close()

    @property
    def excluded(self) -> int:
        """Conversations that were left out because somebody in them was forgotten."""
        return self._found.get("excluded", 0)

    @property
    def contradicting_labels(self) -> int:
        """Conversations whose newest decisions contradict each other; they count as not decided."""
        return self._found.get("contradicting_labels", 0)

    @property
    def decisions_without_messages(self) -> int:
        """Decided conversations of which the source has no message."""
        return self._found.get("decisions_without_messages", 0)

    def part(self, position: int) -> int:
        """Return which of several files a conversation came from, counted from 0."""
        row = self._database.execute(
            "SELECT part FROM entry JOIN conversation ON number = conversation WHERE position = ?",
            (position + 1,),
        ).fetchone()
        return int(row[0])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Conversation]:
        for row in self._database.execute(f"{_ONE} ORDER BY position"):
            yield self._conversation(row)

    @overload
    def __getitem__(self, position: int) -> Conversation: ...

    @overload
    def __getitem__(self, position: slice) -> list[Conversation]: ...

    def __getitem__(self, position: int | slice) -> Conversation | list[Conversation]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(self._length))]
        row = None
        if -self._length <= position < self._length:
            number = position % self._length + 1
            row = self._database.execute(f"{_ONE} WHERE position = ?", (number,)).fetchone()
        if row is None:
            raise IndexError("there are fewer conversations")
        return self._conversation(row)

    def _conversation(self, row: tuple[int, bytes, int | None, str | None, int]) -> Conversation:
        number, pseudonym, label, platform, order = row
        messages = tuple(
            Message(author=author.hex(), text=text, time=time)
            for author, text, time in self._database.execute(_MESSAGES + _ORDERS[order], (number,))
        )
        return Conversation(id=pseudonym.hex(), messages=messages, label=label, platform=platform)


class Selection(Sequence[Conversation]):
    """Some of a sequence's conversations, without a copy of them.

    Args:
        conversations: to choose from.
        positions: of those chosen, in the order wanted.
    """

    def __init__(self, conversations: Sequence[Conversation], positions: Iterable[int]) -> None:
        self._conversations = conversations
        self._positions = tuple(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Conversation]:
        if self._positions == tuple(range(len(self._conversations))):
            yield from self._conversations
            return
        for position in self._positions:
            yield self._conversations[position]

    @overload
    def __getitem__(self, position: int) -> Conversation: ...

    @overload
    def __getitem__(self, position: slice) -> list[Conversation]: ...

    def __getitem__(self, position: int | slice) -> Conversation | list[Conversation]:
        if isinstance(position, slice):
            return [self._conversations[index] for index in self._positions[position]]
        return self._conversations[self._positions[position]]
