"""Setting up a coordinator: settings, certificate authority, listeners' certificate, signing keys.

Everything is made in a folder inside of the coordinator's own, and moved out of it at the end, the settings last. Until then
there is no coordinator: a slip or a power cut leaves nothing that a second try would stumble over.
"""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

from ringfence.model.atomic_file import sync_folder
from ringfence.model.errors import ConfigError
from ringfence.server.certificate_authority import create_certificate_authority, write_server_certificate
from ringfence.server.coordinator_database import create_database, database_url
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, save_coordinator_settings
from ringfence.server.database import Database
from ringfence.server.database_schema import drop_schema, schema_version
from ringfence.server.signing_keys import create_signing_keys
from ringfence.server.tables import metadata, properties

_SCRATCH = ".initialising"


def initialise_coordinator(home: CoordinatorHome, *, settings: CoordinatorSettings, now: datetime) -> None:
    """Make everything that a new coordinator needs before it admits its first member.

    Args:
        home: folder to set up; made if missing.
        settings: what the federation is called and where it listens.
        now: the present, UTC.

    Raises:
        ConfigError: a coordinator is set up there already, or the folder cannot be written. The operator's to decide.
    """
    if home.settings_file.exists():
        raise ConfigError(
            f"{home.root} is set up already.",
            hint="Choose another --home, or go on with: ringfence-coordinator member invite NAME",
        )
    scratch = CoordinatorHome(home.root / _SCRATCH)
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        interrupted = _clear(scratch, home=home)
        _require_free(home)
        try:
            _make(scratch, settings=settings, now=now)
            if settings.database_url_file is not None:
                _make_database_elsewhere(home, settings=settings, interrupted=interrupted)
        except BaseException:
            shutil.rmtree(scratch.root, ignore_errors=True)
            raise
        _move_out(scratch, home=home)
    except OSError as error:
        raise ConfigError(
            f"Cannot set up {home.root}: {error.strerror}: {error.filename}",
            hint="Check the folder and the disk, or choose another folder with --home.",
        ) from error


def _make(scratch: CoordinatorHome, *, settings: CoordinatorSettings, now: datetime) -> None:
    scratch.create()
    authority = create_certificate_authority(scratch, federation=settings.federation, now=now)
    write_server_certificate(scratch, authority=authority, names=settings.certified_names, now=now)
    create_signing_keys(scratch)
    if settings.database_url_file is None:
        create_database(scratch, settings=settings).close()
    # Last, because its presence says that the rest is complete.
    save_coordinator_settings(scratch, settings=settings)


def _make_database_elsewhere(
    home: CoordinatorHome, *, settings: CoordinatorSettings, interrupted: bool
) -> None:
    """Make the tables in a database that does not lie in the folder, also where an interrupted try made them before."""
    if interrupted:
        database = Database(database_url(home, settings=settings))
        with database.transaction():
            if schema_version(database) is not None and _holds_nothing(database):
                drop_schema(database)
        database.close()
    create_database(home, settings=settings).close()


def _holds_nothing(database: Database) -> bool:
    with database.reading() as connection:
        return not any(
            connection.scalar(select(func.count()).select_from(table))
            for table in metadata.sorted_tables
            if table is not properties
        )


def _clear(scratch: CoordinatorHome, *, home: CoordinatorHome) -> bool:
    """Take away what an interrupted try left, and return whether it had come to its end but for the moving.

    Nobody was given anything of it: without settings there is no coordinator. What lies outside of the scratch folder came
    out of it only if the settings, which are moved last, still lie inside; otherwise it is the operator's.
    """
    complete = scratch.settings_file.exists()
    if complete:
        for name in _made_names():
            if not (scratch.root / name).exists() and (home.root / name).exists():
                _remove(home.root / name)
    if scratch.root.exists():
        shutil.rmtree(scratch.root)
    return complete


def _require_free(home: CoordinatorHome) -> None:
    for name in _made_names():
        path = home.root / name
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            continue
        if path.exists() or path.is_symlink():
            raise ConfigError(
                f"{path} exists already.",
                hint="Move it away, or choose another --home: a coordinator begins with a folder of its own.",
            )


def _move_out(scratch: CoordinatorHome, *, home: CoordinatorHome) -> None:
    for name in (*_made_names(), scratch.settings_file.name):
        if (scratch.root / name).exists():
            os.rename(scratch.root / name, home.root / name)
    sync_folder(home.root)
    scratch.root.rmdir()


def _made_names() -> tuple[str, ...]:
    """Return the names in a coordinator's folder that are made here, but for the settings."""
    names = CoordinatorHome(Path())
    database = names.database_file.name
    folders = (
        names.pki,
        names.artifacts,
        names.repository,
        names.keys,
        names.drafts,
        names.flower,
        names.runs,
    )
    return (*(folder.name for folder in folders), database, f"{database}-wal", f"{database}-shm")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
