"""The one folder of a demonstration: held by one demonstration at a time, and emptied of an earlier one's files."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringfence.client.member_home import MemberHome
from ringfence.model.errors import ConfigError
from ringfence.server.coordinator_home import CoordinatorHome

MARKER = ".ringfence-demo-folder"
_ORPHANS_END_S = 30.0
_POLL_S = 0.1


@dataclass(slots=True)
class DemoFolder:
    """The one folder that the demonstration writes to.

    Attributes:
        root: the folder.
        members: names of the companies.
    """

    root: Path
    members: tuple[str, ...]

    @property
    def coordinator(self) -> CoordinatorHome:
        """The coordinator's folder."""
        return CoordinatorHome(self.root / "coordinator")

    @property
    def logs(self) -> Path:
        """Folder of every process's output."""
        return self.root / "logs"

    @property
    def plan_file(self) -> Path:
        """The plan of the run."""
        return self.root / "plan.toml"

    def member(self, name: str) -> MemberHome:
        """A company's folder."""
        return MemberHome(self.root / "members" / name)

    def held_out_file(self, name: str) -> Path:
        """A company's held-out conversations."""
        return self.member(name).root / "held-out.jsonl"

    @contextmanager
    def claim(self, *, patience_s: float = _ORPHANS_END_S) -> Iterator[int]:
        """Hold the folder for one demonstration alone, emptied of an earlier one's files.

        Yields a descriptor: the folder stays held until every process that inherited it has ended as well.

        Args:
            patience_s: how long to wait for what a killed demonstration left running, in seconds.

        Raises:
            ConfigError: the folder holds something else, or another demonstration runs in it. The user's to decide.
        """
        try:
            descriptor = self._open()
        except OSError as error:
            raise _unusable(self.root, error) from error
        try:
            try:
                _lock(descriptor, folder=self.root, patience_s=patience_s)
                self._empty()
            except OSError as error:
                raise _unusable(self.root, error) from error
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        """Return a descriptor of the marker, which is there before anything else is, and stays."""
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"{self.root} is a file.", hint="Choose another --folder.")
        self.root.mkdir(parents=True, exist_ok=True)
        if not (self.root / MARKER).exists() and any(self.root.iterdir()):
            raise ConfigError(
                f"{self.root} holds something that the demonstration did not write.",
                hint="Choose another --folder.",
            )
        return os.open(self.root / MARKER, os.O_RDWR | os.O_CREAT, 0o600)

    def _empty(self) -> None:
        # All but the marker: an emptying that was interrupted goes on at the next one.
        for found in self.root.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            elif found.name != MARKER:
                found.unlink()
        self.logs.mkdir()


def _lock(descriptor: int, *, folder: Path, patience_s: float) -> None:
    """Lock the marker and write who holds it.

    Raises:
        ConfigError: another demonstration holds it, or what one left running does. The user's to decide.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if _is_alive(_holder(descriptor)) or time.monotonic() > deadline:
                raise ConfigError(
                    f"Another demonstration runs in {folder}.",
                    hint="Wait until it has ended, stop it with Ctrl-C, or choose another --folder.",
                ) from error
            # Whoever began it is gone: what it left running is about to end.
            time.sleep(_POLL_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _holder(descriptor: int) -> int | None:
    written = os.pread(descriptor, 20, 0)
    return int(written) if written.isdigit() else None


def _is_alive(process: int | None) -> bool:
    if process is None:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"Cannot write to {folder}: {error.strerror}", hint="Choose another --folder.")
