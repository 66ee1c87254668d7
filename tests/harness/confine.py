"""Start a program under the confinement of a unit file, as far as a process can take it on without systemd.

Usage: ``python confine.py UNIT COMMAND...``. Of the unit it enforces, by the kernel: the system call filter and its error number,
the address families, no memory both writable and executable, no capabilities, no new privileges. Everything that it starts inherits them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_MDWE = 65
_EQUAL = 4


class _Compare(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def directives(unit: str, name: str) -> list[str]:
    """Return the values of a directive, in order."""
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{name}=")]


def calls_of(group: str) -> set[str]:
    """Return the system calls of one of systemd's groups, or the call itself."""
    if not group.startswith("@"):
        return {group}
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    names = [line.strip() for line in shown.splitlines()[1:] if line.startswith("    ")]
    return set().union(*(calls_of(name) for name in names if not name.startswith("#")))


def allowed_calls(unit: str) -> set[str]:
    """Return the system calls that a unit's filters leave."""
    # What every process needs before and after a program's own doing; systemd adds it to each allow list.
    allowed = calls_of("@default")
    for words in directives(unit, "SystemCallFilter"):
        named = set().union(*(calls_of(word) for word in words.removeprefix("~").split()))
        allowed = allowed - named if words.startswith("~") else allowed | named
    return allowed


def confine(unit: str) -> None:
    """Take the confinement on, for this process and its children, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    if directives(unit, "MemoryDenyWriteExecute") == ["yes"] and libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this kernel does not know MDWE")
    if directives(unit, "CapabilityBoundingSet") == [""]:
        for capability in range(64):
            libc.prctl(
                _PR_CAPBSET_DROP, capability, 0, 0, 0
            )  # fails for those that this kernel does not have
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM)))
    families = [getattr(socket, name) for name in directives(unit, "RestrictAddressFamilies")[0].split()]
    # execve is how this very program hands over; systemd does that before the filter holds.
    for name in allowed_calls(unit) | {"execve"}:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue
        if name == "socket":
            for family in families:
                compared = _Compare(0, _EQUAL, int(family), 0)
                seccomp.seccomp_rule_add_array(
                    filter_, ctypes.c_uint32(_ALLOW), number, 1, ctypes.byref(compared)
                )
            continue
        seccomp.seccomp_rule_add_array(filter_, ctypes.c_uint32(_ALLOW), number, 0, None)
    if seccomp.seccomp_load(filter_) != 0:
        raise OSError("the filter could not be loaded")


def main() -> None:
    """Confine this process, and become the command."""
    confine(Path(sys.argv[1]).read_text())
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command of the test


if __name__ == "__main__":
    main()
