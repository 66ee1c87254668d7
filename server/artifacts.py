"""Whole files that never change, kept under their SHA-256: models of rounds, and whatever else is too large for a row.

They lie in the coordinator's folder, or in an object store by URL (S3, Google Cloud Storage, Azure). A file is complete and
durable before a row names it; a file that no row names is harmless.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from ringfence.model.atomic_file import sync_folder, write_atomically
from ringfence.model.errors import ConfigError, StorageError
from ringfence.server.tables import artifacts

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_RESTORE = "Restore it from a backup."
_CLIENT: ClientConfig = {"timeout": "30 seconds", "connect_timeout": "10 seconds"}
_RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that is kept.

    Attributes:
        digest: SHA-256 of its content, 64 hexadecimal digits.
        size_bytes: length of its content.
        kind: what it is, one word.
    """

    digest: str
    size_bytes: int
    kind: str


class ArtifactStore:
    """The coordinator's artifacts.

    Args:
        place: a folder of this machine, or the URL of an object store.

    Raises:
        ConfigError: the URL is of no object store that is known. The operator's to mend.
    """

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self._store = _open_store(place)

    def keep(self, content: bytes, *, kind: str) -> Artifact:
        """Keep a file durably, and return how it is named; `record` it in the transaction that names it.

        Raises:
            StorageError: it cannot be written; nothing names it. The operator's to mend.
        """
        artifact = Artifact(hashlib.sha256(content).hexdigest(), len(content), kind)
        try:
            if isinstance(self.place, Path):
                # obstore writes whole files too, but returns before they are on disk.
                path = self.place / _key(artifact.digest)
                if not path.parent.is_dir():
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    sync_folder(path.parent.parent)
                write_atomically(path, content)
            else:
                import obstore

                obstore.put(self._store, _key(artifact.digest), content)
        except Exception as error:  # obstore raises what its stores raise
            if not _is_of_storage(error):
                raise
            raise StorageError(
                f"Cannot write to the artifacts in {self._shown}.",
                hint="Check space, quota and access there; nothing was changed.",
            ) from error
        return artifact

    def read(self, digest: str) -> bytes:
        """Return a file's content, compared with its digest.

        Raises:
            StorageError: it is missing or damaged, or the store cannot be reached. The operator's to mend.
        """
        import obstore

        try:
            content = bytes(obstore.get(self._store, _key(digest)).bytes())
        except FileNotFoundError as error:
            raise StorageError(f"The artifact {digest[:12]} is missing.", hint=_RESTORE) from error
        except Exception as error:
            if not _is_of_storage(error):
                raise
            raise StorageError(
                f"Cannot read the artifacts in {self._shown}.", hint="Check the network and the access there."
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(f"The artifact {digest[:12]} is damaged.", hint=_RESTORE)
        return content

    @property
    def _shown(self) -> str:
        # Without a query or a user, where a person may have put a key.
        return str(self.place) if isinstance(self.place, Path) else "://".join(urlsplit(self.place)[:2])


def record(artifact: Artifact, *, on: Connection, now: datetime) -> None:
    """Note an artifact in the transaction that names it; once is enough.

    Args:
        artifact: as `ArtifactStore.keep` returned it.
        on: the transaction.
        now: the present, UTC.
    """
    known = on.scalar(select(artifacts.c.digest).where(artifacts.c.digest == artifact.digest))
    if known is None:
        on.execute(
            artifacts.insert().values(
                digest=artifact.digest, size_bytes=artifact.size_bytes, kind=artifact.kind, created_at=now
            )
        )


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _open_store(place: Path | str) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, from_url

    if isinstance(place, Path):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(place)
    try:
        if urlsplit(place).scheme not in _SCHEMES:
            raise ValueError("not a store that lasts")
        return from_url(place, client_options=_CLIENT, retry_config=_RETRY)
    except (BaseError, ValueError) as error:
        raise ConfigError(
            "artifacts_url is not the URL of an object store.",
            hint="Use s3://bucket/path, gs://bucket/path or az://account/container/path.",
        ) from error


def _is_of_storage(error: Exception) -> bool:
    from obstore.exceptions import BaseError

    return isinstance(error, (BaseError, OSError))
