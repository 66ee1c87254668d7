"""The files that a member's settings name: globs looked up, and files that lie elsewhere fetched for as long as they are read."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.snapshot_folder import folder_in_use, new_copies_folder
from ringfence.client.stop_signals import stops_as_ctrl_c
from ringfence.model.errors import ConfigError, DataError

_IN_THE_CLEAR = ("http", "ftp")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def local_folders(home: MemberHome, data: DataSettings) -> set[Path]:
    """Return the folders on this machine that reading the data opens files in."""
    named = [*data.files, *itertools.chain.from_iterable(data.tables.values())]
    named += [name for name in (data.predators, data.url_file) if name is not None]
    folders = set()
    for name in named:
        if "://" not in name:
            parts = (home.root / Path(name).expanduser()).absolute().parent.parts
            folders.add(Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)))
    return folders


class SourceFiles:
    """Finds files, and keeps copies of remote ones (mode 0600) until it is left or stopped; used as a context manager.

    Args:
        home: the member's folder; relative paths count from it.
    """

    def __init__(self, home: MemberHome) -> None:
        self._home = home
        self._fetched: Path | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Return self. From here on a stop leaves this block as Ctrl-C does."""
        self._held.enter_context(stops_as_ctrl_c())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the copies."""
        with self._held:
            if self._fetched is not None:
                shutil.rmtree(self._fetched, ignore_errors=True)
                self._fetched = None

    def locate(self, names: Sequence[str]) -> list[Path]:
        """Return the files of paths, globs and URLs, those of a glob in order of name.

        Raises:
            ConfigError: a glob or URL finds nothing, or a URL is of a kind that cannot be read. The operator's to mend.
            DataError: a file elsewhere cannot be fetched. The data owner's to mend.
        """
        found: list[Path] = []
        for name in names:
            found += self._fetch(name) if "://" in name else self._local(name)
        return found

    def _local(self, name: str) -> list[Path]:
        path = self._home.root / Path(name).expanduser()
        # A file of that very name is meant, whatever signs are in it; and one that is missing is named when it is read.
        if path.exists() or not glob.has_magic(name):
            return [path]
        found = sorted(Path(each) for each in glob.glob(str(path), recursive=True))
        if not found:
            raise ConfigError(
                f"No file matches {path}.", hint="Correct the pattern in [data] of member.toml."
            )
        return found

    def _fetch(self, url: str) -> list[Path]:
        import fsspec

        scheme = url.partition("://")[0].lower()
        if scheme in _IN_THE_CLEAR or "::" in url:
            raise ConfigError(
                f"Conversations are not fetched by {url.partition('://')[0]}://.",
                hint="Use a kind of storage that encrypts, such as s3, gs, abfs or https; chained URLs are not read.",
            )
        try:
            storage, path = fsspec.core.url_to_fs(url)
            names = sorted(str(each) for each in storage.glob(path)) if glob.has_magic(path) else [path]
            copies = [self._copy(storage, name) for name in names]
        except ImportError as error:
            raise ConfigError(
                f"Files at {scheme}:// need a package that is not installed.",
                hint="s3: pip install s3fs. gs: pip install gcsfs. abfs: pip install adlfs.",
            ) from error
        except ValueError:
            raise ConfigError(
                f"Files at {scheme}:// cannot be read.", hint="Correct [data] of member.toml."
            ) from None
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - each storage has errors of its own; their texts may hold credentials
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise ConfigError(
                    f"Files at {scheme}:// do not fit into {self._home.snapshots}: {os.strerror(error.errno)}.",
                    hint="Make room on that disk; copies are removed once they are read.",
                ) from None
            raise DataError(
                f"Files at {scheme}:// cannot be fetched: {type(error).__name__}.",
                hint="Check the URL and the credentials that the storage's own tools use.",
            ) from None
        if not copies:
            raise ConfigError(
                f"No file at {scheme}:// matches.", hint="Correct the pattern in [data] of member.toml."
            )
        return copies

    def _copy(self, storage: object, name: str) -> Path:
        if self._fetched is None:
            self._held.enter_context(folder_in_use(self._home))
            self._fetched = new_copies_folder(self._home)
        folder = Path(tempfile.mkdtemp(dir=self._fetched))
        target = folder / Path(name).name
        # Made before its first byte comes, so that it never has another mode.
        target.touch(mode=0o600, exist_ok=False)
        storage.get_file(name, str(target))  # type: ignore[attr-defined]  # fsspec has no types
        target.chmod(0o600)
        return target
