"""How far a training run has come, as both sides speak of it: counts over the cohort, nothing of one member."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

RunStatus = Literal["created", "running", "completed", "failed", "stopped"]
UNDER_WAY = frozenset({"created", "running"})


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Where one run stands.

    Attributes:
        name: of the run.
        status: "created" until Flower accepted it, then "running" until an end state.
        rounds_done: rounds whose model is kept.
        rounds: that the plan asks for.
        purpose: what the data is used for.
        plan_digest: SHA-256 of the plan's canonical JSON, hexadecimal.
        reason: why it failed, in one sentence; members are not told.
    """

    name: str
    status: RunStatus
    rounds_done: int
    rounds: int
    purpose: str
    plan_digest: str
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens in it unless it is resumed."""
        return self.status not in UNDER_WAY


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """One event of a run's history.

    Attributes:
        number: place in the history, from 1.
        at: when, UTC.
        event: what, as a short word.
        round: the round it belongs to, 0 for the run as a whole.
        asked: members that were asked.
        answered: members whose answers were used.
        missing: members that were left out.
        refused: members that answered with a code.
        seconds: how long it took.
        bytes_sent: content of all questions.
        bytes_received: content of all answers.
        detail: one sentence for the coordinator's people; members are not told.
    """

    number: int
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


def event_line(event: NumberedEvent, *, rounds: int) -> str:
    """Return one event as a line for a person."""
    at = event.at.strftime("%H:%M:%S")
    if event.event == "round":
        text = f"round {event.round} of {rounds}: {event.answered} members in {event.seconds:.1f} s"
        text += f", {event.missing} missing" if event.missing else ""
        text += f", {_size(event.bytes_sent)} out, {_size(event.bytes_received)} in" if event.asked else ""
        text += f", {event.refused} refused" if event.refused and not event.detail else ""
    else:
        text = event.event + (f" after round {event.round}" if event.round else "")
    return f"{at} {text}" + (f" ({event.detail})" if event.detail else "")


def _size(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1000:.0f} kB"
