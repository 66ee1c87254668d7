"""Which database a coordinator's folder goes with, and opening it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ringfence.model.errors import ConfigError
from ringfence.server.artifacts import ArtifactStore
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, load_coordinator_settings
from ringfence.server.database import Database, parse_database_url
from ringfence.server.database_schema import create_schema, require_current_schema, require_federation

_OPEN: dict[tuple[int, str], Database] = {}
_OPENING = threading.Lock()


def open_database(home: CoordinatorHome, *, settings: CoordinatorSettings | None = None) -> Database:
    """Return the coordinator's database, checked; in one process the same one each time, so that transactions join.

    Args:
        home: the coordinator's folder.
        settings: its settings; read from the folder if they are not given.

    Raises:
        ConfigError: the settings are wrong, or the database is of another version or federation. The operator's.
        StorageError: the database cannot be used. The operator's to mend.
    """
    known = settings or load_coordinator_settings(home)
    url = database_url(home, settings=known)
    key = (os.getpid(), url)  # not across a fork: two processes must not share a connection
    with _OPENING:
        opened = _OPEN.get(key)
        if opened is not None and (opened.file is None or opened.file.exists()):
            return opened
        database = Database(url)
        require_current_schema(database)
        require_federation(database, federation=known.federation)
        _OPEN[key] = database
    return database


def open_artifacts(home: CoordinatorHome, *, settings: CoordinatorSettings | None = None) -> ArtifactStore:
    """Return the coordinator's artifacts: what its settings point at, else a folder in its folder.

    Raises:
        ConfigError: the settings are wrong. The operator's to mend.
    """
    known = settings or load_coordinator_settings(home)
    return ArtifactStore(home.artifacts if known.artifacts_url is None else known.artifacts_url)


def create_database(home: CoordinatorHome, *, settings: CoordinatorSettings) -> Database:
    """Make the tables of a new coordinator in its empty database.

    Raises:
        ConfigError: it holds a coordinator already. The operator's to decide.
        StorageError: the database cannot be used. The operator's to mend.
    """
    database = Database(database_url(home, settings=settings))
    create_schema(database, federation=settings.federation)
    return database


def database_url(home: CoordinatorHome, *, settings: CoordinatorSettings) -> str:
    """Return the URL of the coordinator's database: what its settings point at, else a file in its folder.

    Raises:
        ConfigError: the file with the URL is missing, or shows a password to everybody. The operator's to mend.
    """
    if settings.database_url_file is None:
        return f"sqlite:///{home.database_file}"
    file = home.root / settings.database_url_file
    try:
        text = file.read_text(encoding="utf-8").strip()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Cannot read {file}.", hint="Correct database_url_file in coordinator.toml."
        ) from error
    if parse_database_url(text).password and mode & 0o007:
        raise ConfigError(
            f"Everybody can read {file}, which holds a password.", hint=f"Run: chmod 600 {file}"
        )
    return text


def forget_database(file: Path) -> None:
    """Close what is open of an SQLite file, because it is about to be replaced."""
    with _OPENING:
        for key, database in list(_OPEN.items()):
            if database.file == file:
                database.close()
                del _OPEN[key]
