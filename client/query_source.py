"""What a source that is read by queries offers: rows of one consistent state, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from ringfence.client.data_settings import DataSettings


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query.

    Attributes:
        name: as the query names it.
        type: what the source calls its type; "" where the source does not say.
    """

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The answer to a query.

    Attributes:
        columns: in the order of a row's values.
        rows: in blocks; read once.
    """

    columns: tuple[Column, ...]
    rows: Iterator[Sequence[object]]


class QuerySource(Protocol):
    """A context manager inside which every query sees the same state of the data, and none can change it."""

    def __enter__(self) -> Self:
        """Open the source and fix the state that is read."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the source."""
        ...

    def query(self, name: str, statement: str) -> QueryRows:
        """Run a query; ``name`` is how errors call it.

        Raises:
            DataError: the source refuses it. The message holds no value of any row.
        """
        ...


@runtime_checkable
class HasTables(Protocol):
    """A source that knows the columns of its tables, whatever a query asks for."""

    def tables(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of each table's columns."""
        ...


def since_value(data: DataSettings) -> datetime | int | None:
    """Return the setting ``since`` as a time, UTC where it names no zone, or as the number that it is."""
    if data.since is None or isinstance(data.since, int):
        return data.since
    moment = datetime.fromisoformat(data.since)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
