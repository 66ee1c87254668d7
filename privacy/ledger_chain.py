"""The ledger as a pure value: a chain of entries, each of which holds the hash of the one before, and the state they add up to.

Nothing here touches a disk. Opening a ledger and writing to it run the same transition, so the running totals that a
charge trusts are exactly those that a full verification recomputes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ringfence.privacy.ledger_amendment import check_amendment
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import LedgerTerms

KINDS = ("open", "charge", "evaluate", "personalise", "close", "amend")
CHARGED_KINDS = ("charge", "evaluate", "personalise")
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry.

    Attributes:
        seq: 1-based place in the chain.
        kind: one of `KINDS`.
        key: unique name, for a charge the attempt that it answers.
        body: canonical JSON.
        previous: hash of the entry before, `GENESIS` for the first.
        hash: SHA-256 over all of the above, in hexadecimal.
    """

    seq: int
    kind: str
    key: str
    body: str
    previous: str
    hash: str

    @property
    def values(self) -> dict[str, object]:
        """The body, parsed.

        Raises:
            BudgetError: the body is no JSON object.
        """
        try:
            values = json.loads(self.body)
        except ValueError as error:
            raise refused(LedgerRefusal.DAMAGED) from error
        if not isinstance(values, dict):
            raise refused(LedgerRefusal.DAMAGED)
        return values


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The newest entry's name: what travels with an update and comes back.

    Attributes:
        ledger: hash of the first entry, which names this ledger.
        seq: place of the newest entry.
        hash: its hash.
    """

    ledger: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a chain adds up to.

    Attributes:
        terms: as opened and amended.
        head: of the newest entry.
        headline_units: running total of the headline, in units of divergence.
        fallback_units: running total of the fallback.
        newest_time: of the newest entry, in seconds since the epoch.
        closed: True once a close entry stands.
        vouched_at: place of the newest amendment that changed nothing: by it the data-protection officer vouched for the
            head; 0 if there is none.
    """

    terms: LedgerTerms
    head: LedgerHead
    headline_units: int
    fallback_units: int
    newest_time: int
    closed: bool
    vouched_at: int = 0

    @property
    def amendable(self) -> bool:
        """Whether the terms name a key that may sign amendments."""
        return bool(self.terms.data_protection_key)


def next_entry(head: LedgerHead | None, *, kind: str, key: str, body: Mapping[str, object]) -> LedgerEntry:
    """Return the entry that follows ``head`` (None: the first)."""
    seq, previous = (1, GENESIS) if head is None else (head.seq + 1, head.hash)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return LedgerEntry(seq, kind, key, text, previous, _hash(seq, kind, key, text, previous))


def follow(state: LedgerState | None, entry: LedgerEntry) -> LedgerState:
    """Return the state after an entry.

    Raises:
        BudgetError: the entry does not follow: its place, its hashes, its kind or its totals are wrong.
    """
    expected_seq, expected_previous = (1, GENESIS) if state is None else (state.head.seq + 1, state.head.hash)
    sound = (
        entry.seq == expected_seq
        and entry.previous == expected_previous
        and entry.kind in KINDS
        and entry.hash == _hash(entry.seq, entry.kind, entry.key, entry.body, entry.previous)
        and (entry.kind == "open") == (state is None)
    )
    if not sound:
        raise refused(LedgerRefusal.DAMAGED)
    values = entry.values
    time = whole_number(values, "time")
    if state is None:
        head = LedgerHead(entry.hash, entry.seq, entry.hash)
        return LedgerState(_terms(values), head, 0, 0, time, closed=False)
    if state.closed:
        raise refused(LedgerRefusal.DAMAGED)
    if entry.kind == "amend":
        amended = _terms(values)
        check_amendment(state, amended, signature=str(values.get("signature")))
        vouched_at = entry.seq if amended == state.terms else state.vouched_at
        state = replace(state, terms=amended, vouched_at=vouched_at)
    state = replace(
        state,
        head=LedgerHead(state.head.ledger, entry.seq, entry.hash),
        newest_time=time,
        closed=entry.kind == "close",
    )
    if entry.kind not in CHARGED_KINDS:
        return state
    headline = state.headline_units + whole_number(values, "headline_units")
    fallback = state.fallback_units + whole_number(values, "fallback_units")
    if headline != whole_number(values, "headline_total") or fallback != whole_number(
        values, "fallback_total"
    ):
        raise refused(LedgerRefusal.DAMAGED)
    return replace(state, headline_units=headline, fallback_units=fallback)


def follow_all(entries: Iterable[LedgerEntry], *, known: Iterable[LedgerHead] = ()) -> LedgerState | None:
    """Return the state after a whole chain; None for an empty one.

    Args:
        entries: from the first on.
        known: heads that the chain once had: each must still stand in it.

    Raises:
        BudgetError: an entry does not follow, or a known head is not in the chain: the ledger is behind, or another one.
    """
    missing = {(head.ledger, head.seq, head.hash) for head in known}
    state: LedgerState | None = None
    for entry in entries:
        state = follow(state, entry)
        missing.discard((state.head.ledger, entry.seq, entry.hash))
    if missing:
        raise refused(LedgerRefusal.BEHIND)
    return state


def whole_number(values: Mapping[str, object], name: str) -> int:
    """Return a field that must be an integer of at least 0.

    Raises:
        BudgetError: it is not.
    """
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise refused(LedgerRefusal.DAMAGED)
    return value


def _terms(values: Mapping[str, object]) -> LedgerTerms:
    terms = values.get("terms")
    if not isinstance(terms, dict):
        raise refused(LedgerRefusal.DAMAGED)
    return LedgerTerms.from_body(terms)


def _hash(seq: int, kind: str, key: str, body: str, previous: str) -> str:
    content = json.dumps([seq, kind, key, body, previous], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
