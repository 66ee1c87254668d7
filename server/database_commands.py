"""``ringfence-coordinator db``: the form of the coordinator's database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from ringfence.server.database import Database

application = new_application("db", "Look after the coordinator's database.")


@application.callback()
def _db() -> None:
    """Look after the coordinator's database."""


@application.command()
def version(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the database's schema version, and the one that this program uses.

    Example: ringfence-coordinator db version
    """
    from ringfence.server.database_schema import SCHEMA_VERSIONS, schema_version

    database = _database(home)
    found, used = schema_version(database), SCHEMA_VERSIONS[-1]
    following = "serve" if found == used else "db upgrade" if found in SCHEMA_VERSIONS else "init"
    emit(
        f"{database.place}: schema version {found or 'none'}; this program uses {used}.\n"
        f"Next: ringfence-coordinator {following}",
        data={"database": database.place, "schema_version": found, "used": used},
        as_json=as_json,
    )


@application.command()
def upgrade(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Bring the database to the form that this program uses, all or nothing. Stop serving first, and take a backup.

    Example: ringfence-coordinator db upgrade
    """
    from ringfence.model.errors import ConfigError
    from ringfence.server.database_schema import schema_version, upgrade_schema
    from ringfence.server.serving_claim import idle_database

    database = _database(home)
    if schema_version(database) is None:
        raise ConfigError(
            f"The database {database.place} holds no coordinator yet.",
            hint="Begin with: ringfence-coordinator init",
        )
    with idle_database(database):
        before, after = upgrade_schema(database)
    emit(
        f"{database.place}: {'was' if before == after else f'{before} is now'} {after}.\n"
        "Next: ringfence-coordinator serve",
        data={"database": database.place, "before": before, "schema_version": after},
        as_json=as_json,
    )


@application.command()
def move(
    url_file: Annotated[
        Path, typer.Argument(help="File that holds the URL of the new, empty database; mode 0600.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy everything into another database, such as PostgreSQL, and use that from then on. Stop serving first.

    Example: ringfence-coordinator db move /etc/ringfence/database.url
    """
    from ringfence.server.coordinator_database import database_url, open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings, save_coordinator_settings
    from ringfence.server.database import Database, create_sqlite_file
    from ringfence.server.database_copy import copy_rows
    from ringfence.server.database_schema import create_schema
    from ringfence.server.serving_claim import idle_database

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    following = settings.model_copy(update={"database_url_file": url_file.absolute()})
    source = open_database(located, settings=settings)
    target = Database(database_url(located, settings=following))
    if target.file is not None:
        create_sqlite_file(target.file)
    with idle_database(source), target.transaction():
        create_schema(target, federation=settings.federation)
        copy_rows(source, target)
    # Last: until here everything is as it was.
    save_coordinator_settings(located, settings=following)
    emit(
        f"The coordinator's database is {target.place}. What {source.place} holds is left as it was.\n"
        "Next: ringfence-coordinator serve",
        data={"database": target.place, "before": source.place},
        as_json=as_json,
    )


def _database(home: HomeOption) -> Database:
    from ringfence.server.coordinator_database import database_url
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.database import Database

    located = CoordinatorHome.locate(home)
    return Database(database_url(located, settings=load_coordinator_settings(located)))
