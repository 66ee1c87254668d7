"""Why the ledger says no: every reason, in one table, with what the operator should do next.

The ledger refuses instead of doubting: when anything about it cannot be proven, nothing leaves the member.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from ringfence.model.errors import BudgetError


class LedgerRefusal(StrEnum):
    """Reasons; the value is the error's stable code."""

    EXHAUSTED = "ledger_exhausted"
    NOISE_FLOOR = "ledger_noise_floor"
    OVER_LIMIT = "ledger_over_limit"
    SMALL_COHORT = "ledger_small_cohort"
    BAD_CHARGE = "ledger_bad_charge"
    KEY_REUSED = "ledger_key_reused"
    WITHDRAWN = "ledger_withdrawn"
    CLOSED = "ledger_closed"
    LOCKED = "ledger_locked"
    MISSING = "ledger_missing"
    EXISTS = "ledger_exists"
    OTHER_LINEAGE = "ledger_other_lineage"
    DAMAGED = "ledger_damaged"
    BEHIND = "ledger_behind"
    NO_ANCHOR = "ledger_no_anchor"
    NOT_CONFIRMED = "ledger_not_confirmed"
    PERMISSIONS = "ledger_permissions"
    NETWORK_FILES = "ledger_network_files"
    DISK = "ledger_disk"
    CLOCK = "ledger_clock"
    BAD_AMENDMENT = "ledger_bad_amendment"
    NO_OFFICER = "ledger_no_officer"
    FORKED = "ledger_forked"


_TABLE: dict[LedgerRefusal, tuple[str, str]] = {
    LedgerRefusal.EXHAUSTED: (
        "This release would exceed the data set's lifetime privacy budget.",
        "See `ringfence budget show`. The budget does not come back.",
    ),
    LedgerRefusal.NOISE_FLOOR: (
        "The noise is below the floor of the member's policy.",
        "Ask the coordinator for a plan with a larger noise multiplier.",
    ),
    LedgerRefusal.OVER_LIMIT: (
        "The contribution bound, the sample rate or the number of steps is above the member's policy.",
        "Ask the coordinator for a plan within your policy.",
    ),
    LedgerRefusal.SMALL_COHORT: (
        "Fewer members take part than the member's policy asks for.",
        "Wait for more members.",
    ),
    LedgerRefusal.BAD_CHARGE: (
        "A charge is not in the agreed form.",
        "This is a defect of the agent: nothing was charged and nothing left. Report it.",
    ),
    LedgerRefusal.KEY_REUSED: (
        "This attempt was already answered for something else.",
        "Ask the coordinator for a new attempt: one attempt is answered once, with one plan.",
    ),
    LedgerRefusal.WITHDRAWN: (
        "The answer to this attempt was withdrawn; its charge stays.",
        "Ask the coordinator for a new attempt.",
    ),
    LedgerRefusal.CLOSED: (
        "The ledger was closed for good.",
        "No further release is possible from this data set.",
    ),
    LedgerRefusal.LOCKED: (
        "Another process uses this ledger.",
        "Run one agent for a data set; stop the other one.",
    ),
    LedgerRefusal.MISSING: (
        "There is no ledger at this place.",
        "Check the path. If the file was lost, its data set has had its budget: make no new one for it.",
    ),
    LedgerRefusal.EXISTS: (
        "A ledger of this data set exists already, or existed.",
        "A data set has one ledger for life. Use the existing one; a copy of an old one is refused.",
    ),
    LedgerRefusal.OTHER_LINEAGE: (
        "This ledger belongs to another data set.",
        "Point the agent at the ledger of this data set's lineage.",
    ),
    LedgerRefusal.DAMAGED: (
        "The ledger's chain is broken: an entry was changed, removed or forged.",
        "Do not repair it: keep the file and stop taking part. `ringfence budget verify` names the entry.",
    ),
    LedgerRefusal.BEHIND: (
        "The ledger is behind what it once was: it was restored from a backup, or replaced.",
        "Bring back the newest file. Releases that it does not know of were made.",
    ),
    LedgerRefusal.NO_ANCHOR: (
        "The ledger's second place is missing or unreadable.",
        (
            "Check the path and its file, and mount its disk. Without it, a restored backup could not be told apart. If it is "
            "lost, move away what is left of it and have this ledger vouched for: `ringfence budget amend --same-terms`."
        ),
    ),
    LedgerRefusal.NOT_CONFIRMED: (
        "The coordinator has not returned the head of this ledger since the agent started.",
        "Connect to the coordinator first; it has to return the newest head that it was sent.",
    ),
    LedgerRefusal.PERMISSIONS: (
        "{place} can be read or changed by somebody else, or is not a plain file or folder of the agent's own.",
        "Give it to the agent's user alone: chmod 600 a file, chmod 700 a folder; no links.",
    ),
    LedgerRefusal.NETWORK_FILES: (
        "The ledger lies on a network file system, where its journal is not safe.",
        "Move it to a local disk.",
    ),
    LedgerRefusal.DISK: (
        "The ledger could not be written: the disk is full or failing. Nothing was charged and nothing left.",
        "Free space, or mend the disk, and start again.",
    ),
    LedgerRefusal.CLOCK: (
        "The clock is behind the ledger's newest entry.",
        (
            "Set the clock. If it was ahead when that entry was written, connect to the coordinator: once the head is "
            "confirmed, charging goes on at today's time. What was spent stays spent."
        ),
    ),
    LedgerRefusal.BAD_AMENDMENT: (
        "The amendment is not signed by the data-protection key for exactly this ledger and place.",
        "Stop the agent, ask anew with `ringfence budget amend`, and have the data-protection officer sign that request.",
    ),
    LedgerRefusal.NO_OFFICER: (
        "This ledger was opened without a data-protection key, so its terms stay for life.",
        "Name a key in policy.toml before the next data set's budget is opened: ringfence budget officer-key FILE.",
    ),
    LedgerRefusal.FORKED: (
        "A forked process tried to use its parent's ledger.",
        "Open the ledger in the process that uses it.",
    ),
}


_WITH_OFFICER: dict[LedgerRefusal, str] = {
    LedgerRefusal.EXHAUSTED: "More needs the data-protection officer's signature: `ringfence budget amend`.",
    LedgerRefusal.SMALL_COHORT: "A smaller cohort needs the data-protection officer's signature: `ringfence budget amend`.",
    LedgerRefusal.NOT_CONFIRMED: (
        "If it has lost the head, the data-protection officer may vouch for this one: "
        "`ringfence budget amend --same-terms`."
    ),
}
_WITHOUT_OFFICER: dict[LedgerRefusal, str] = {
    LedgerRefusal.EXHAUSTED: "This ledger names no data-protection key that could sign for more.",
    LedgerRefusal.NOT_CONFIRMED: (
        "If it has lost the head, it has to restore its backup: this ledger names no data-protection key that could "
        "vouch for it."
    ),
}


def refused(
    reason: LedgerRefusal, *, place: Path | None = None, amendable: bool | None = None
) -> BudgetError:
    """Return the error for a reason, with its code, message and hint, to be raised by the caller.

    Args:
        reason: why.
        place: the file or folder in question, where the message names one.
        amendable: whether the ledger names a data-protection key; None if that is not known, and the hint leaves it out.
    """
    message, hint = _TABLE[reason]
    message = message.format(place=place or "The ledger's file or folder")
    if amendable is not None:
        hint = f"{hint} {(_WITH_OFFICER if amendable else _WITHOUT_OFFICER).get(reason, '')}".rstrip()
    error = BudgetError(message, hint=hint)
    error.code = reason.value
    return error
