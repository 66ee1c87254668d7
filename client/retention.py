"""Retention: what training leaves behind goes when the policy's time for it is over, whether or not anybody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringfence.client.erasure import PayloadOwner, finish_withdrawals
from ringfence.client.ledger_reading import anchor_file, has_ledger, open_ledger_reader
from ringfence.client.member_home import MemberHome
from ringfence.client.row_cache import RowCache
from ringfence.client.snapshot_folder import remove_left_over
from ringfence.model.errors import BudgetError
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_refusals import LedgerRefusal

if TYPE_CHECKING:
    from ringfence.client.policy import Policy

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What went.

    Attributes:
        rows_removed: conversations whose feature rows were removed; a file that does not say what it holds counts as one.
        manifests_removed: lists of who takes part in what, under pseudonyms.
        payloads_removed: sent answers whose bytes were still kept. Their charges stay.
        answers_withdrawn: unsent answers that an earlier request to forget somebody left to be withdrawn.
        payloads_waiting: answers of both kinds that could not be removed, because the running agent holds the ledger.
    """

    rows_removed: int
    manifests_removed: int
    payloads_removed: int
    answers_withdrawn: int
    payloads_waiting: int


def apply_retention(
    home: MemberHome, *, policy: Policy, now: float, owner: PayloadOwner | None = None
) -> RetentionReport:
    """Remove what is older than the policy allows, and what readings that were killed left. The agent does this daily and when it starts.

    Args:
        home: the member's folder.
        policy: whose times hold.
        now: seconds since the epoch.
        owner: whoever has the ledger open, in the agent; None opens it, and leaves it alone if the agent holds it.

    Raises:
        BudgetError: the ledger is in doubt; caches were removed all the same.
        ConfigError: a file cannot be read or written.
    """
    remove_left_over(home)
    times = policy.retention
    cache = RowCache(home)
    with cache.lock():
        removed = cache.remove_older(than=now - times.cache_days * DAY_S)
    expired, waiting, lineage = _expired_payloads(home, before=now - times.outbox_days * DAY_S)
    payloads = withdrawn = 0
    if expired or waiting:
        if owner is not None:
            payloads, withdrawn = _remove(home, expired, owner)
        else:
            try:
                with Ledger.open(
                    home.ledger_file, anchor_path=anchor_file(home), lineage=lineage, now=now
                ) as ledger:
                    payloads, withdrawn = _remove(home, expired, ledger)
            except BudgetError as error:
                if error.code != LedgerRefusal.LOCKED:
                    raise
    return RetentionReport(
        rows_removed=removed.rows,
        manifests_removed=removed.manifests,
        payloads_removed=payloads,
        answers_withdrawn=withdrawn,
        payloads_waiting=len(expired) + waiting - payloads - withdrawn,
    )


def _expired_payloads(home: MemberHome, *, before: float) -> tuple[list[str], int, str]:
    """Return the keys of sent payloads charged before a time, how many withdrawals are pending, and the ledger's lineage."""
    from ringfence.client.exclusions import load_exclusions

    pending = len(load_exclusions(home).to_withdraw)
    if not has_ledger(home):
        return [], 0, ""
    with open_ledger_reader(home) as reader:
        sent = {item.key for item in reader.stored() if item.sent}
        expired = []
        for entry in reader.entries() if sent else ():
            time = entry.values.get("time")
            if entry.key in sent and isinstance(time, int) and time < before:
                expired.append(entry.key)
        lineage = reader.verified_state().terms.lineage if expired or pending else ""
    return expired, pending, lineage


def _remove(home: MemberHome, expired: list[str], owner: PayloadOwner) -> tuple[int, int]:
    for key in expired:
        owner.withdraw(key)
    return len(expired), finish_withdrawals(home, owner=owner)
