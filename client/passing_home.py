"""A folder that stands in for a member's for as long as files are looked at, and is gone afterwards, however that ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ringfence.client.member_home import MemberHome
from ringfence.client.stop_signals import stops_as_ctrl_c

_PREFIX = "ringfence-passing-"


def passing_home(stack: ExitStack, home: MemberHome) -> MemberHome:
    """Return a folder that is gone when the stack is left, with the exclusions of the home if there are any.

    Folders of this user's processes that were killed outright are removed first.
    """
    stack.enter_context(stops_as_ctrl_c())
    _remove_left_over()
    passing = MemberHome(stack.enter_context(_held_folder()))
    if home.exclusions_file.exists():
        passing.exclusions_file.write_bytes(home.exclusions_file.read_bytes())
    return passing


@contextmanager
def _held_folder() -> Iterator[Path]:
    folder, handle = _make()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _make() -> tuple[Path, int]:
    """Return a new folder of mode 0700 and the handle whose lock says that it is in use."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Between these lines another process may take it for left over: then there is none of this name.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _remove_left_over() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            # Not through a link: whoever may write there could lead to another folder of this user.
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # it is in use
        finally:
            os.close(handle)
