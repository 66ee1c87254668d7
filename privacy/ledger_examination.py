"""What can be proven about a ledger from its files alone: its chain, its anchor, and the bytes that it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from ringfence.model.errors import BudgetError
from ringfence.privacy.ledger_chain import CHARGED_KINDS, LedgerState, follow
from ringfence.privacy.ledger_reader import LedgerReader
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: "chain", "anchor" or "outbox".
        detail: what was found, in one sentence.
        error: what is wrong, with its hint; None if nothing is.
    """

    name: str
    detail: str
    error: BudgetError | None = None


def examine(reader: LedgerReader) -> tuple[Finding, ...]:
    """Check a ledger and return every finding, good or bad, in a fixed order.

    The chain is followed entry by entry with the transition that a charge uses, so its totals are recomputed. A chain that
    is sound may still have lost its end: that is what the anchor tells.
    """
    seen: set[tuple[int, str]] = set()
    charged: dict[str, object] = {}
    state: LedgerState | None = None
    broken_at = 0
    for entry in reader.entries():
        try:
            state = follow(state, entry)
            payload = entry.values.get("payload") if entry.kind in CHARGED_KINDS else None
        except BudgetError:
            broken_at = entry.seq
            break
        seen.add((entry.seq, entry.hash))
        if payload is not None:
            charged[entry.key] = payload
    return (
        _chain(state, broken_at),
        _anchor(reader, state, seen, broken_at),
        _outbox(reader, charged, broken_at),
    )


def _chain(state: LedgerState | None, broken_at: int) -> Finding:
    if broken_at:
        return Finding(
            "chain", f"entry {broken_at} does not follow from those before it", refused(LedgerRefusal.DAMAGED)
        )
    if state is None:
        return Finding("chain", "there is no entry", refused(LedgerRefusal.MISSING))
    return Finding("chain", f"{state.head.seq} entries follow from one another, and so do their totals")


def _anchor(
    reader: LedgerReader, state: LedgerState | None, seen: set[tuple[int, str]], broken_at: int
) -> Finding:
    anchor = reader.anchor
    if anchor is None:
        if state is not None and state.head.seq == 1 and not broken_at:
            return Finding("anchor", "the second place is empty, as it may be before the first charge")
        return Finding("anchor", "the second place holds no head", refused(LedgerRefusal.NO_ANCHOR))
    if state is None or anchor.ledger != state.head.ledger or (anchor.seq, anchor.hash) not in seen:
        detail = f"the second place remembers entry {anchor.seq}, which is not in this chain"
        return Finding("anchor", detail, refused(LedgerRefusal.BEHIND))
    return Finding("anchor", f"the second place remembers entry {anchor.seq}, which stands in the chain")


def _outbox(reader: LedgerReader, charged: dict[str, object], broken_at: int) -> Finding:
    count = 0
    for key, digest in reader.payload_digests():
        # Behind a broken entry nothing is known of what was charged.
        if charged.get(key) != digest and not (broken_at and key not in charged):
            return Finding(
                "outbox", f"the bytes of {key} are not those charged", refused(LedgerRefusal.DAMAGED)
            )
        count += 1
    return Finding("outbox", f"{count} kept payloads are, byte for byte, what was charged")
