"""Plans that wait for a person, and what was decided: on disk, by the plan's digest.

A decision is about one plan, bit for bit: a plan that differs in anything has another digest and waits anew.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.client.policy_check import Asked, Spending
from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.errors import ConfigError, PolicyError
from ringfence.model.plan import Plan, Sha256

MOST_PENDING = 50
"""Plans that may wait at once: a coordinator cannot fill the member's disk, or bury one plan among thousands."""

SHORTEST_DIGEST = 8
Decision = Literal["pending", "approved", "declined"]


class NotApprovedError(PolicyError):
    """The policy asks a person about each plan, and nobody has approved this one yet."""

    code = "not_approved"


class PlanRecord(BaseModel):
    """A plan that the coordinator sent, and what was decided about it.

    Attributes:
        schema_version: of this form.
        digest: of the plan, SHA-256 in hexadecimal.
        decision: "pending" until a person decides.
        asked_at: when the coordinator first asked, UTC.
        decided_at: when the person decided, UTC; None while it is pending.
        answers: charged for the plan before the person decided: the word is for one run's answers on top of them.
        evaluations: score histograms charged for it before.
        plan: as signed by the coordinator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    digest: Sha256
    decision: Decision = "pending"
    asked_at: AwareDatetime
    decided_at: AwareDatetime | None = None
    answers: int = Field(default=0, ge=0)
    evaluations: int = Field(default=0, ge=0)
    plan: Plan

    def covers_one_more(self, asked: Asked, spent: Spending) -> bool:
        """Return whether one more of what is asked for is within the one run that the person agreed to."""
        if asked == "evaluation":
            return spent.evaluations < self.evaluations + 1
        return spent.answers < self.answers + self.plan.training.rounds


class PlanApprovals:
    """The plans that a member was asked about.

    The agent asks, a person decides from the command line, both at any time: one file a plan, replaced as a whole.

    Args:
        home: the member's folder.
    """

    def __init__(self, home: MemberHome) -> None:
        self._folder = home.agent / "plans"

    def require(
        self, plan: Plan, *, now: datetime, asked: Asked = "answer", spent: Spending | None = None
    ) -> None:
        """Return if a person approved the plan and the approval covers what is asked; otherwise see that one is asked.

        Args:
            plan: as signed by the coordinator, and within the policy.
            now: the present, UTC.
            asked: an answer to a round, or the score histogram of an evaluation.
            spent: what the ledger holds for the plan; None for nothing.

        Raises:
            NotApprovedError: nobody has decided yet, or one run's worth was answered since. The plan waits from now on.
            PolicyError: a person declined it.
            ConfigError: a record cannot be read or written. The operator's to mend.
        """
        digest = plan.digest()
        with self._locked():
            record = self._read(digest)
            if record is None:
                self._add(PlanRecord(digest=digest, asked_at=now, plan=plan))
            used_up = (
                record is not None
                and record.decision == "approved"
                and spent is not None
                and not record.covers_one_more(asked, spent)
            )
            if used_up:
                self._add(PlanRecord(digest=digest, asked_at=now, plan=plan))
        if used_up:
            raise NotApprovedError(
                f"The approval was for one run's worth, {plan.training.rounds} answers, and they are given.",
                hint=_next("approve", digest),
            )
        if record is not None and record.decision == "approved":
            return
        if record is not None and record.decision == "declined":
            raise PolicyError("A person at this member declined the plan.", hint=_next("approve", digest))
        raise NotApprovedError("The plan waits for a person's approval.", hint=_next("approve", digest))

    def records(self) -> tuple[PlanRecord, ...]:
        """Return every plan that was asked about, the oldest first.

        Raises:
            ConfigError: a record cannot be read. The operator's to mend.
        """
        digests = [file.stem for file in self._folder.glob("*.json")] if self._folder.is_dir() else []
        found = [record for digest in digests if (record := self._read(digest)) is not None]
        return tuple(sorted(found, key=lambda record: (record.asked_at, record.digest)))

    def find(self, digest: str) -> PlanRecord:
        """Return the plan with a digest, or with a digest that begins so.

        Raises:
            ConfigError: there is none, or more than one, or too few characters were given.
        """
        found = [record for record in self.records() if record.digest.startswith(digest.lower())]
        if len(digest) < SHORTEST_DIGEST or len(found) != 1:
            raise ConfigError(
                f"No single plan that was asked about begins with {digest}.",
                hint=f"Give {SHORTEST_DIGEST} characters or more of one that is listed: ringfence policy pending",
            )
        return found[0]

    def decide(
        self,
        digest: str,
        *,
        decision: Literal["approved", "declined"],
        now: datetime,
        spent: Spending | None = None,
    ) -> PlanRecord:
        """Write down a person's decision; a later one replaces it.

        Args:
            digest: whole digest of a plan that was asked about.
            decision: what the person decided.
            now: the present, UTC.
            spent: what the ledger holds for the plan already; None for nothing.

        Raises:
            ConfigError: there is no such plan, or its record cannot be written.
        """
        with self._locked():
            record = self._read(digest)
            if record is None:
                raise ConfigError(
                    f"Nobody asked about the plan {digest}.", hint="See: ringfence policy pending"
                )
            before = (0, 0) if spent is None else (spent.answers, spent.evaluations)
            decided = record.model_copy(
                update={
                    "decision": decision,
                    "decided_at": now,
                    "answers": before[0],
                    "evaluations": before[1],
                }
            )
            self._write(decided)
        return decided

    def _add(self, record: PlanRecord) -> None:
        if sum(known.decision == "pending" for known in self.records()) >= MOST_PENDING:
            raise NotApprovedError(
                f"{MOST_PENDING} plans wait for a person already, so this one was not noted.",
                hint="Decide about them: ringfence policy pending",
            )
        self._write(record)

    def _locked(self) -> AbstractContextManager[None]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Cannot make {self._folder}: {error.strerror}", hint="Check the folder."
            ) from error
        return exclusive(self._folder / "lock")

    def _read(self, digest: str) -> PlanRecord | None:
        path = self._folder / f"{digest}.json"
        try:
            record = PlanRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{path} cannot be read.", hint=_REMOVE) from error
        # The decision counts for the plan that it was made about, not for whatever the file says now.
        if not digest == record.digest == record.plan.digest():
            raise ConfigError(f"{path} does not hold the plan of that name.", hint=_REMOVE)
        return record

    def _write(self, record: PlanRecord) -> None:
        path = self._folder / f"{record.digest}.json"
        try:
            write_atomically(path, record.model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Check the folder.") from error


_REMOVE = "Remove the file; the plan is asked about again."


def _next(command: str, digest: str) -> str:
    return f"Look at it and decide: ringfence policy {command} {digest[:12]}"
