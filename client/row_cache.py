"""Feature rows on disk, and beside them whom they hold, under pseudonyms: so that one person's can be found and removed.

A row of a short conversation says nearly what was in it: rows are personal data, readable by their owner alone. Each row
says whom it holds, and a manifest says who is in a data set that was trained on, and under which of the member's secrets they
are called so. Files that do not say it, left by an earlier version or damaged, and those under a secret that is gone, are
removed with anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ringfence.client.member_home import MemberHome
from ringfence.client.row_file import RowFile, is_row_file, remove_row_file
from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.errors import ConfigError
from ringfence.privacy.bounding import ContributionManifest

_ROWS = "rows-*"
_ENDING = ".sqlite3"
_MANIFESTS = "manifest-*.json"
_KEY_PURPOSE = b"ringfence contribution manifest"


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed.

    Attributes:
        rows: conversations whose feature rows went; a file that does not say what it holds counts as one.
        manifests: lists of who takes part in which conversation, under pseudonyms.
    """

    rows: int = 0
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
        except sqlite3.Error as error:
            raise ConfigError(
                f"{self._folder} cannot be used ({getattr(error, 'sqlite_errorname', '')}).",
                hint="Check the folder, its owner and the disk, and try again.",
            ) from error

    def rows(self, feature_set_sha256: str, *, check: bool = False) -> RowFile:
        """Return the file of the rows of a feature set, to be used as a context manager; ``check`` looks for damage."""
        return RowFile(self._folder / f"rows-{feature_set_sha256[:40]}{_ENDING}", check=check)

    def note(self, manifest: ContributionManifest, *, secret: bytes) -> None:
        """Say who is in a data set, before anything is made from it.

        Args:
            manifest: of the data set.
            secret: under which it calls people.
        """
        path = self._folder / f"manifest-{manifest.digest()}.json"
        participants = sorted({person for row in manifest.kept for person in row.participants})
        said = {"key": _fingerprint(secret), "participants": participants}
        write_atomically(path, json.dumps(said).encode())

    def datasets(self, *, secret: bytes) -> frozenset[str]:
        """Return the digest of every manifest that lies here and says under this secret whom it holds."""
        return frozenset(
            path.stem.removeprefix("manifest-")
            for path in self._folder.glob(_MANIFESTS)
            if _participants(path, secret=secret) is not None
        )

    def holds(self, pseudonym: str) -> bool:
        """Return whether a readable manifest or row holds a person."""
        if any(pseudonym in _Manifest.read(path).participants for path in self._folder.glob(_MANIFESTS)):
            return True
        for path in self._row_files():
            with RowFile(path) as file:
                if pseudonym and file.holds(pseudonym):
                    return True
        return False

    def keep_only(self, keys: Collection[bytes]) -> None:
        """Remove the rows of every conversation but these, whatever they were made for, and rows of earlier versions."""
        self._remove_rows(lambda file: file.keep_only(keys), others=lambda _: True)

    def remove_person(self, pseudonym: str, *, secret: bytes) -> Removed:
        """Remove every manifest and every row that holds a person, or of which nobody knows whom they hold.

        Without a pseudonym, because the secret that makes them is gone, that is all of them. A manifest under another secret
        may hold anybody, and so may the rows that were made under it, which do not say so: every row goes with it.

        Args:
            pseudonym: of the person under the member's present secret; "" if that is gone.
            secret: that secret; empty if it is gone.
        """
        held = {path: _participants(path, secret=secret) for path in self._folder.glob(_MANIFESTS)}
        guilty = [path for path, people in held.items() if people is None or pseudonym in people]
        all_are_told_apart = bool(pseudonym) and None not in held.values()
        # Rows go before what says whose they are: a crash in between leaves a manifest, and the next try finds it.
        rows = self._remove_rows(
            lambda file: file.remove_person(pseudonym) if all_are_told_apart else _everything(file),
            others=lambda _: True,
        )
        return Removed(rows=rows, manifests=_remove(guilty))

    def remove_older(self, *, than: float) -> Removed:
        """Remove rows that were made before a time (seconds since the epoch), and manifests of that age."""
        manifests = [path for path in self._folder.glob(_MANIFESTS) if path.stat().st_mtime < than]
        rows = self._remove_rows(
            lambda file: file.remove_older(than=than), others=lambda path: path.stat().st_mtime < than
        )
        return Removed(rows=rows, manifests=_remove(manifests))

    def _remove_rows(self, remove: Callable[[RowFile], int], *, others: Callable[[Path], bool]) -> int:
        """Remove rows from every file, files that are empty then, and other files that are to go; return how many."""
        count = 0
        # Files of rows first: opening one settles what a writer that was killed left beside it.
        files = self._row_files()
        for path in files:
            with RowFile(path) as file:
                count += remove(file)
                left = len(file)
            if not left:
                remove_row_file(path)
        count += _remove([path for path in self._folder.glob(_ROWS) if path not in files and others(path)])
        _remove(list(self._folder.glob(".*.new")))  # half written: under the lock nobody is writing
        return count

    def _row_files(self) -> list[Path]:
        """Return the files of rows that are whole."""
        return [path for path in sorted(self._folder.glob(f"{_ROWS}{_ENDING}")) if is_row_file(path)]


def _everything(file: RowFile) -> int:
    return file.keep_only(())


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What a manifest says; nothing if it cannot be read.

    Attributes:
        key: fingerprint of the secret under which it calls people; "" if it does not say.
        participants: their pseudonyms.
    """

    key: str = ""
    participants: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path) -> _Manifest:
        try:
            said = json.loads(path.read_bytes())
            return cls(str(said.get("key", "")), frozenset(said["participants"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()


def _participants(path: Path, *, secret: bytes) -> frozenset[str] | None:
    """Return the pseudonyms of a manifest, or None if it cannot be read or does not call people by this secret."""
    found = _Manifest.read(path)
    return found.participants if secret and found.key == _fingerprint(secret) else None


def _fingerprint(secret: bytes) -> str:
    """Return what tells one secret from another and says nothing else of it, in hexadecimal."""
    return hmac.new(secret, _KEY_PURPOSE, hashlib.sha256).hexdigest()


def _remove(paths: list[Path]) -> int:
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)
