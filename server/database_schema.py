"""Which form the database has, and how it comes to the form that this version uses."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, select, text

from ringfence.model.errors import ConfigError
from ringfence.server.database import Database, create_sqlite_file
from ringfence.server.tables import metadata, properties

SCHEMA_VERSIONS = ("0001",)
"""Every form that there was, oldest first; this version uses the last."""

_VERSION_TABLE = "alembic_version"
_FEDERATION = "federation"


def schema_version(database: Database) -> str | None:
    """Return the database's form, or None if it holds nothing of ours yet.

    Raises:
        StorageError: the database cannot be used.
    """
    with database.reading() as connection:
        return _version(connection)


def require_current_schema(database: Database) -> None:
    """Refuse a database in another form than this version uses.

    Raises:
        ConfigError: it is older, newer, or holds nothing yet. The operator's to upgrade.
        StorageError: the database cannot be used.
    """
    found = schema_version(database)
    if found == SCHEMA_VERSIONS[-1]:
        return
    if found is None:
        raise ConfigError(
            f"The database {database.place} holds no coordinator yet.",
            hint="Begin with: ringfence-coordinator init, or restore a backup",
        )
    if found in SCHEMA_VERSIONS:
        raise ConfigError(
            f"The database {database.place} has schema version {found}, this program uses {SCHEMA_VERSIONS[-1]}.",
            hint="Back it up, then run: ringfence-coordinator db upgrade",
        )
    raise _newer(database, found)


def upgrade_schema(database: Database) -> tuple[str | None, str]:
    """Bring the database to the form that this version uses, all or nothing; return the old version and the new.

    Raises:
        ConfigError: a newer version of the program made it. The operator's to upgrade the program.
        StorageError: the database cannot be used; nothing was changed.
    """
    from alembic import command
    from alembic.config import Config

    with database.transaction() as connection:
        before = _version(connection)
        if before is not None and before not in SCHEMA_VERSIONS:
            raise _newer(database, before)
        if before != SCHEMA_VERSIONS[-1]:
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            logging.getLogger("alembic").setLevel(logging.WARNING)
            command.upgrade(config, SCHEMA_VERSIONS[-1])
    return before, SCHEMA_VERSIONS[-1]


def create_schema(database: Database, *, federation: str) -> None:
    """Make the tables of a new coordinator in an empty database, all or nothing.

    Raises:
        ConfigError: it holds a coordinator already. The operator's to decide.
        StorageError: the database cannot be used; nothing was changed.
    """
    if database.file is not None:
        create_sqlite_file(database.file)
    with database.transaction() as connection:
        if _version(connection) is not None:
            raise ConfigError(
                f"The database {database.place} holds a coordinator already.",
                hint="Each coordinator has a database, or on PostgreSQL a schema, of its own.",
            )
        upgrade_schema(database)
        connection.execute(properties.insert().values(key=_FEDERATION, value=federation))


def drop_schema(database: Database) -> None:
    """Remove every table of ours, in the transaction that is under way, to make place for a restored coordinator."""
    with database.transaction() as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {_VERSION_TABLE}"))
        if not database.is_sqlite:
            connection.execute(text("DROP FUNCTION IF EXISTS audit_events_refuse()"))


def require_federation(database: Database, *, federation: str) -> None:
    """Refuse a database of another federation.

    Raises:
        ConfigError: it belongs to another. The operator's to mend.
        StorageError: the database cannot be used.
    """
    with database.reading() as connection:
        found = connection.scalar(select(properties.c.value).where(properties.c.key == _FEDERATION))
    if found != federation:
        raise ConfigError(
            f"The database {database.place} is of the federation {found}, not of {federation}.",
            hint="Correct database_url_file in coordinator.toml.",
        )


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _newer(database: Database, found: str) -> ConfigError:
    return ConfigError(
        f"The database {database.place} has schema version {found}, which this program does not know.",
        hint="A newer version made it: install that one, or restore a backup of before.",
    )
