"""The release repository on disk: signed metadata in states that are switched at once, and files by their hash.

```
repository/
  metadata -> states/00000003     what is served; a link that is flipped when the new state is complete
  states/00000003/                1.root.json  2.targets.json  3.stable.json  ...  timestamp.json
  targets/                        blobs/<sha256>.<sha256>  stable/<sha256>.0.1.0.json  ...
```

A crash at any point leaves the old state or the new one. This matters most for a new root, which clients would otherwise
take as soon as its file appears, before the metadata that fits it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from ringfence.model.atomic_file import exclusive, replace_link, sync_folder, write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.trust_chain import parse_metadata

_METADATA_NAME = re.compile(r"([1-9][0-9]{0,9}\.)?[a-z]{1,32}\.json")


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """The newest metadata of every role.

    Attributes:
        root: who governs.
        targets: who may approve.
        stable: countersigned releases.
        candidate: releases for evaluation.
        snapshot: which versions belong together.
        timestamp: which snapshot is the newest.
    """

    root: Metadata[Root]
    targets: Metadata[Targets]
    stable: Metadata[Targets]
    candidate: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]


class ReleaseRepository:
    """One federation's release repository.

    Args:
        folder: the coordinator home's ``repository`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def exists(self) -> bool:
        """Whether a first root of trust was published."""
        return self._metadata.is_symlink()

    def lock(self) -> AbstractContextManager[None]:
        """Hold the repository for a change, against other processes too."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return exclusive(self._folder / ".lock")

    def read(self) -> RepositoryState:
        """Return the newest metadata.

        Raises:
            ConfigError: nothing was published yet, or a file is missing. The operator's to mend.
            TamperedError: a file is not metadata.
        """
        if not self.exists:
            raise ConfigError(
                "This federation has no root of trust yet.",
                hint="Start with: ringfence-coordinator trust draft",
            )
        try:
            folder = self._metadata.resolve(strict=True)
            root = max(int(path.name.split(".")[0]) for path in folder.glob("*.root.json"))
            timestamp = parse_metadata((folder / "timestamp.json").read_bytes(), Timestamp)
            snapshot = parse_metadata(
                (folder / f"{timestamp.signed.snapshot_meta.version}.snapshot.json").read_bytes(), Snapshot
            )
            listed = {
                role: parse_metadata(
                    (folder / f"{snapshot.signed.meta[f'{role}.json'].version}.{role}.json").read_bytes(),
                    Targets,
                )
                for role in ("targets", "stable", "candidate")
            }
            return RepositoryState(
                root=parse_metadata((folder / f"{root}.root.json").read_bytes(), Root),
                targets=listed["targets"],
                stable=listed["stable"],
                candidate=listed["candidate"],
                snapshot=snapshot,
                timestamp=timestamp,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                "The release repository is not complete.", hint="Restore it from a backup."
            ) from error

    def switch(self, files: Mapping[str, bytes]) -> None:
        """Make a new state of the present files and these, and serve it from now on; the caller holds `lock`.

        Args:
            files: file name -> content, such as ``3.stable.json``; ``timestamp.json`` replaces the present one.

        Raises:
            OSError: the disk is full or cannot be written; the old state goes on being served.
        """
        states = self._folder / "states"
        states.mkdir(mode=0o700, exist_ok=True)
        present = self._metadata.resolve(strict=True) if self.exists else None
        number = 1 + max((int(path.name) for path in states.iterdir() if path.name.isdigit()), default=0)
        following = states / f"{number:08d}"
        following.mkdir(mode=0o700)
        for name, content in files.items():
            write_atomically(following / name, content)
        if present is not None:
            for path in present.iterdir():
                if path.name not in files:
                    os.link(path, following / path.name)
        sync_folder(following)
        sync_folder(states)
        # The one step that counts: before it the old state is served, after it the new one.
        replace_link(self._metadata, target=f"states/{following.name}")
        self._forget_states(keep={following.name, present.name if present else following.name})

    def metadata_file(self, name: str) -> Path | None:
        """Return the path of a metadata file that may be served, or None."""
        if not _METADATA_NAME.fullmatch(name):
            return None
        path = self._metadata / name
        return path if path.is_file() else None

    def root_versions(self) -> tuple[bytes, ...]:
        """Return every root of trust, first to newest."""
        found = sorted(self._metadata.glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        return tuple(path.read_bytes() for path in found)

    def artifact_file(self, path: str) -> Path | None:
        """Return the path of a file that may be served, or None; nothing outside ``targets/`` ever is."""
        if not path.isprintable() or path.startswith("/"):
            return None
        base = self._targets.resolve()
        found = (base / path).resolve()
        return found if found.is_relative_to(base) and found.is_file() else None

    def add_artifact(self, target: TargetFile, *, source: Path | bytes) -> None:
        """Place a file where clients look for it, under its hash; it is not vouched for until metadata lists it.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        destination = self._targets / target.get_prefixed_paths()[0]
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if isinstance(source, bytes):
            write_atomically(destination, source)
            return
        scratch = destination.with_name(f".{destination.name}.new")
        with scratch.open("wb") as copy, source.open("rb") as original:
            shutil.copyfileobj(original, copy)
            copy.flush()
            os.fsync(copy.fileno())
        with scratch.open("rb") as copy:
            # Whoever changed the source meanwhile must not have the change served under the old hash.
            target.verify_length_and_hashes(copy)
        os.replace(scratch, destination)
        sync_folder(destination.parent)

    def holds(self, target: TargetFile) -> bool:
        """Whether a listed file is there, in its full length."""
        path = self._targets / target.get_prefixed_paths()[0]
        return path.is_file() and path.stat().st_size == target.length

    @property
    def _metadata(self) -> Path:
        return self._folder / "metadata"

    @property
    def _targets(self) -> Path:
        return self._folder / "targets"

    def _forget_states(self, *, keep: set[str]) -> None:
        for path in (self._folder / "states").iterdir():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)
