"""What a child process says of the dumps that it would leave; spawned by name, hence a module of its own."""

from __future__ import annotations

import ctypes
import resource
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from ringfence.model.errors import DataError

_PR_GET_DUMPABLE = 3


def dumps_of_this_process() -> str:
    """Return the limit of core dumps, and whether the kernel would make one of this process."""
    dumpable = ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    return f"core {resource.getrlimit(resource.RLIMIT_CORE)}, dumpable {dumpable}"


def allow_dumps() -> None:
    """Raise the limit as far as it goes, as a machine that collects crash dumps does."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


class _Looks:
    """A trainer that answers with what its process would leave behind."""

    def __init__(self, *given: object, **more: object) -> None:
        pass

    def answer(self, request: object) -> NoReturn:
        raise DataError(dumps_of_this_process())


def serve_and_look(pipe: Connection, home: Path, parent: int) -> None:
    """Be the real worker, but for the trainer."""
    from ringfence.client import local_training, worker

    allow_dumps()
    local_training.LocalTrainer = _Looks  # type: ignore[assignment,misc]
    worker._serve(pipe, home, parent)


def read_and_look(pipe: Connection, home: Path, path: Path, parent: int) -> None:
    """Be the real reader, but for the reading."""
    from ringfence.client import reading_process

    def look(home: object, path: object) -> reading_process.SnapshotTaken:
        return reading_process.SnapshotTaken(reason=dumps_of_this_process())

    allow_dumps()
    reading_process._read = look
    reading_process._serve(pipe, home, path, parent)
