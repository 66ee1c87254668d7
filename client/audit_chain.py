"""The audit log as a pure value: one line for each thing that left, each holding the hash of the line before.

Nothing here touches a disk. The writer and the verifier read lines with the same function, so that what one of them writes
is exactly what the other accepts. A line has no room for content: digests, sizes, names of runs and counters, nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.errors import RingfenceError
from ringfence.model.plan import Name, Sha256

GENESIS = "0" * 64
"""What the first entry names as the hash before it."""

AnswerKind = Literal["train-update", "evaluate-update", "refusal"]
Kind = AnswerKind | Literal["join-request", "renewal", "leave", "approval"]
CHARGED_KINDS = ("train-update", "evaluate-update")
"""What only leaves if the ledger has charged it."""

_KINDS_WITHOUT_PAYLOAD = (*CHARGED_KINDS, "refusal")
"""Kinds of the lines of before `payload` was a field."""

Nothing = Literal[""]


class AuditBrokenError(RingfenceError):
    """The audit log is not the one that was written.

    Attributes:
        entry: place of the first entry that is wrong or missing, 1-based.
    """

    code = "audit_broken"

    def __init__(self, message: str, *, entry: int, hint: str = "") -> None:
        super().__init__(
            message,
            hint=hint
            or "Keep the files as they are, and find out who or what changed them; never start a new log over this one.",
        )
        self.entry = entry


class AuditEntry(BaseModel):
    """One thing that left, or was about to leave when the process died.

    Attributes:
        seq: 1-based place in the log.
        time: when it was cleared, UTC, ISO 8601 to the second.
        destination: host and port that it was sent to.
        kind: form of the answer, or what else of the member's own left.
        purpose: what the plan uses the data for, or what it left for; empty where no plan could be read.
        digest: SHA-256 of the numbers that left, or of a refusal's code, or of what `ringfence.client.departures` says.
        size_bytes: of what `digest` is over.
        plan_digest: SHA-256 of the plan; empty where none could be read.
        run: the coordinator's name for the run; empty where none could be read.
        round: 1-based; 0 where it belongs to no round.
        attempt: 1-based; 0 where it belongs to no round.
        ledger_head: hash of the ledger's newest entry, which includes the charge; empty for what no ledger charges.
        payload: SHA-256 of what the ledger charged and stored, as the charge's entry has it; empty likewise. A line of before
            there was this field lacks it, and stays as it was written and hashed.
        previous: hash of the entry before, `GENESIS` for the first.
        hash: SHA-256 over all of the above, in hexadecimal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seq: Annotated[int, Field(ge=1)]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    destination: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]_-]{1,300}$")]
    kind: Kind
    purpose: Name | Nothing
    digest: Sha256
    size_bytes: Annotated[int, Field(ge=0)]
    plan_digest: Sha256 | Nothing
    run: Name | Nothing
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    attempt: Annotated[int, Field(ge=0, le=1_000_000)]
    ledger_head: Sha256 | Nothing
    payload: Sha256 | Nothing = ""
    previous: Sha256
    hash: Sha256

    @property
    def names_payload(self) -> bool:
        """Whether the line has the field `payload`."""
        return "payload" in self.model_fields_set

    def to_line(self) -> bytes:
        """Return the one line, newline included, that stands for this entry."""
        return _canonical(self.model_dump(exclude_unset=True)) + b"\n"


@dataclass(frozen=True, slots=True)
class Departure:
    """What an entry says of one thing that leaves; the names are those of `AuditEntry`."""

    destination: str
    kind: Kind
    purpose: str
    digest: str
    size_bytes: int
    plan_digest: str = ""
    run: str = ""
    round: int = 0
    attempt: int = 0
    ledger_head: str = ""
    payload: str = ""


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The name of the newest entry: place and hash; 0 and `GENESIS` for an empty log."""

    seq: int = 0
    hash: str = GENESIS


def next_entry(head: AuditHead, departure: Departure, *, now: datetime) -> AuditEntry:
    """Return the entry that follows ``head``.

    Raises:
        ValidationError: a field is not of its closed form. A defect of the caller; nothing may leave.
    """
    values: dict[str, object] = {name: getattr(departure, name) for name in Departure.__dataclass_fields__}
    values |= {
        "seq": head.seq + 1,
        "time": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "previous": head.hash,
    }
    return AuditEntry.model_validate({**values, "hash": _hash(values)})


def read_entry(line: bytes, *, after: AuditHead) -> AuditEntry:
    """Read the line that follows ``after``.

    Args:
        line: without its newline.
        after: the entry before.

    Raises:
        AuditBrokenError: the line is not an entry in the one canonical form, or does not follow.
    """
    place = after.seq + 1
    try:
        entry = AuditEntry.model_validate_json(line)
    except ValidationError as error:
        raise AuditBrokenError(f"Entry {place} of the audit log cannot be read.", entry=place) from error
    if not entry.names_payload and entry.kind not in _KINDS_WITHOUT_PAYLOAD:
        raise AuditBrokenError(f"Entry {place} of the audit log cannot be read.", entry=place)
    values = entry.model_dump(exclude_unset=True)
    stated = values.pop("hash")
    if entry.to_line() != line + b"\n" or _hash(values) != stated:
        raise AuditBrokenError(f"Entry {place} of the audit log was changed.", entry=place)
    if entry.seq != place or entry.previous != after.hash:
        raise AuditBrokenError(
            f"Entry {place} of the audit log does not follow the one before it: an entry was removed, added or moved.",
            entry=place,
        )
    return entry


def follow(lines: Iterable[bytes], *, after: AuditHead, known: AuditHead) -> AuditHead:
    """Return the newest entry's name, having read all lines.

    Args:
        lines: without newlines, from the one after ``after`` on.
        after: where reading starts.
        known: an entry that the log once had: it must still stand in it.

    Raises:
        AuditBrokenError: a line does not follow, or the known entry is not there: the end was cut off or rewritten.
    """
    if known.seq == after.seq and known.hash != after.hash:
        raise AuditBrokenError(f"Entry {known.seq} of the audit log was rewritten.", entry=known.seq)
    met = known.seq <= after.seq
    head = after
    for line in lines:
        entry = read_entry(line, after=head)
        head = AuditHead(entry.seq, entry.hash)
        if entry.seq == known.seq:
            if entry.hash != known.hash:
                raise AuditBrokenError(f"Entry {entry.seq} of the audit log was rewritten.", entry=entry.seq)
            met = True
    if not met:
        raise AuditBrokenError(
            f"The audit log ends before entry {known.seq}: entries from {head.seq + 1} on were cut off.",
            entry=head.seq + 1,
        )
    return head


def _hash(values: dict[str, object]) -> str:
    return hashlib.sha256(_canonical(values)).hexdigest()


def _canonical(values: dict[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
