"""The worker: a child process that trains, without a network, while the agent that started it talks to the coordinator.

Only the worker loads torch and sees conversations. It is started once and stays warm; if it dies or hangs, the agent
answers with a code and starts another.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ringfence.client.confinement import confine
from ringfence.client.member_home import MemberHome
from ringfence.client.reading_process import Reading, SnapshotTaken, SnapshotWanted, end_process
from ringfence.client.refusals import refusal_code
from ringfence.client.rows_progress import RowsLog, RowsMade
from ringfence.model.errors import RingfenceError
from ringfence.model.round_messages import Refusal, RefusalCode, RoundRequest, RoundUpdate

if TYPE_CHECKING:
    from ringfence.client.local_training import LocalTrainer

log = logging.getLogger("ringfence.agent")
_TURN_S = 1.0
"""How often it is looked whether to go on waiting, whatever the child says meanwhile."""


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """What the worker returns for a request.

    Attributes:
        answer: what may leave, if the agent lets it.
        reason: one sentence for this member's own log, without private data; "" for an update.
        dataset_digest: of the manifest of what an update was made from; it stays at the member.
    """

    answer: RoundUpdate | Refusal
    reason: str = ""
    dataset_digest: str = ""


class _Patience:
    """How long one answer is waited for: over both tries, and whatever is said and read meanwhile.

    Args:
        timeout_s: for everything together.
        stop: once it is set, ``grace_s`` are left.
        grace_s: in which the answer may still be finished.
        alive: called about every second.
    """

    def __init__(
        self, *, timeout_s: float, stop: threading.Event, grace_s: float, alive: Callable[[], None]
    ) -> None:
        self._timeout_s = timeout_s
        self._stop = stop
        self._grace_s = grace_s
        self._alive = alive
        self._waited_from = time.monotonic()
        self._stopped_at: float | None = None
        self._beat_at = -math.inf
        self.turn_s = min(_TURN_S, timeout_s)

    def is_over(self) -> WorkerAnswer | None:
        """Return what to answer instead if it is over, else None."""
        now = time.monotonic()
        if now - self._beat_at >= _TURN_S:
            self._beat_at = now
            self._alive()
        if now - self._waited_from > self._timeout_s:
            return WorkerAnswer(
                Refusal(RefusalCode.FAILED), f"The worker did not answer within {self._timeout_s:.0f} s."
            )
        if self._stop.is_set():
            self._stopped_at = now if self._stopped_at is None else self._stopped_at
            if now - self._stopped_at >= self._grace_s:
                # Nothing was charged for it yet. The coordinator asks again, and the next agent answers.
                return WorkerAnswer(Refusal(RefusalCode.BUSY), "The agent stops; the answer is dropped.")
        return None


class Worker:
    """A warm child process that answers the questions of runs, used as a context manager.

    Args:
        home: the member's folder.
        stop: once it is set, an answer that is under way has ``grace_s`` left and is dropped then.
        alive: called every second while an answer is awaited.
        grace_s: in which a present answer may still be finished.
    """

    def __init__(
        self,
        home: MemberHome,
        *,
        stop: threading.Event | None = None,
        alive: Callable[[], None] = lambda: None,
        grace_s: float = 10.0,
    ) -> None:
        self._home = home
        self._stop = stop or threading.Event()
        self._alive = alive
        self._grace_s = grace_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        """Start nothing yet: the child starts with the first request."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self._end()

    @property
    def process_id(self) -> int | None:
        """Process id of the child, or None if there is none."""
        return self._process.pid if self._process is not None else None

    def answer(self, request: RoundRequest, *, timeout_s: float) -> WorkerAnswer:
        """Return the child's answer; a code if it dies twice over the request or takes longer than ``timeout_s`` in all."""
        patience = _Patience(timeout_s=timeout_s, stop=self._stop, grace_s=self._grace_s, alive=self._alive)
        # What a child that died computed never left, so that asking its successor costs no privacy.
        answer = self._answer(request, patience) or self._answer(request, patience)
        return answer or WorkerAnswer(
            Refusal(RefusalCode.FAILED), "The worker died twice; the next request starts another."
        )

    def _answer(self, request: RoundRequest, patience: _Patience) -> WorkerAnswer | None:
        """Return the child's answer, or None if it died."""
        if self._process is None or not self._process.is_alive():
            self._start()
        pipe = self._pipe
        if pipe is None:
            return WorkerAnswer(Refusal(RefusalCode.FAILED), "The worker did not start.")
        try:
            pipe.send(request)
            said = self._said(pipe, patience)
            while isinstance(said, SnapshotWanted):
                # The worker has no network: what lies behind one is read by a process that has nothing else.
                with Reading(self._home) as reading:
                    dropped = _wait_for_message(reading.pipe, patience)
                    if dropped is None:
                        pipe.send(reading.taken())
                said = dropped or self._said(pipe, patience)
                if dropped is not None:
                    self._end()
        except (EOFError, OSError):
            self._end()
            return None
        return said

    def _said(self, pipe: Connection, patience: _Patience) -> WorkerAnswer | SnapshotWanted:
        """Return what the child says next but for how far it is, or what to answer instead if that does not come."""
        rows = RowsLog(began_at=time.monotonic())
        dropped = _wait_for_message(pipe, patience)
        while dropped is None:
            said: WorkerAnswer | SnapshotWanted | RowsMade = pipe.recv()
            if not isinstance(said, RowsMade):
                return said
            line = rows.line(said, now=time.monotonic())
            if line is not None:
                log.info("%s", line)
            # A child that tells how far it is keeps nobody from stopping.
            dropped = patience.is_over() or _wait_for_message(pipe, patience)
        self._end()
        return dropped

    def _start(self) -> None:
        self._end()
        # Linear algebra would start threads as it is imported, and only a process of one thread may cut itself off from
        # the network without being root.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        # Spawned, not forked: no random state, key or open connection of the agent is copied into it.
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(child_end, self._home.root, os.getpid()),
            name="ringfence-worker",
            daemon=True,
        )
        self._process.start()
        child_end.close()

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            end_process(self._process)
            self._process = None


def _wait_for_message(pipe: Connection, patience: _Patience) -> WorkerAnswer | None:
    """Wait until there is something to receive; return what to answer instead if patience is over before."""
    while not pipe.poll(patience.turn_s):
        dropped = patience.is_over()
        if dropped is not None:
            return dropped
    return None


def _serve(pipe: Connection, home: Path, parent: int) -> None:
    confine(parent)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Only here, in the child: torch comes with it.
    from ringfence.client.local_training import LocalTrainer

    trainer = LocalTrainer(
        MemberHome(home),
        has_ledger=True,
        read_elsewhere=lambda: _ask_for_snapshot(pipe),
        progress=lambda done, of: pipe.send(RowsMade(done, of)),
    )
    with suppress(KeyboardInterrupt):  # a stop while conversations are read, after what was read is put away
        while True:
            try:
                request: RoundRequest = pipe.recv()
            except (EOFError, OSError):
                return
            pipe.send(_answer(trainer, request))


def _ask_for_snapshot(pipe: Connection) -> Path:
    """Have the agent's reader read what this process has no network for."""
    pipe.send(SnapshotWanted())
    taken: SnapshotTaken = pipe.recv()
    return taken.opened_path()


def _answer(trainer: LocalTrainer, request: RoundRequest) -> WorkerAnswer:
    try:
        made = trainer.answer(request)
        return WorkerAnswer(made.update, dataset_digest=made.dataset_digest)
    except RingfenceError as error:
        return WorkerAnswer(Refusal(refusal_code(error)), f"{error.message} {error.hint}".strip())
    except Exception as error:  # noqa: BLE001 - its text may hold private data, so only its kind is kept
        return WorkerAnswer(Refusal(RefusalCode.FAILED), f"A defect of Ringfence: {type(error).__name__}.")
