"""What a worker process does in tests, in the place of training; spawned by name, hence a module of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import stat
import time
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec

from ringfence.client.confinement import confine
from ringfence.client.member_home import MemberHome
from ringfence.client.rows_progress import RowsMade
from ringfence.client.worker import WorkerAnswer
from ringfence.model.round_messages import Refusal, RefusalCode

FETCHED = b"the blue heron waits\n"
"""What `fetch_for_ever` fetches."""


def hang(pipe: Connection, home: Path, parent: int) -> None:
    """Never answer."""
    confine(parent)
    time.sleep(600)


def die_of_it(pipe: Connection, home: Path, parent: int) -> None:
    """Be killed by each request, as one that needs more memory than there is."""
    confine(parent)
    pipe.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_then_answer(pipe: Connection, home: Path, parent: int) -> None:
    """Answer after the agent has lost patience."""
    confine(parent)
    pipe.recv()
    time.sleep(1.0)
    pipe.send(WorkerAnswer(Refusal(RefusalCode.POLICY), "late"))


def make_rows_for_long(pipe: Connection, home: Path, parent: int) -> None:
    """Tell how far it is before it answers."""
    confine(parent)
    pipe.recv()
    for done in (1, 2, 3):
        pipe.send(RowsMade(done, 4))
    pipe.send(WorkerAnswer(Refusal(RefusalCode.FAILED), "made"))


def make_rows_too_long(pipe: Connection, home: Path, parent: int) -> None:
    """Tell how far it is all the time, for longer than anybody waits."""
    confine(parent)
    pipe.recv()
    for done in range(120):
        pipe.send(RowsMade(done, 1000))
        time.sleep(0.1)
    pipe.send(WorkerAnswer(Refusal(RefusalCode.FAILED), "made"))


def reach(pipe: Connection, home: Path, parent: int) -> None:
    """Try to reach a listener on this machine, as a hostile dependency of training would."""
    confine(parent)
    pipe.recv()
    address = ("127.0.0.1", int(os.environ["RINGFENCE_TEST_PORT"]))
    try:
        with socket.create_connection(address, timeout=5):
            reason = "reached it"
    except OSError as error:
        reason = f"cut off: {error.strerror}"
    pipe.send(WorkerAnswer(Refusal(RefusalCode.FAILED), reason))


def opened(pipe: Connection, home: Path, parent: int) -> None:
    """Count the sockets that came along from the agent."""
    confine(parent)
    pipe.recv()
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += stat.S_ISSOCK(os.fstat(int(number)).st_mode)
        except OSError:
            continue  # the folder's own handle, closed by now
    pipe.send(WorkerAnswer(Refusal(RefusalCode.FAILED), f"sockets: {count}"))


def confine_as_an_ordinary_user(pipe: Connection, home: Path, parent: int) -> None:
    """Do what the worker does where it is not root: leave the network by way of a user namespace."""
    threads = len(os.listdir("/proc/self/task"))
    pipe.recv()
    left = ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0
    pipe.send(WorkerAnswer(Refusal(RefusalCode.FAILED), f"threads: {threads}, left: {left}"))


def read_and_hang(pipe: Connection, home: Path, path: Path, parent: int) -> None:
    """Stand for a reader that has begun to write and never ends."""
    confine(parent, network=True)
    path.write_bytes(b"half a snapshot")
    time.sleep(600)


def read_and_look_around(pipe: Connection, home: Path, path: Path, parent: int) -> None:
    """Say what a reader has at hand."""
    import json
    import sys

    from ringfence.client.reading_process import SnapshotTaken, _read

    confine(parent, network=True)
    _read(MemberHome(home), path)
    path.unlink()
    sockets = sum(_is_socket(number) for number in os.listdir("/proc/self/fd"))
    seen = {
        "sockets": sockets,
        "torch": "torch" in sys.modules,
        "flwr": "flwr" in sys.modules,
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    }
    pipe.send(SnapshotTaken(reason=json.dumps(seen)))


def _is_socket(number: str) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(int(number)).st_mode)
    except OSError:
        return False


class _EndlessStorage(fsspec.AbstractFileSystem):
    """A storage whose files never come to their end."""

    protocol = "endless"

    def get_file(self, rpath: str, lpath: str, **_: object) -> None:
        with Path(lpath).open("wb") as file:
            while True:
                file.write(FETCHED * 1_000)
                file.flush()
                time.sleep(0.01)


def fetch_for_ever(pipe: Connection, home: Path, path: Path, parent: int) -> None:
    """Be the reader of files that take long to fetch."""
    from ringfence.client.reading_process import _serve

    fsspec.register_implementation("endless", _EndlessStorage)
    _serve(pipe, home, path, parent)


def fetch_for_ever_and_never_stop(pipe: Connection, home: Path, path: Path, parent: int) -> None:
    """Be the same, and deaf to everything but a kill."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fetch_for_ever(pipe, home, path, parent)
