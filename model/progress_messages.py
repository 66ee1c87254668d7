"""Between the progress of runs and their protobuf messages: the one place where both meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC

from ringfence.model.errors import PeerError
from ringfence.model.run_progress import NumberedEvent, RunStatus, RunSummary
from ringfence.model.trust_chain import readable
from ringfence.model.wire import run_progress_pb2 as wire

_STATUSES: Mapping[RunStatus, wire.RunStatus.ValueType] = {
    "created": wire.RUN_STATUS_CREATED,
    "running": wire.RUN_STATUS_RUNNING,
    "completed": wire.RUN_STATUS_COMPLETED,
    "failed": wire.RUN_STATUS_FAILED,
    "stopped": wire.RUN_STATUS_STOPPED,
}


def for_members(value: NumberedEvent) -> NumberedEvent:
    """Return an event without its sentence: with three members, "1 refused: budget" would say whose budget."""
    return replace(value, detail="")


def summary_for_members(value: RunSummary) -> RunSummary:
    """Return a summary without the sentence why it failed, which counts refusals by reason."""
    return replace(value, reason="")


def summary_message(value: RunSummary) -> wire.RunSummary:
    """Return the message of a summary."""
    return wire.RunSummary(
        name=value.name,
        status=_STATUSES[value.status],
        rounds_done=value.rounds_done,
        rounds=value.rounds,
        purpose=value.purpose,
        plan_digest=value.plan_digest,
        reason=value.reason,
    )


def summary_value(message: wire.RunSummary) -> RunSummary:
    """Return the summary of a message, its text made safe to print.

    Raises:
        PeerError: the status is none that this version knows. The other side's fault.
    """
    found = [status for status, number in _STATUSES.items() if number == message.status]
    if not found:
        raise PeerError(
            "The coordinator names a status that is not known here.",
            hint="Check that both sides run versions that belong together.",
        )
    return RunSummary(
        name=readable(message.name),
        status=found[0],
        rounds_done=message.rounds_done,
        rounds=message.rounds,
        purpose=readable(message.purpose),
        plan_digest=readable(message.plan_digest),
        reason=readable(message.reason),
    )


def event_message(value: NumberedEvent) -> wire.RunEvent:
    """Return the message of an event."""
    message = wire.RunEvent(
        number=value.number,
        event=value.event,
        round=value.round,
        asked=value.asked,
        answered=value.answered,
        missing=value.missing,
        refused=value.refused,
        seconds=value.seconds,
        bytes_sent=value.bytes_sent,
        bytes_received=value.bytes_received,
        detail=value.detail,
    )
    message.at.FromDatetime(value.at)
    return message


def event_value(message: wire.RunEvent) -> NumberedEvent:
    """Return the event of a message, its text made safe to print.

    Raises:
        PeerError: its time is none. The other side's fault.
    """
    try:
        at = message.at.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise PeerError("The coordinator sent an event without a time.") from error
    return NumberedEvent(
        number=message.number,
        at=at,
        event=readable(message.event),
        round=message.round,
        asked=message.asked,
        answered=message.answered,
        missing=message.missing,
        refused=message.refused,
        seconds=message.seconds,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        detail=readable(message.detail),
    )
