"""The member's ledger: nothing leaves that was not charged here first, in the same transaction.

One ledger belongs to one lineage of data, for life. It outlasts runs, federations and new snapshots. A charge checks the
budget, records the cost and stores the bytes that will be sent, all at once; sending reads only what was stored. So a
crash before the commit leaves nothing charged and nothing to send, and a crash after it leaves the same bytes to send
again, without new noise and without a new charge.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ringfence.privacy.ledger_amendment import check_amendment
from ringfence.privacy.ledger_anchor import AnchorFile
from ringfence.privacy.ledger_chain import (
    LedgerEntry,
    LedgerHead,
    LedgerState,
    follow,
    follow_all,
    next_entry,
)
from ringfence.privacy.ledger_charge import (
    Charge,
    ChargeKind,
    charged_entry,
    checked_clock,
    checked_payload_digest,
)
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_storage import LedgerStorage
from ringfence.privacy.ledger_terms import LedgerTerms


class Ledger:
    """An open ledger. Make one with `create`, once for a data set; afterwards `open` it. Close it, or use ``with``.

    Mechanism: a Renyi filter at one fixed order over two running totals (headline and fallback).
    Unit: one participant of the data set's lineage.
    Assumes: every release of the lineage goes through this ledger; nobody with this user's rights lies to it.
    Sensitivity: contained in each charge.
    Source: Feldman and Zrnic 2021, arXiv 2008.11193, theorem 4.5.
    """

    def __init__(self, storage: LedgerStorage, anchor: AnchorFile, state: LedgerState) -> None:
        self._storage = storage
        self._anchor = anchor
        self._state = state
        self._confirmed = False
        self._mutex = threading.Lock()

    @classmethod
    def create(cls, path: Path, *, anchor_path: Path, terms: LedgerTerms, now: float) -> Self:
        """Open a new ledger for a data set that never had one.

        Args:
            path: of the ledger, on a local disk, in a folder that only this user can write to.
            anchor_path: the second place, best on another disk or under another owner.
            terms: for life.
            now: seconds since the epoch.

        Raises:
            BudgetError: a ledger or an anchor is there already, or the place is not fit for one.
        """
        body = {"time": checked_clock(now), "terms": terms.as_body(), "nonce": os.urandom(16).hex()}
        entry = next_entry(None, kind="open", key="open", body=body)
        state = follow(None, entry)
        storage = LedgerStorage.create(path)
        try:
            anchor = AnchorFile.create(anchor_path)
        except BaseException:
            storage.close()
            raise
        try:
            with storage.transaction():
                storage.append(entry)
            anchor.write(state.head)
        except BaseException:
            anchor.close()
            storage.close()
            raise
        return cls(storage, anchor, state)

    @classmethod
    def open(cls, path: Path, *, anchor_path: Path, lineage: str, now: float) -> Self:
        """Open a ledger and verify all of it.

        Args:
            path: of the ledger.
            anchor_path: the second place.
            lineage: of the data.
            now: seconds since the epoch. It may lie behind the newest entry, whose time may be the wrong one.

        Raises:
            BudgetError: it is missing, in use, damaged, behind its anchor, of another lineage, reachable by others, or
                ``now`` is no time. The hint says what to do.
        """
        checked_clock(now)
        storage = LedgerStorage.open(path)
        try:
            anchor = AnchorFile.open(anchor_path)
        except BaseException:
            storage.close()
            raise
        try:
            known = anchor.read()
            state = follow_all(storage.entries(), known=[] if known is None else [known])
            if state is None:
                raise refused(LedgerRefusal.DAMAGED)
            if known is None and state.head.seq > 1:
                raise refused(LedgerRefusal.NO_ANCHOR)
            if state.terms.lineage != lineage:
                raise refused(LedgerRefusal.OTHER_LINEAGE)
            anchor.write(state.head)  # a crash may have come between the commit and the anchor
        except BaseException:
            anchor.close()
            storage.close()
            raise
        return cls(storage, anchor, state)

    @classmethod
    def open_without_anchor(
        cls, path: Path, *, anchor_path: Path, lineage: str, signature: str, now: float
    ) -> Self:
        """Open a ledger whose second place is lost, and make that anew, because the officer vouches for the ledger's head.

        Args:
            path: of the ledger.
            anchor_path: where the second place shall be; nothing is there.
            lineage: of the data.
            signature: the data-protection officer's, over the present terms at exactly this place; it is recorded.
            now: seconds since the epoch.

        Raises:
            BudgetError: as `open`; or the signature is not the officer's or not for this head, or there is a second place.
        """
        storage = LedgerStorage.open(path)
        try:
            state = follow_all(storage.entries())
            if state is None:
                raise refused(LedgerRefusal.DAMAGED)
            if state.terms.lineage != lineage:
                raise refused(LedgerRefusal.OTHER_LINEAGE)
            check_amendment(state, state.terms, signature=signature)
            anchor = AnchorFile.create(anchor_path)
        except BaseException:
            storage.close()
            raise
        ledger = cls(storage, anchor, state)
        try:
            ledger.amend(state.terms, signature=signature, now=now)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Let go of the ledger and its anchor. What is unsent stays in the outbox."""
        self._anchor.close()
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> LedgerState:
        """What the chain adds up to."""
        return self._state

    @property
    def head(self) -> LedgerHead:
        """The newest head: sign it with `ringfence.privacy.ledger_anchor.sign_head` and send it with each update."""
        return self._state.head

    @property
    def confirmed(self) -> bool:
        """Whether somebody who keeps heads has confirmed this ledger since it was opened."""
        return self._confirmed

    def holds(self, head: LedgerHead) -> bool:
        """Return whether a head stands in this chain."""
        entry = self._storage.at(head.seq)
        return head.ledger == self.head.ledger and entry is not None and entry.hash == head.hash

    def confirm(self, returned: LedgerHead | None) -> None:
        """Compare with the head that the coordinator (or another member) has kept.

        Args:
            returned: the newest head that it knows, or None if it says that it knows none.

        That it knows none is believed until it has returned one: the first answers may have been lost on their way, and
        refusing for ever would not bring them back. It is believed too while this process has the ledger open and confirmed,
        because a file that is held and locked cannot fall behind; a repeated question may be older than the answer. And it is
        believed again after the data-protection officer vouched for the head, until the next one is returned.

        Raises:
            BudgetError: the head is not in this chain (the ledger was restored or reset), or it is None although one was
                returned before.
        """
        since = self._state.vouched_at
        if returned is None:
            if not self._confirmed and self._storage.head_was_returned(since=since):
                raise refused(LedgerRefusal.NOT_CONFIRMED, amendable=self._state.amendable)
        else:
            if not self.holds(returned):
                raise refused(LedgerRefusal.BEHIND)
            if not self._storage.head_was_returned(since=since):
                with self._mutex, self._storage.transaction():
                    self._storage.note_returned_head(since=since)
        self._confirmed = True

    def charge(self, charge: Charge, payload: bytes, *, now: float, kind: ChargeKind = "charge") -> bytes:
        """Charge for a release and return the bytes that may leave.

        Check, charge and outbox are one transaction. The same key again returns the bytes of the first time, whatever
        payload comes with it: no new noise leaves, and nothing is charged.

        Args:
            charge: what it costs and what it answers.
            payload: the bytes to send, already noised.
            now: seconds since the epoch; it is recorded, and never gives budget back.
            kind: "evaluate" for a histogram of an evaluation; "personalise" for what stays at the member: its bytes are not
                stored, only their digest, and the coordinator need not have confirmed the ledger, because charging more is
                safe and nothing leaves.

        Returns:
            The stored payload: send exactly this.

        Raises:
            BudgetError: the budget is used up, a limit is exceeded, or anything about the ledger is in doubt. Nothing may
                leave; nothing was charged, unless only the second place could not be written.
        """
        digest = checked_payload_digest(charge.key, payload)
        with self._mutex:
            with self._storage.transaction():
                known = self._storage.find(charge.key)
                if known is None:
                    current = self._current_state()
                    must_be_confirmed = current.terms.limits.returned_head_required and kind != "personalise"
                    if must_be_confirmed and not self._confirmed:
                        raise refused(LedgerRefusal.NOT_CONFIRMED, amendable=current.amendable)
                    entry = charged_entry(
                        current,
                        charge,
                        payload_digest=digest,
                        kind=kind,
                        now=now,
                        confirmed=self._confirmed,
                    )
                    state = follow(current, entry)
                    self._storage.append(entry, payload=None if kind == "personalise" else payload)
                else:
                    state, payload = self._state, self._same_again(known, charge, kind)
            self._state = state
            self._anchor.write(state.head)
            return payload

    def released(self, key: str) -> bytes | None:
        """Return the stored bytes of an attempt that was answered before; None if it never was.

        Raises:
            BudgetError: the answer was withdrawn, or what is stored is not what was charged.
        """
        with self._mutex:
            known = self._storage.find(key)
            if known is None:
                return None
            # A charge whose second place could not be written left nothing; neither does this, until it can be.
            self._anchor.write(self._state.head)
            return self._stored_payload(known)

    def unsent(self) -> tuple[str, ...]:
        """Return the keys of releases that were charged and not yet marked as sent."""
        return self._storage.unsent()

    def mark_sent(self, key: str) -> None:
        """Note that a release has left; it may still be sent again."""
        with self._mutex, self._storage.transaction():
            self._storage.mark_sent(key)

    def withdraw(self, key: str) -> None:
        """Remove a stored payload for good, for erasure or to save space. Its charge stays, and it is never made again."""
        with self._mutex, self._storage.transaction():
            self._storage.remove_payload(key)

    def amend(self, terms: LedgerTerms, *, signature: str, now: float) -> None:
        """Change the lifetime epsilons or the limits, with the data-protection officer's signature.

        The present terms once more, so signed, change nothing and vouch for the head: see `confirm`.

        Raises:
            BudgetError: the signature is not the officer's, or not for these terms at this place of this ledger.
        """
        self._append("amend", {"terms": terms.as_body(), "signature": signature}, now=now)

    def close_for_good(self, *, now: float) -> None:
        """End the ledger: no charge is possible afterwards; what was charged can still be read and sent again."""
        self._append("close", {}, now=now)

    def entries(self, *, after: int = 0) -> Iterator[LedgerEntry]:
        """Yield every entry behind a place in the chain, from the first on."""
        return self._storage.entries(after=after)

    def verify(self) -> LedgerState:
        """Verify the whole chain again and return what it adds up to.

        Raises:
            BudgetError: it is not sound.
        """
        with self._mutex:
            state = follow_all(self._storage.entries(), known=[self._state.head])
        if state != self._state:
            raise refused(LedgerRefusal.DAMAGED)
        return state

    def _same_again(self, known: LedgerEntry, charge: Charge, kind: str) -> bytes:
        if known.kind != kind or known.values.get("plan") != charge.plan_digest:
            raise refused(LedgerRefusal.KEY_REUSED)
        return self._stored_payload(known)

    def _stored_payload(self, known: LedgerEntry) -> bytes:
        payload = self._storage.payload(known.key)
        if payload is None:
            raise refused(LedgerRefusal.WITHDRAWN)
        if known.values.get("payload") != hashlib.sha256(payload).hexdigest():
            raise refused(LedgerRefusal.DAMAGED)
        return payload

    def _append(self, kind: str, body: dict[str, object], *, now: float) -> None:
        with self._mutex:
            with self._storage.transaction():
                state = self._current_state()
                if state.closed:
                    raise refused(LedgerRefusal.CLOSED)
                body = {"time": checked_clock(now), **body}
                entry = next_entry(state.head, kind=kind, key=f"{kind}/{state.head.seq + 1}", body=body)
                followed = follow(state, entry)
                self._storage.append(entry)
            self._state = followed
            self._anchor.write(followed.head)

    def _current_state(self) -> LedgerState:
        """Return the state, having made sure that the file still ends where this process left it."""
        if self._storage.newest() != (self._state.head.seq, self._state.head.hash):
            raise refused(LedgerRefusal.DAMAGED)
        return self._state
