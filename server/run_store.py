"""What the coordinator keeps of a run: its plan, the model after each round, what happened. Survives any crash.

One folder a run. The model after a round is on disk before the next round starts, so that a run continues from there
whatever died. A run has one worker at a time, held by a lock that the system drops with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError, RingfenceError
from ringfence.model.plan import Plan, parse_plan

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_CHECKPOINT = re.compile(r"^round-(\d{6})\.safetensors$")
Status = Literal["created", "running", "completed", "failed", "stopped"]


class RunRecord(BaseModel):
    """Where a run stands.

    Attributes:
        status: "created" until Flower accepted it, then "running" until an end state.
        flower_run_id: Flower's id of the latest try.
        reason: why it failed, in one sentence, else "".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status = "created"
    flower_run_id: int | None = None
    reason: str = ""


class RunEvent(BaseModel):
    """One line of a run's history. Counts of members, never anything about one member's quality.

    Attributes:
        at: when, UTC.
        event: what, as a short word.
        round: the round it belongs to, 0 for the run as a whole.
        asked: members that were connected and asked.
        answered: members whose answers were used.
        missing: members of the roster that were left out, asked or not.
        refused: members that answered with a code instead of an update.
        seconds: how long it took.
        bytes_sent: content of all questions, without what the transport adds.
        bytes_received: content of all answers, likewise.
        detail: one sentence for a person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    event: str
    round: int = 0
    asked: int = 0
    answered: int = 0
    missing: int = 0
    refused: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SignedPlan:
    """A plan with the coordinator's signature over its canonical JSON.

    Attributes:
        plan: the plan.
        signature: Ed25519, 64 bytes.
    """

    plan: Plan
    signature: bytes


class Run:
    """One run's folder.

    Args:
        folder: ``runs/<name>`` in the coordinator's home.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def signed_plan(self) -> SignedPlan:
        """Return the plan and its signature.

        Raises:
            ConfigError: a file is missing or damaged. The operator's to restore.
        """
        try:
            return SignedPlan(
                plan=parse_plan((self.folder / "plan.json").read_bytes()),
                signature=(self.folder / "plan.sig").read_bytes(),
            )
        except OSError as error:
            raise ConfigError(
                f"The run {self.name} has no plan.", hint="List runs: ringfence-coordinator run list"
            ) from error

    def record(self) -> RunRecord:
        """Return where the run stands.

        Raises:
            ConfigError: the record is damaged. The operator's to restore.
        """
        try:
            return RunRecord.model_validate_json((self.folder / "record.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"The record of run {self.name} cannot be read.", hint="Restore it from a backup."
            ) from error

    def update(self, **changes: object) -> RunRecord:
        """Change the record and return it."""
        record = RunRecord.model_validate({**self.record().model_dump(), **changes})
        write_atomically(self.folder / "record.json", record.model_dump_json(indent=2).encode() + b"\n")
        return record

    def history(self) -> list[NDArray[np.float64]]:
        """Return the models after round 0 (the start), 1, 2, ...: (d,) float64 each.

        Raises:
            ConfigError: a checkpoint is damaged. The operator's to restore.
        """
        found: dict[int, Path] = {}
        for path in self.folder.iterdir():
            if match := _CHECKPOINT.match(path.name):
                found[int(match[1])] = path
        if sorted(found) != list(range(len(found))) or not found:
            raise ConfigError(
                f"A checkpoint of run {self.name} is missing.", hint="Restore it from a backup."
            )
        models = [self._read(found[round_]) for round_ in range(len(found))]
        for round_, model in enumerate(models):
            if model.ndim != 1 or model.shape != models[0].shape or not np.isfinite(model).all():
                raise self._damaged(found[round_])
        return models

    def rounds_done(self) -> int:
        """Return how many rounds have their model on disk."""
        numbers = [int(match[1]) for path in self.folder.iterdir() if (match := _CHECKPOINT.match(path.name))]
        return max(numbers, default=0)

    def save_round(self, round_: int, parameters: NDArray[np.float64]) -> None:
        """Put the model after a round on disk, whole or not at all."""
        write_atomically(
            self.folder / f"round-{round_:06d}.safetensors",
            save_tensors({"parameters": np.ascontiguousarray(parameters, dtype=np.float64)}),
        )

    def add_contributors(self, size_classes: Mapping[str, int]) -> None:
        """Record members whose answers went into a model, with their public size classes."""
        known = self.contributors()
        if not size_classes.keys() <= known.keys():
            content = json.dumps({**known, **size_classes}, sort_keys=True)
            write_atomically(self.folder / "contributors.json", content.encode())

    def contributors(self) -> dict[str, int]:
        """Return every member whose answers went into a model of this run, with its public size class."""
        try:
            values: dict[str, int] = json.loads((self.folder / "contributors.json").read_bytes())
        except FileNotFoundError:
            return {}
        return values

    def add_event(self, event: RunEvent) -> None:
        """Append one line to the run's history."""
        line = event.model_dump_json(exclude_defaults=True) + "\n"
        handle = os.open(self.folder / "events.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = "\n" + line  # the line before was cut short by a crash, and would swallow this one
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def events(self, *, after: int = 0) -> list[RunEvent]:
        """Return the history after its first ``after`` events. A line that a crash cut short is left out."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return []
        events = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                events.append(RunEvent.model_validate_json(line))
            except ValidationError:
                continue
        return events[after:]

    @contextmanager
    def work(self) -> Iterator[None]:
        """Be the run's one worker while the block lasts.

        Raises:
            RingfenceError: another process is.
        """
        handle = os.open(self.folder / "worker.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RingfenceError(f"Another process works on run {self.name}.") from error
            yield
        finally:
            os.close(handle)

    def has_worker(self) -> bool:
        """Return whether a process works on the run now."""
        try:
            with self.work():
                return False
        except RingfenceError:
            return True

    def _read(self, path: Path) -> NDArray[np.float64]:
        try:
            return load_tensors(path.read_bytes())["parameters"].astype(np.float64)
        except (OSError, SafetensorError, KeyError) as error:
            raise self._damaged(path) from error

    def _damaged(self, path: Path) -> ConfigError:
        return ConfigError(
            f"The checkpoint {path.name} of run {self.name} is damaged.", hint="Restore it from a backup."
        )


class RunStore:
    """All runs of a coordinator.

    Args:
        folder: ``runs`` in the coordinator's home.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, *, signed: SignedPlan, initial: NDArray[np.float64]) -> Run:
        """Make a run from a signed plan and the model that it starts from, (d,) float64.

        Raises:
            ConfigError: the name is taken or not a name. The operator's to mend.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is not a name for a run.", hint="Use lower-case letters, digits, dots and dashes."
            )
        run = Run(self._folder / name)
        try:
            run.folder.mkdir(mode=0o700, parents=True)
        except FileExistsError as error:
            raise ConfigError(
                f"There is a run {name} already.", hint="Choose another name with --name."
            ) from error
        write_atomically(run.folder / "plan.json", signed.plan.canonical_json())
        write_atomically(run.folder / "plan.sig", signed.signature)
        run.save_round(0, initial)
        # Last: a run without a record was never complete.
        write_atomically(run.folder / "record.json", RunRecord().model_dump_json().encode())
        return run

    def open(self, name: str) -> Run:
        """Return a run.

        Raises:
            ConfigError: there is none of that name. The operator's to mend.
        """
        run = Run(self._folder / name)
        if not _NAME.fullmatch(name) or not (run.folder / "record.json").is_file():
            raise ConfigError(f"There is no run {name}.", hint="List runs: ringfence-coordinator run list")
        return run

    def all(self) -> list[Run]:
        """Return every run, oldest first."""
        if not self._folder.is_dir():
            return []
        folders = [path for path in self._folder.iterdir() if (path / "record.json").is_file()]
        return [
            Run(path) for path in sorted(folders, key=lambda path: (path / "plan.sig").stat().st_mtime_ns)
        ]


def event_now(event: str, **values: object) -> RunEvent:
    """Return an event that happens now."""
    return RunEvent.model_validate({"at": datetime.now(UTC), "event": event, **values})


def events_as_json(events: list[RunEvent]) -> list[dict[str, object]]:
    """Return events as plain JSON values."""
    values: list[dict[str, object]] = json.loads(
        "[" + ",".join(event.model_dump_json() for event in events) + "]"
    )
    return values
