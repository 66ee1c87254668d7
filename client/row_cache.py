"""Feature rows on disk, and beside them whom they hold, under pseudonyms: so that one person's can be found and removed.

A row of a short conversation says nearly what was in it: rows are personal data, readable by their owner alone. A manifest
is written before its rows, so rows never lie here without saying whose they are; rows that do not say it are removed
with anybody.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.errors import ConfigError
from ringfence.privacy.bounding import ContributionManifest

_ROWS = "rows-*.safetensors"
_MANIFESTS = "manifest-*.json"


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed.

    Attributes:
        caches: files of feature rows.
        manifests: lists of who takes part in which conversation, under pseudonyms.
    """

    caches: int = 0
    manifests: int = 0


class RowCache:
    """The cached rows of one member. Hold `lock` while looking and writing.

    Args:
        home: the member's folder; its cache folder is made if missing.
    """

    def __init__(self, home: MemberHome) -> None:
        self._folder = home.cache

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process from removing or adding rows.

        Raises:
            ConfigError: the cache, or another file that is used meanwhile, cannot be read or written. The operator's to mend.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with exclusive(self._folder / ".lock"):
                yield
        except OSError as error:
            raise ConfigError(
                f"{error.filename or self._folder} cannot be used: {error.strerror}",
                hint="Check the folder, its owner and the disk, and try again.",
            ) from error

    def read(self, key: str) -> NDArray[np.float32] | None:
        """Return the rows of a key, (n, prefixes, dimension) float32, or None."""
        from safetensors import SafetensorError
        from safetensors.numpy import load as load_tensors

        try:
            return load_tensors(self._rows(key).read_bytes())["features"].astype(np.float32, copy=False)
        except (OSError, SafetensorError, KeyError):
            return None

    def write(self, key: str, features: NDArray[np.float32]) -> None:
        """Keep rows, of which `note` has said whose they are."""
        from safetensors.numpy import save as save_tensors

        write_atomically(self._rows(key), save_tensors({"features": features}))

    def note(self, key: str, manifest: ContributionManifest) -> None:
        """Say who is in the rows of a key, before they are written."""
        path = self._folder / f"manifest-{manifest.digest()}.json"
        participants = sorted({person for row in manifest.kept for person in row.participants})
        content = {"rows": self._rows(key).name, "participants": participants}
        write_atomically(path, json.dumps(content).encode())

    def datasets(self) -> frozenset[str]:
        """Return the digest of every manifest that lies here."""
        return frozenset(
            path.stem.removeprefix("manifest-")
            for path in self._folder.glob(_MANIFESTS)
            if _content(path) is not None
        )

    def holds(self, pseudonym: str) -> bool:
        """Return whether a readable manifest holds a person."""
        contents = (_content(path) for path in self._folder.glob(_MANIFESTS))
        return any(content is not None and pseudonym in content[1] for content in contents)

    def remove_person(self, pseudonym: str) -> Removed:
        """Remove every manifest that holds a person, and all rows but those that are known not to."""
        innocent: set[str] = set()
        guilty: list[Path] = []
        for path in self._folder.glob(_MANIFESTS):
            content = _content(path)
            if content is None or pseudonym in content[1]:
                guilty.append(path)
            else:
                innocent.add(content[0])
        held = {content[0] for path in guilty if (content := _content(path)) is not None}
        # Rows go before what says whose they are: a crash in between leaves a manifest, and the next try finds it.
        rows = [path for path in self._folder.glob(_ROWS) if path.name in held or path.name not in innocent]
        _remove(self._leftovers())
        return Removed(caches=_remove(rows), manifests=_remove(guilty))

    def remove_older(self, *, than: float) -> Removed:
        """Remove rows that were made before a time (seconds since the epoch), and manifests without rows of that age."""
        rows = [path for path in self._folder.glob(_ROWS) if path.stat().st_mtime < than]
        manifests = [path for path in self._folder.glob(_MANIFESTS) if path.stat().st_mtime < than]
        _remove(self._leftovers())
        return Removed(caches=_remove(rows), manifests=_remove(manifests))

    def _leftovers(self) -> list[Path]:
        """Return what writers that were killed left half written; under the lock nobody is writing."""
        return list(self._folder.glob(".*.new"))

    def _rows(self, key: str) -> Path:
        return self._folder / f"rows-{key}.safetensors"


def _content(path: Path) -> tuple[str, frozenset[str]] | None:
    """Return the name of the rows and the pseudonyms of a manifest, or None if it cannot be read."""
    try:
        values = json.loads(path.read_bytes())
        return str(values["rows"]), frozenset(values["participants"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(paths: list[Path]) -> int:
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)
