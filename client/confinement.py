"""How a process that sees conversations is cut off from what it does not need, and leaves no dump of them when it crashes."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal

log = logging.getLogger("ringfence.agent")
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def forbid_dumps() -> None:
    """Keep this process's memory out of core dumps, and other processes of the same user from reading it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(parent: int, *, network: bool = False) -> None:
    """Cut this process off: no core dumps, gone with its parent, deaf to the terminal's Ctrl-C, no network unless it is given.

    Args:
        parent: process id of the parent; if that is gone already, so is this process.
        network: whether this process keeps the network.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forbid_dumps()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # the parent died before the line above took hold
    if network:
        return
    if libc.unshare(_CLONE_NEWNET) != 0 and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        log.warning("this system does not let the worker be cut off from the network")
