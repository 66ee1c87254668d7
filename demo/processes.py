"""Processes of the demonstration: started here, watched here, and ended here whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ringfence.model.errors import DeadlineError, RingfenceError

COORDINATOR = (sys.executable, "-m", "ringfence.server.command_line")
MEMBER = (sys.executable, "-m", "ringfence.client.command_line")
_STOP_S = 15.0


@dataclass(slots=True)
class Background:
    """A process that runs until the demonstration ends.

    Attributes:
        name: for messages.
        process: the process, in a session of its own.
        log_file: where its output goes.
    """

    name: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            RingfenceError: it has; the message ends with its last words.
        """
        if self.process.poll() is not None:
            raise RingfenceError(
                f"{self.name} ended: {_last_line(self.log_file)}", hint=f"Its output is in {self.log_file}."
            )


@dataclass(slots=True)
class Processes:
    """Everything that the demonstration started, used as a context manager.

    Attributes:
        logs: folder for output.
    """

    logs: Path
    running: list[Background] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process, last started first, by force what does not end by itself."""
        for background in reversed(self.running):
            if background.process.poll() is None:
                background.process.terminate()
        for background in reversed(self.running):
            try:
                background.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                background.process.kill()
                background.process.wait()
            # What is left of its session: a worker that was busy, say.
            try:
                os.killpg(background.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        self.running.clear()

    def start(self, name: str, command: Sequence[str]) -> Background:
        """Start a process that runs until the demonstration ends."""
        log_file = self.logs / f"{name}.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
            )
        background = Background(name=name, process=process, log_file=log_file)
        self.running.append(background)
        return background

    def check(self) -> None:
        """Raise if a process that should run has ended.

        Raises:
            RingfenceError: one has.
        """
        for background in self.running:
            background.check()


def call(command: Sequence[str], *, timeout_s: float = 60.0) -> str:
    """Run a command to its end and return its output.

    Raises:
        RingfenceError: it failed; the message is its own.
        DeadlineError: it did not end in time.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(f"{_short(command)} did not end within {timeout_s:.0f} s.") from error
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise RingfenceError(
            f"{_short(command)} failed: {words[0].removeprefix('error: ') if words else done.returncode}",
            hint=words[1].removeprefix("  fix: ") if len(words) > 1 else "",
        )
    return done.stdout


def environment() -> dict[str, str]:
    """Return the environment of every process: one thread each, since the whole federation shares this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RINGFENCE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def _short(command: Sequence[str]) -> str:
    words = [word for word in command if word not in (*COORDINATOR, *MEMBER)]
    program = "ringfence-coordinator" if command[2] == COORDINATOR[2] else "ringfence"
    return " ".join([program, *words[:2]])


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it left no output"
    return lines[-1] if lines else "it left no output"
