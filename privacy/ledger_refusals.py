"""Why the ledger says no: every reason, in one table, with what the operator should do next.

The ledger refuses instead of doubting: when anything about it cannot be proven, nothing leaves the member.
"""

from __future__ import annotations

from enum import StrEnum

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
    FORKED = "ledger_forked"


_TABLE: dict[LedgerRefusal, tuple[str, str]] = {
    LedgerRefusal.EXHAUSTED: (
        "This release would exceed the data set's lifetime privacy budget.",
        "See `ringfence budget show`. The budget does not come back; the data-protection officer may sign an amendment.",
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
        "Wait for more members, or change the policy's minimum cohort with the data-protection officer.",
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
        "Check the path. If the file was lost, do not make a new one: ask the data-protection officer.",
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
        "Do not repair it. Keep the file, stop taking part, and ask the data-protection officer.",
    ),
    LedgerRefusal.BEHIND: (
        "The ledger is behind what it once was: it was restored from a backup, or replaced.",
        "Bring back the newest file. Releases that it does not know of were made.",
    ),
    LedgerRefusal.NO_ANCHOR: (
        "The ledger's second place is missing or unreadable.",
        "Check the path and its file. Without it, a restored backup could not be told apart.",
    ),
    LedgerRefusal.NOT_CONFIRMED: (
        "The coordinator has not returned the head of this ledger since the agent started.",
        "Connect to the coordinator first; if it has lost the head, ask the data-protection officer.",
    ),
    LedgerRefusal.PERMISSIONS: (
        "The ledger's file or folder can be read or changed by somebody else, or is not a plain file of its own.",
        "Give both to the agent's user alone: chmod 600 the file, chmod 700 its folder; no links.",
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
        "Set the clock; the budget does not depend on it, but the record would.",
    ),
    LedgerRefusal.BAD_AMENDMENT: (
        "The amendment is not signed by the data-protection key for exactly this ledger and place.",
        "Have the data-protection officer sign the amendment that `ringfence budget amend` prints.",
    ),
    LedgerRefusal.FORKED: (
        "A forked process tried to use its parent's ledger.",
        "Open the ledger in the process that uses it.",
    ),
}


def refused(reason: LedgerRefusal) -> BudgetError:
    """Return the error for a reason, with its code, message and hint, to be raised by the caller."""
    message, hint = _TABLE[reason]
    error = BudgetError(message, hint=hint)
    error.code = reason.value
    return error
