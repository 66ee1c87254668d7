"""What the coordinator keeps of a run: its plan, the model after each round, what happened. Survives any crash.

All of it is in the coordinator's database; the models themselves are artifacts that it names. The model after a round is
durable before the next round starts, in one transaction with who contributed to it, so that a run continues from there
whatever died. A run has one worker at a time, by a claim that falls away with the process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from sqlalchemy import Connection, func, select

from ringfence.model.errors import ConfigError, RingfenceError
from ringfence.model.plan import Plan, parse_plan
from ringfence.server.artifacts import Artifact, ArtifactStore, record
from ringfence.server.claims import claim, is_claimed
from ringfence.server.coordinator_database import open_artifacts, open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.database import Database
from ringfence.server.tables import (
    run_checkpoints,
    run_contributors,
    run_documents,
    run_events,
    runs,
)

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
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
    """One run.

    Args:
        name: of the run.
        database: the coordinator's.
        artifacts: the coordinator's.
    """

    def __init__(self, name: str, *, database: Database, artifacts: ArtifactStore) -> None:
        self.name = name
        self._database = database
        self._artifacts = artifacts

    def signed_plan(self) -> SignedPlan:
        """Return the plan and its signature.

        Raises:
            ConfigError: it is damaged. The operator's to restore.
        """
        with self._database.reading() as connection:
            row = connection.execute(select(runs).where(runs.c.name == self.name)).one()
        return SignedPlan(plan=parse_plan(row.plan), signature=row.signature)

    def record(self) -> RunRecord:
        """Return where the run stands.

        Raises:
            ConfigError: the record is damaged. The operator's to restore.
        """
        wanted = select(runs.c.status, runs.c.flower_run_id, runs.c.reason).where(runs.c.name == self.name)
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
        try:
            return RunRecord.model_validate(dict(row or {"status": ""}))
        except ValidationError as error:
            raise ConfigError(
                f"The record of run {self.name} cannot be read.", hint="Restore it from a backup."
            ) from error

    def update(self, **changes: object) -> RunRecord:
        """Change the record and return it."""
        with self._database.transaction() as connection:
            return self._write(connection, changes)

    def update_while(self, status: str, /, *, event: RunEvent | None = None, **changes: object) -> bool:
        """Change the record if its status is still ``status``; return whether it was.

        Looking and changing are one transaction: what an operator decided meanwhile is not overwritten. So is the line of
        history: whoever reads an end state, and then the history, finds there how it came to be.

        Args:
            status: that the record must have.
            event: the line of history for the change, kept only with it.
            changes: of the record.
        """
        with self._database.transaction() as connection:
            still = self.record().status == status
            if still:
                self._write(connection, changes)
                if event is not None:
                    self.add_event(event)
        return still

    def _write(self, connection: Connection, changes: Mapping[str, object]) -> RunRecord:
        changed = RunRecord.model_validate({**self.record().model_dump(), **changes})
        connection.execute(runs.update().where(runs.c.name == self.name).values(**dict(changed)))
        return changed

    def history(self) -> list[NDArray[np.float64]]:
        """Return the models after round 0 (the start), 1, 2, ...: (d,) float64 each.

        Raises:
            ConfigError: a checkpoint is damaged or missing. The operator's to restore.
        """
        wanted = (
            select(run_checkpoints.c.round, run_checkpoints.c.artifact)
            .where(run_checkpoints.c.run == self.name)
            .order_by(run_checkpoints.c.round)
        )
        with self._database.reading() as connection:
            found = connection.execute(wanted).all()
        if not found or [row.round for row in found] != list(range(len(found))):
            raise ConfigError(
                f"A checkpoint of run {self.name} is missing.", hint="Restore it from a backup."
            )
        models = [self._read(row.round, self._artifacts.read(row.artifact)) for row in found]
        for round_, model in enumerate(models):
            if model.ndim != 1 or model.shape != models[0].shape or not np.isfinite(model).all():
                raise self._damaged(round_)
        return models

    def rounds_done(self) -> int:
        """Return how many rounds have their model kept."""
        wanted = select(func.max(run_checkpoints.c.round)).where(run_checkpoints.c.run == self.name)
        with self._database.reading() as connection:
            return connection.scalar(wanted) or 0

    def save_round(
        self,
        round_: int,
        parameters: NDArray[np.float64],
        *,
        contributors: Mapping[str, int] | None = None,
        event: RunEvent | None = None,
    ) -> None:
        """Keep the model after a round, with who contributed to it and the event that says so: all or nothing.

        Args:
            round_: the round, 1 for the first; 0 is the start.
            parameters: the model, (d,) float64.
            contributors: members whose answers went into it, with their public size classes.
            event: the line of history for it.

        Raises:
            RingfenceError: another process kept another model of this round.
        """
        artifact = self._artifacts.keep(_as_tensors(parameters), kind="checkpoint")
        with self._database.transaction() as connection:
            _insert_checkpoint(connection, self.name, round_, artifact)
            if contributors:
                self.add_contributors(contributors)
            if event is not None:
                self.add_event(event)

    def add_contributors(self, size_classes: Mapping[str, int]) -> None:
        """Record members whose answers went into a model, with their public size classes."""
        with self._database.transaction() as connection:
            known = self.contributors()
            for member, size_class in size_classes.items():
                if member not in known:
                    connection.execute(
                        run_contributors.insert().values(run=self.name, member=member, size_class=size_class)
                    )

    def contributors(self) -> dict[str, int]:
        """Return every member whose answers went into a model of this run, with its public size class."""
        wanted = select(run_contributors.c.member, run_contributors.c.size_class).where(
            run_contributors.c.run == self.name
        )
        with self._database.reading() as connection:
            return {row.member: row.size_class for row in connection.execute(wanted)}

    def add_event(self, event: RunEvent) -> None:
        """Append one line to the run's history."""
        last = select(func.max(run_events.c.number)).where(run_events.c.run == self.name)
        with self._database.transaction() as connection:
            number = (connection.scalar(last) or 0) + 1
            connection.execute(
                run_events.insert().values(
                    run=self.name, number=number, content=event.model_dump_json(exclude_defaults=True)
                )
            )

    def events(self, *, after: int = 0) -> list[RunEvent]:
        """Return the history after its first ``after`` events."""
        wanted = (
            select(run_events.c.content)
            .where(run_events.c.run == self.name, run_events.c.number > after)
            .order_by(run_events.c.number)
        )
        with self._database.reading() as connection:
            lines = connection.scalars(wanted).all()
        return [RunEvent.model_validate_json(line) for line in lines]

    def write_document(self, name: str, content: bytes) -> None:
        """Keep a document of the run, such as its evaluation, in place of the one of that name."""
        with self._database.transaction() as connection:
            connection.execute(
                run_documents.delete().where(run_documents.c.run == self.name, run_documents.c.name == name)
            )
            connection.execute(run_documents.insert().values(run=self.name, name=name, content=content))

    def read_document(self, name: str) -> bytes | None:
        """Return a document of the run, or None if it has none of that name."""
        wanted = select(run_documents.c.content).where(
            run_documents.c.run == self.name, run_documents.c.name == name
        )
        with self._database.reading() as connection:
            found: bytes | None = connection.scalar(wanted)
        return found

    @contextmanager
    def work(self) -> Iterator[None]:
        """Be the run's one worker while the block lasts.

        Raises:
            RingfenceError: another process is.
        """
        with claim(self._database, self._claim_name, taken=f"Another process works on run {self.name}."):
            yield

    def has_worker(self) -> bool:
        """Return whether a process works on the run now."""
        return is_claimed(self._database, self._claim_name)

    @property
    def _claim_name(self) -> str:
        return f"run-{self.name}"

    def _read(self, round_: int, content: bytes) -> NDArray[np.float64]:
        try:
            return load_tensors(content)["parameters"].astype(np.float64)
        except (SafetensorError, KeyError) as error:
            raise self._damaged(round_) from error

    def _damaged(self, round_: int) -> ConfigError:
        return ConfigError(
            f"The checkpoint of round {round_} of run {self.name} is damaged.",
            hint="Restore it from a backup.",
        )


class RunStore:
    """All runs of a coordinator.

    Args:
        database: the coordinator's.
        artifacts: the coordinator's.
    """

    def __init__(self, database: Database, *, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts

    @classmethod
    def of(cls, home: CoordinatorHome, *, settings: CoordinatorSettings | None = None) -> Self:
        """Return the runs of the coordinator of a folder; its settings are read from there if they are not given.

        Raises:
            ConfigError: the settings are wrong, or the database is of another version or federation. The operator's.
            StorageError: the database cannot be used. The operator's to mend.
        """
        return cls(open_database(home, settings=settings), artifacts=open_artifacts(home, settings=settings))

    def create(self, name: str, *, signed: SignedPlan, initial: NDArray[np.float64]) -> Run:
        """Make a run from a signed plan and the model that it starts from, (d,) float64.

        Raises:
            ConfigError: the name is taken or not a name. The operator's to mend.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is not a name for a run.", hint="Use lower-case letters, digits, dots and dashes."
            )
        artifact = self._artifacts.keep(_as_tensors(initial), kind="checkpoint")
        with self._database.transaction() as connection:
            if self._exists(name):
                raise ConfigError(f"There is a run {name} already.", hint="Choose another name with --name.")
            position = (connection.scalar(select(func.max(runs.c.position))) or 0) + 1
            connection.execute(
                runs.insert().values(
                    name=name,
                    position=position,
                    plan=signed.plan.canonical_json(),
                    signature=signed.signature,
                    created_at=datetime.now(UTC),
                    **dict(RunRecord()),
                )
            )
            _insert_checkpoint(connection, name, 0, artifact)
        return self._run(name)

    def open(self, name: str) -> Run:
        """Return a run.

        Raises:
            ConfigError: there is none of that name. The operator's to mend.
        """
        if not _NAME.fullmatch(name) or not self._exists(name):
            raise ConfigError(f"There is no run {name}.", hint="List runs: ringfence-coordinator run list")
        return self._run(name)

    def all(self) -> list[Run]:
        """Return every run, oldest first."""
        with self._database.reading() as connection:
            names = connection.scalars(select(runs.c.name).order_by(runs.c.position)).all()
        return [self._run(name) for name in names]

    def _exists(self, name: str) -> bool:
        with self._database.reading() as connection:
            return connection.scalar(select(runs.c.name).where(runs.c.name == name)) is not None

    def _run(self, name: str) -> Run:
        return Run(name, database=self._database, artifacts=self._artifacts)


def _as_tensors(parameters: NDArray[np.float64]) -> bytes:
    return save_tensors({"parameters": np.ascontiguousarray(parameters, dtype=np.float64)})


def _insert_checkpoint(connection: Connection, run: str, round_: int, artifact: Artifact) -> None:
    wanted = select(run_checkpoints.c.artifact).where(
        run_checkpoints.c.run == run, run_checkpoints.c.round == round_
    )
    kept = connection.scalar(wanted)
    if kept == artifact.digest:
        return
    if kept is not None:
        # Whoever had the run before and lost its claim unawares must not change what others went on from.
        raise RingfenceError(
            f"Another process kept another model of round {round_} of run {run}.",
            hint=f"See: ringfence-coordinator run watch {run}",
        )
    record(artifact, on=connection, now=datetime.now(UTC))
    connection.execute(run_checkpoints.insert().values(run=run, round=round_, artifact=artifact.digest))


def event_now(event: str, **values: object) -> RunEvent:
    """Return an event that happens now."""
    return RunEvent.model_validate({"at": datetime.now(UTC), "event": event, **values})


def events_as_json(events: list[RunEvent]) -> list[dict[str, object]]:
    """Return events as plain JSON values."""
    values: list[dict[str, object]] = json.loads(
        "[" + ",".join(event.model_dump_json() for event in events) + "]"
    )
    return values
