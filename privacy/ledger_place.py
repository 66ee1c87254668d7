"""Where a ledger may lie: a plain file of the agent's own, in a folder of its own, on a local disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ringfence.privacy.ledger_refusals import LedgerRefusal, refused

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "ceph", "lustre", "glusterfs", "fuse.sshfs"}
)
"""Where SQLite's write-ahead journal and locks cannot be relied on."""


def check_private_file(path: Path) -> None:
    """Refuse a file that is not the agent's own.

    Raises:
        BudgetError: it is missing, a link, not owned by this user, open to others, or its folder is not fit.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError as error:
        raise refused(LedgerRefusal.MISSING) from error
    except OSError as error:
        raise refused(LedgerRefusal.PERMISSIONS, place=path) from error
    own = (
        stat.S_ISREG(found.st_mode)
        and found.st_nlink == 1
        and found.st_uid == os.geteuid()
        and not found.st_mode & 0o077
    )
    if not own:
        raise refused(LedgerRefusal.PERMISSIONS, place=path)
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a folder that others can write to, or that lies on a network file system.

    Raises:
        BudgetError: it is so, or there is no such folder.
    """
    try:
        folder = os.stat(path.parent)
    except OSError as error:
        raise refused(LedgerRefusal.MISSING) from error
    if folder.st_uid not in (os.geteuid(), 0) or folder.st_mode & 0o022:
        raise refused(LedgerRefusal.PERMISSIONS, place=path.parent)
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # not Linux: the operator's own care, as the documentation says
    if file_system_of(path.parent.resolve(), mounts=mounts) in NETWORK_FILE_SYSTEMS:
        raise refused(LedgerRefusal.NETWORK_FILES)


def file_system_of(path: Path, *, mounts: str) -> str:
    """Return the type of the file system that holds a path, from the content of ``/proc/self/mountinfo``."""
    best, kind = "", ""
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        point = fields[4].replace("\\040", " ")
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):  # of mounts at one point, the last one is on top
            best, kind = point, after.split()[0]
    return kind
