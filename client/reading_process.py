"""The reader: a short-lived child process that reads the member's data where that may need a network.

The agent talks to the coordinator and must not see a conversation; the worker sees conversations and has no network. A
database or an object store needs both, so a third process does that and nothing else: it writes a snapshot and ends. It is
told nothing of the run that asks.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from ringfence.client.confinement import confine
from ringfence.client.member_home import MemberHome
from ringfence.client.snapshot_folder import folder_in_use, new_snapshot_file, remove_copies
from ringfence.client.stop_signals import stops_as_ctrl_c
from ringfence.model.errors import ConfigError, DataError, RingfenceError

_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """The worker's question to its agent: read the data."""


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """The agent's answer.

    Attributes:
        path: of a snapshot that the worker opens, which removes its name; or None.
        reason: why there is none, in one sentence for this member's own log.
        hint: what to do about it.
        by_settings: whether the settings are to blame, and not the data.
    """

    path: Path | None = None
    reason: str = ""
    hint: str = ""
    by_settings: bool = False

    def opened_path(self) -> Path:
        """Return the path.

        Raises:
            ConfigError, DataError: there is none; as the reader found.
        """
        if self.path is not None:
            return self.path
        kind = ConfigError if self.by_settings else DataError
        raise kind(self.reason, hint=self.hint)


def end_process(process: multiprocessing.process.BaseProcess) -> None:
    """Ask a child to end, and kill it if it has not within five seconds."""
    process.terminate()
    process.join(_STOP_S)
    if process.is_alive():
        process.kill()
        process.join()


class Reading:
    """One reading by a child process, used as a context manager: wait for `pipe`, then take the answer.

    Args:
        home: the member's folder.
    """

    def __init__(self, home: MemberHome) -> None:
        self._home = home
        self._path: Path | None = None
        self._held = ExitStack()
        self._process: multiprocessing.process.BaseProcess | None = None
        context = multiprocessing.get_context("spawn")
        self.pipe, self._child_end = context.Pipe()

    def __enter__(self) -> Self:
        """Start the child."""
        try:
            self._held.enter_context(folder_in_use(self._home))
            self._path = new_snapshot_file(self._home)
        except RingfenceError as error:
            self._child_end.send(_not_taken(error))
            return self
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve,
            args=(self._child_end, self._home.root, self._path, os.getpid()),
            name="ringfence-reader",
            daemon=True,
        )
        self._process.start()
        self._child_end.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child, and remove its file unless somebody was given it."""
        with self._held:
            self.pipe.close()
            self._child_end.close()
            if self._process is not None:
                # Asked to end, it removes what it fetched; killed, it cannot.
                end_process(self._process)
                if self._process.pid is not None:
                    remove_copies(self._home, process_id=self._process.pid)
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    def taken(self) -> SnapshotTaken:
        """Return what the child found, waiting for it. Never raises."""
        try:
            taken: SnapshotTaken = self.pipe.recv()
        except (EOFError, OSError):
            return SnapshotTaken(
                reason="The process that reads the data died.", hint="Run: ringfence data check"
            )
        if taken.path is not None:
            self._path = None  # the worker's now, which removes the name as it opens it
        return taken


def _serve(pipe: Connection, home: Path, path: Path, parent: int) -> None:
    confine(parent, network=True)
    with suppress(KeyboardInterrupt), stops_as_ctrl_c():
        pipe.send(_read(MemberHome(home), path))
        pipe.close()


def _read(home: MemberHome, path: Path) -> SnapshotTaken:
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.taking_snapshot import write_snapshot

    try:
        write_snapshot(home, path=path, data=load_member_settings(home).data)
        return SnapshotTaken(path=path)
    except RingfenceError as error:
        return _not_taken(error)
    except Exception as error:  # noqa: BLE001 - its text may hold private data, so only its kind is kept
        return SnapshotTaken(reason=f"A defect of Ringfence while reading: {type(error).__name__}.")


def _not_taken(error: RingfenceError) -> SnapshotTaken:
    return SnapshotTaken(reason=error.message, hint=error.hint, by_settings=isinstance(error, ConfigError))
