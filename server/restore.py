"""A coordinator from a backup.

What happened after the backup is gone, and what follows from that is settled here:

* invitations that were open are cancelled: some may have been used since, and nobody can tell which;
* runs go on from the last round in the backup. Members answer a repeated question with the same bytes, at no cost in
  privacy; they refuse one that differs from what they answered, and such a run ends and is started anew as another;
* members keep their own newest ledger heads, so that an older one from here changes nothing for them;
* the timestamp of releases jumps ahead of what members may have seen. Metadata that was published after the backup is
  refused by them as a step back, until the coordinator has published as much again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from ringfence.model.atomic_file import sync_folder
from ringfence.model.errors import ConfigError, StorageError
from ringfence.model.plan import describe
from ringfence.server.artifacts import ArtifactStore
from ringfence.server.audit_events import AuditEvents
from ringfence.server.backup import DATABASE, MANIFEST, BackupManifest, is_private
from ringfence.server.coordinator_database import database_url, forget_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, load_coordinator_settings
from ringfence.server.database import Database, create_sqlite_file
from ringfence.server.database_copy import copy_rows
from ringfence.server.database_schema import create_schema, drop_schema, schema_version, upgrade_schema
from ringfence.server.publication_gap import jump_ahead
from ringfence.server.serving_claim import idle_database
from ringfence.server.tables import invitations

_LONGEST_MANIFEST = 64 << 20
_BLOCK = 1 << 20
_DAMAGED = "Take another backup."


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        manifest: of the backup.
        set_aside: where the folder that was there before lies now, or None.
        missing_keys: private keys that neither the backup nor the former folder had, or of which the former folder had later
            ones, which the root of trust in the backup does not name.
        cancelled_invitations: how many were open.
    """

    manifest: BackupManifest
    set_aside: Path | None
    missing_keys: tuple[str, ...]
    cancelled_invitations: int


def restore_backup(source: Path, *, home: CoordinatorHome, replace: bool, now: datetime) -> Restored:
    """Make a coordinator's folder, and its database, from a backup.

    Everything is checked and made beside the folder first; what was there is set aside, and nothing of it is deleted.

    Args:
        source: the backup.
        home: the folder to make.
        replace: whether a coordinator that is there may be set aside.
        now: the present, UTC.

    Raises:
        ConfigError: there is a coordinator already, or one serves. The operator's to decide.
        StorageError: the backup is damaged, or the database or the disk cannot be used. The operator's to mend.
    """
    if home.root.exists() and any(home.root.iterdir()) and not replace:
        raise ConfigError(
            f"{home.root} is not empty.", hint="Choose another --home, or set it aside with --replace."
        )
    scratch = home.root.with_name(f".{home.root.name}.restoring")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        made = CoordinatorHome(scratch).create()
        manifest = _unpack(source, scratch)
        settings = load_coordinator_settings(made)
        copy = Database(f"sqlite:///{scratch / DATABASE}")
        upgrade_schema(copy)
        cancelled = _settle(copy, manifest=manifest, now=now)
        _take_keys_along(home, made)
        missing = jump_ahead(made, now=now)
        set_aside = _put_in_place(copy, made=made, home=home, settings=settings, replace=replace, now=now)
    except OSError as error:
        raise StorageError(
            f"Cannot restore to {home.root}: {error.strerror}.", hint="Check the folder and the disk."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Restored(
        manifest=manifest, set_aside=set_aside, missing_keys=missing, cancelled_invitations=cancelled
    )


def _unpack(source: Path, folder: Path) -> BackupManifest:
    """Write a backup's files below a folder, each compared with the manifest; none missing, none besides."""
    found: dict[str, str] = {}
    try:
        with tarfile.open(source, mode="r:") as tar:
            manifest = _manifest(tar)
            for entry in tar:
                if entry.name == MANIFEST:
                    continue
                _check_name(entry.name)
                path = folder / entry.name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if entry.issym():
                    _check_link(entry.name, entry.linkname)
                    os.symlink(entry.linkname, path)
                    found[entry.name] = hashlib.sha256(entry.linkname.encode()).hexdigest()
                elif entry.isreg():
                    found[entry.name] = _write(tar, entry, path)
                else:
                    raise StorageError(f"{source} holds what is no file: {entry.name!r}.", hint=_DAMAGED)
    except (tarfile.TarError, EOFError, ValidationError, ValueError) as error:
        says = describe(error) if isinstance(error, ValidationError) else type(error).__name__
        raise StorageError(f"{source} is not a whole backup: {says}.", hint=_DAMAGED) from error
    if found != manifest.files:
        wrong = sorted(dict(found.items() ^ manifest.files.items()))
        raise StorageError(f"{source} is damaged: {wrong[0]} is not what the manifest says.", hint=_DAMAGED)
    return manifest


def _manifest(tar: tarfile.TarFile) -> BackupManifest:
    entry = tar.getmember(MANIFEST) if MANIFEST in tar.getnames() else None
    content = tar.extractfile(entry) if entry is not None and entry.size <= _LONGEST_MANIFEST else None
    if content is None:
        raise ValueError("no manifest")
    return BackupManifest.model_validate_json(content.read())


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> str:
    digest = hashlib.sha256()
    content = tar.extractfile(entry)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        while content is not None and (block := content.read(_BLOCK)):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\x00" in name:
        raise StorageError(f"The backup holds the name {name!r}.", hint=_DAMAGED)


def _check_link(name: str, target: str) -> None:
    """A link may only point at something beside it or below that, as the link to the served state does."""
    parts = PurePosixPath(target).parts
    if target.startswith("/") or ".." in parts or not parts:
        raise StorageError(f"The backup holds the link {name!r} to {target!r}.", hint=_DAMAGED)


def _settle(copy: Database, *, manifest: BackupManifest, now: datetime) -> int:
    """Settle what must not go on as it stood in the backup; return how many invitations were cancelled."""
    with copy.transaction() as connection:
        cancelled = connection.execute(
            invitations.update()
            .where(invitations.c.state.in_(("open", "waiting", "approved")))
            .values(state="cancelled")
        ).rowcount
        AuditEvents(copy).record(
            "restore",
            subject=manifest.federation,
            now=now,
            detail=f"backup of {manifest.made_at.isoformat()}",
        )
    return cancelled


def _take_keys_along(before: CoordinatorHome, made: CoordinatorHome) -> None:
    """Keep the private keys of the folder that is set aside, where the backup holds none."""
    for name in ("keys", "pki"):
        folder = before.root / name
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            target = made.root / name / path.relative_to(folder)
            if path.is_file() and not target.exists() and is_private(name, path.read_bytes()):
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copy2(path, target)


def _put_in_place(
    copy: Database,
    *,
    made: CoordinatorHome,
    home: CoordinatorHome,
    settings: CoordinatorSettings,
    replace: bool,
    now: datetime,
) -> Path | None:
    """Fill what the settings point at outside of the folder, then flip the folders; return the one set aside."""
    if settings.artifacts_url is not None:
        _hand_over_artifacts(made.artifacts, to=ArtifactStore(settings.artifacts_url))
    if settings.database_url_file is not None:
        # From the folder on, as it will lie there; a backup never holds it, because it may hold a password.
        url_file = home.root / settings.database_url_file
        if not url_file.is_file():
            raise ConfigError(f"{url_file} is missing.", hint="Put the database's URL there first.")
        if not (made.root / settings.database_url_file).exists():
            shutil.copy2(url_file, made.root / settings.database_url_file)
    target = Database(database_url(home, settings=settings))
    with _idle(target):
        if target.file != home.database_file:
            _fill(target, copy=copy, federation=settings.federation, replace=replace)
        copy.close()
        target.close()
        if target.file != home.database_file:
            (made.root / DATABASE).unlink()
        return _flip(made, home, now=now)


def _idle(target: Database) -> AbstractContextManager[object]:
    if target.file is not None and not target.file.parent.is_dir():
        return nullcontext()
    return idle_database(target)


def _fill(target: Database, *, copy: Database, federation: str, replace: bool) -> None:
    if target.file is not None:
        create_sqlite_file(target.file)
    with target.transaction():
        if schema_version(target) is not None:
            if not replace:
                raise ConfigError(
                    f"The database {target.place} holds a coordinator already.",
                    hint="Restore into an empty one, or write over it with --replace.",
                )
            drop_schema(target)
        create_schema(target, federation=federation)
        copy_rows(copy, target)


def _hand_over_artifacts(folder: Path, *, to: ArtifactStore) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            to.keep(path.read_bytes(), kind="restored")
            path.unlink()


def _flip(made: CoordinatorHome, home: CoordinatorHome, *, now: datetime) -> Path | None:
    forget_database(home.database_file)
    aside = None
    if home.root.exists():
        aside = home.root.with_name(f"{home.root.name}.before-{now:%Y%m%dT%H%M%S.%fZ}")
        os.rename(home.root, aside)
    os.rename(made.root, home.root)
    sync_folder(home.root.parent)
    return aside
