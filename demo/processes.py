"""Processes of the demonstration: started here, watched here, and ended here whatever happens."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ringfence.demo.stop_signals import stops_wait
from ringfence.model.errors import DeadlineError, RingfenceError
from ringfence.server.parent_death import stop_with_parent

COORDINATOR = (sys.executable, "-m", "ringfence.server.command_line")
MEMBER = (sys.executable, "-m", "ringfence.client.command_line")
_STOP_S = 30.0
_PLAIN_WORD = re.compile(r"[a-z][a-z-]*")


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
                f"{self.name} ended: {_last_words(self.log_file)}", hint=f"Its output is in {self.log_file}."
            )


@dataclass(slots=True)
class Processes:
    """Everything that the demonstration started, used as a context manager.

    Should the demonstration be killed, the kernel tells each of them to stop (on Linux).

    Attributes:
        logs: folder for output.
        inherited: descriptors that each of them holds as well.
        running: what runs until the demonstration ends, in the order of starting.
    """

    logs: Path
    inherited: tuple[int, ...] = ()
    running: list[Background] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process, last started first, by force what does not end by itself. A second Ctrl-C waits for it."""
        with stops_wait():
            for background in reversed(self.running):
                if background.process.poll() is None:
                    background.process.terminate()
            deadline = time.monotonic() + _STOP_S
            for background in reversed(self.running):
                try:
                    background.process.wait(max(0.0, deadline - time.monotonic()))
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
        # One that nobody knows of would be ended by nobody.
        with stops_wait(), log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
                pass_fds=self.inherited,
                preexec_fn=_tied_to(os.getpid()),
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

    def call(self, command: Sequence[str], *, timeout_s: float = 60.0) -> str:
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
                pass_fds=self.inherited,
                preexec_fn=_tied_to(os.getpid()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            # Without its cause, which quotes the whole command: there may be an invitation in it.
            raise DeadlineError(f"{_short(command)} did not end within {timeout_s:.0f} s.") from None
        if done.returncode != 0:
            raise RingfenceError(
                f"{_short(command)} failed: {_after('error: ', done.stderr) or done.returncode}",
                hint=_after("  fix: ", done.stderr),
            )
        return done.stdout


def environment() -> dict[str, str]:
    """Return the environment of every process: one thread each, since the whole federation shares this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RINGFENCE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def _tied_to(parent: int) -> Callable[[], None]:
    """Return what ties a process that is about to start to the life of this one."""

    def tie() -> None:
        stop_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # it was gone before the tie held

    return tie


def _short(command: Sequence[str]) -> str:
    """Return the program and the name of its command, and nothing that was given to it: that may be a secret."""
    program = "ringfence-coordinator" if command[2] == COORDINATOR[2] else "ringfence"
    names = itertools.takewhile(_PLAIN_WORD.fullmatch, command[len(MEMBER) :])
    return " ".join([program, *itertools.islice(names, 2)])


def _after(beginning: str, text: str) -> str:
    """Return the rest of the last line with this beginning."""
    return next(
        (line.removeprefix(beginning) for line in reversed(text.splitlines()) if line.startswith(beginning)),
        "",
    )


def _last_words(path: Path) -> str:
    """Return the error that a process ended with, else its last line."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        text = ""
    return _after("error: ", text) or (text.splitlines() or ["it left no output"])[-1]
