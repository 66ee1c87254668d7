"""Every row from one database into another, SQLite or PostgreSQL on either side."""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, select, text

from ringfence.server.database import Database
from ringfence.server.serving_claim import SERVING
from ringfence.server.tables import metadata, properties

_CHUNK = 500


def copy_rows(source: Database, target: Database) -> None:
    """Copy one snapshot of every table into tables that hold nothing but their federation, all or nothing.

    Args:
        source: read in one snapshot; may be in use.
        target: in the same form, as `create_schema` leaves it.

    Raises:
        StorageError: a database cannot be used; the target is as it was.
    """
    with source.reading() as reading, target.transaction() as writing:
        writing.execute(properties.delete())
        for table in metadata.sorted_tables:
            found = reading.execute(select(table)).mappings()
            while rows := found.fetchmany(_CHUNK):
                writing.execute(table.insert(), [dict(row) for row in rows])
            _count_on(writing, table)
        # Who served from the one does not serve from the other.
        writing.execute(properties.delete().where(properties.c.key == SERVING))


def _count_on(connection: Connection, table: Table) -> None:
    """Have PostgreSQL number new rows after those that were copied; SQLite sees to it by itself."""
    column = table.autoincrement_column
    if connection.dialect.name == "sqlite" or column is None:
        return
    last = connection.scalar(select(func.max(column)))
    if last is not None:
        connection.execute(
            text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"),
            {"table": table.name, "column": column.name, "last": last},
        )
