"""A backup: one tar file with everything that a coordinator would miss, taken while it serves.

```
manifest.json        what it is, and the SHA-256 of every other file
coordinator.db       every row, in an SQLite file whatever database the coordinator has
artifacts/           the models that the rows name
repository/ drafts/ pki/ coordinator.toml
keys/ ...            private keys, only when asked for
```

Rows are read in one snapshot. Artifacts never change, so that those which the snapshot names can be copied after it. What is
published is held still while it is copied. Flower's own state is left out: runs go on without it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import select

from ringfence.model.atomic_file import sync_folder
from ringfence.model.errors import StorageError
from ringfence.model.plan import Name, Sha256
from ringfence.server.artifacts import ArtifactStore
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.database import Database
from ringfence.server.database_copy import copy_rows
from ringfence.server.database_schema import SCHEMA_VERSIONS, create_schema
from ringfence.server.release_repository import ReleaseRepository
from ringfence.server.tables import artifacts as artifact_rows

MANIFEST = "manifest.json"
DATABASE = "coordinator.db"
ARTIFACTS = "artifacts"
_FOLDERS = ("repository", "drafts", "pki", "keys")
_PRIVATE = b"PRIVATE KEY"
_LONGEST_KEY_FILE = 1 << 16


class BackupManifest(BaseModel):
    """What a backup says of itself.

    Attributes:
        schema_version: of this form.
        federation: whose it is.
        made_at: when its rows were read, UTC.
        database_schema: form of the rows.
        with_keys: whether private keys are in it.
        files: SHA-256 of every other file, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    federation: Name
    made_at: AwareDatetime
    database_schema: Annotated[str, Field(min_length=1, max_length=32)]
    with_keys: bool
    files: dict[str, Sha256]


@dataclass(slots=True)
class _Writer:
    """Adds files to a tar, and remembers their hashes."""

    tar: tarfile.TarFile
    hashes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, content: bytes) -> None:
        """Add a file."""
        information = tarfile.TarInfo(name)
        information.size = len(content)
        information.mode = 0o600
        self.tar.addfile(information, io.BytesIO(content))
        self.hashes[name] = hashlib.sha256(content).hexdigest()

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link; its target counts as its content."""
        information = tarfile.TarInfo(name)
        information.type = tarfile.SYMTYPE
        information.linkname = target
        self.tar.addfile(information)
        self.hashes[name] = hashlib.sha256(target.encode()).hexdigest()


def write_backup(
    target: Path,
    *,
    home: CoordinatorHome,
    federation: str,
    database: Database,
    artifacts: ArtifactStore,
    with_keys: bool,
    now: Callable[[], datetime],
) -> BackupManifest:
    """Write a backup, and return what it says of itself; a file of that name appears only when it is whole.

    Args:
        target: the file to write; it must not be there yet.
        home: the coordinator's folder.
        federation: the coordinator's.
        database: the coordinator's.
        artifacts: the coordinator's.
        with_keys: whether to put private keys in; never the root's, which belongs offline.
        now: returns the present, UTC.

    Raises:
        StorageError: something cannot be read or written. The operator's to mend.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    manifest = _fill(
                        _Writer(tar),
                        home=home,
                        federation=federation,
                        database=database,
                        artifacts=artifacts,
                        with_keys=with_keys,
                        now=now,
                    )
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, target)  # unlike a replacement, this refuses to take the place of another backup
        finally:
            os.unlink(scratch)
        sync_folder(target.parent)
    except FileExistsError as error:
        raise StorageError(f"{target} is there already.", hint="Choose another file.") from error
    except OSError as error:
        raise StorageError(
            f"Cannot write the backup {target}: {error.strerror}.", hint="Check the folder and the disk."
        ) from error
    return manifest


def _fill(
    writer: _Writer,
    *,
    home: CoordinatorHome,
    federation: str,
    database: Database,
    artifacts: ArtifactStore,
    with_keys: bool,
    now: Callable[[], datetime],
) -> BackupManifest:
    with tempfile.TemporaryDirectory(prefix="ringfence-backup-") as scratch:
        copy = Database(f"sqlite:///{Path(scratch) / DATABASE}")
        create_schema(copy, federation=federation)
        # Published metadata and rows belong together, so nothing is published between the two.
        with ReleaseRepository(home.repository).lock():
            made_at = now()
            copy_rows(database, copy)
            for name in _FOLDERS:
                _add_folder(writer, home.root / name, name=name, with_keys=with_keys)
        if home.settings_file.is_file():
            writer.add(home.settings_file.name, home.settings_file.read_bytes())
        with copy.reading() as connection:
            digests = connection.scalars(select(artifact_rows.c.digest)).all()
        for digest in digests:
            writer.add(f"{ARTIFACTS}/{digest[:2]}/{digest}", artifacts.read(digest))
        _settle(copy)
        writer.add(DATABASE, (Path(scratch) / DATABASE).read_bytes())
    manifest = BackupManifest(
        federation=federation,
        made_at=made_at,
        database_schema=SCHEMA_VERSIONS[-1],
        with_keys=with_keys,
        files=writer.hashes,
    )
    writer.add(MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def _add_folder(writer: _Writer, folder: Path, *, name: str, with_keys: bool) -> None:
    for path in _walk(folder):
        inside = f"{name}/{path.relative_to(folder).as_posix()}"
        if path.is_symlink():
            writer.add_link(inside, os.readlink(path))
            continue
        content = path.read_bytes()
        if path.name == "root.key" or (not with_keys and is_private(name, content)):
            continue
        writer.add(inside, content)


def is_private(folder: str, content: bytes) -> bool:
    """Return whether a file of one of the coordinator's folders is or holds a private key."""
    return folder == "keys" or (len(content) <= _LONGEST_KEY_FILE and _PRIVATE in content)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        # Names with a dot before them are locks and files that are being written.
        if (path.is_symlink() or path.is_file()) and not path.name.startswith("."):
            yield path


def _settle(copy: Database) -> None:
    """Have everything in the one file, and none in SQLite's log beside it."""
    connection = copy.engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.cursor().execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
    copy.close()
