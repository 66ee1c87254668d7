"""The member's folder of what is being read: whoever reads holds it, and who comes next removes what the dead left there.

A snapshot that another process shall open, copies of files that lie elsewhere, and what a query cannot hold in memory have
names in it for as long as they are read. They hold text, so a stop removes them; what a process that was killed outright
leaves is removed by the next that reads, and by the agent when it starts and every day.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ringfence.client.member_home import MemberHome
from ringfence.model.errors import ConfigError

_SNAPSHOT = "snapshot-"
_FETCHED = "fetched-"
_SPILLED = "duckdb"


@contextmanager
def folder_in_use(home: MemberHome) -> Iterator[None]:
    """Hold the folder, made if missing, so that nobody takes what lies in it for left over. Any number may hold it.

    Raises:
        ConfigError: it cannot be made. The operator's to mend.
    """
    try:
        home.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(home.snapshots, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        _empty_if_unused(home, handle)
        # Where the file system knows no such lock, nothing is held and nothing is ever taken for left over.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def remove_left_over(home: MemberHome) -> None:
    """Remove what processes that were killed left of what they read, unless somebody reads now. Never raises."""
    try:
        handle = os.open(home.snapshots, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        _empty_if_unused(home, handle)
    finally:
        os.close(handle)


def new_snapshot_file(home: MemberHome) -> Path:
    """Return a new empty file of mode 0600 in the folder, which whoever writes it holds.

    Raises:
        ConfigError: it cannot be made. The operator's to mend.
    """
    try:
        home.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_SNAPSHOT, dir=home.snapshots)  # mode 0600
    except OSError as error:
        raise _unwritable(home, error) from error
    os.close(handle)
    return Path(name)


def new_copies_folder(home: MemberHome) -> Path:
    """Return a new folder of mode 0700 for this process's copies of files that lie elsewhere.

    Raises:
        ConfigError: it cannot be made. The operator's to mend.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_FETCHED}{os.getpid()}-", dir=home.snapshots))
    except OSError as error:
        raise _unwritable(home, error) from error


def remove_copies(home: MemberHome, *, process_id: int) -> None:
    """Remove the copies that a process of this machine made which has ended. Never raises."""
    for folder in home.snapshots.glob(f"{_FETCHED}{process_id}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _empty_if_unused(home: MemberHome, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # somebody reads, or nobody can tell
    for path in home.snapshots.iterdir():
        if path.name.startswith(_SNAPSHOT):
            path.unlink(missing_ok=True)
        elif path.name.startswith(_FETCHED) or path.name == _SPILLED:
            shutil.rmtree(path, ignore_errors=True)


def _unwritable(home: MemberHome, error: OSError) -> ConfigError:
    return ConfigError(
        f"Cannot write to {home.snapshots}: {error.strerror}", hint="Check the folder and the disk."
    )
