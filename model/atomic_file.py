"""Files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file's content at once, and have it on disk before returning.

    A crash leaves the old file or the new one, never a part.

    Args:
        path: file to replace or to make; its folder exists.
        content: the whole new content.
        mode: permission bits of the new file.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise
    sync_folder(path.parent)


def replace_link(link: Path, *, target: str) -> None:
    """Point a symbolic link at another target at once; readers see the old one or the new one.

    Args:
        link: the link to flip or to make.
        target: what it shall point at, relative to the link's folder.

    Raises:
        OSError: the link cannot be written; the old one is untouched.
    """
    scratch = link.with_name(f".{link.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()
    os.symlink(target, scratch)
    os.replace(scratch, link)
    sync_folder(link.parent)


def sync_folder(folder: Path) -> None:
    """Have a folder's entries (names, links) on disk before returning."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold a lock between processes for the length of the block; it falls away when a process dies.

    Args:
        lock_file: an empty file that is made if missing; its folder exists.
    """
    handle = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
