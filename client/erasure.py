"""Forgetting a person: out of the caches, the manifests and what is not sent yet; never read again; charges stay.

The order makes it safe to be cut short and repeated. First the person is excluded, on disk, so that nothing new can hold
them; then what exists is removed. Each step does nothing the second time.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from ringfence.client.exclusions import load_exclusions, save_exclusions
from ringfence.client.ledger_reading import anchor_file, has_ledger, open_ledger_reader
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings
from ringfence.client.personal_head import forget_put_aside
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.row_cache import RowCache
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.errors import BudgetError, DataError, RingfenceError
from ringfence.model.jsonl_reader import SkippedLines
from ringfence.privacy.bounding import normalise_participant, participant_pseudonym
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_refusals import LedgerRefusal

_SECRET_BYTES = 32

WHAT_A_MODEL_FORGETS = """\
What a released model can and cannot forget:
- It holds no conversation and no name, so there is nothing to look up or to take out. It was trained so that it is almost
  the same whether or not the content of this person's conversations was used; how nearly is what epsilon says.
- What little it may have learned from them stays in it, and with everybody who pulled it. Only a new release changes
  that: no later training here uses any conversation in which this person takes part.
- The ledger's charges stay, since what was released was released. They hold nothing of the person.
- Not touched: your own source of conversations, backups, and copies outside this folder. Delete there as well."""


class PayloadOwner(Protocol):
    """Whoever has the ledger open for writing: the ledger itself, or the agent's own use of it."""

    def withdraw(self, key: str) -> None:
        """Remove a stored payload for good; its charge stays."""
        ...


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What was done. For the member's own eyes; it names nobody.

    Attributes:
        already_since: day of an earlier request for the same person, or None.
        source_conversations: conversations of the source that are passed over from now on, or None if it cannot be read.
        rows_removed: conversations whose feature rows were removed; a file that does not say what it holds counts as one.
        manifests_removed: lists of who takes part in what, under pseudonyms.
        answers_withdrawn: unsent answers that may hold the person, and will not be sent.
        answers_waiting: the same, which the running agent has yet to withdraw.
        epsilon_spent: epsilon by privacy loss distribution, of everything charged so far for a person at this member, or None.
        delta: of it.
    """

    already_since: str | None
    source_conversations: int | None
    rows_removed: int
    manifests_removed: int
    answers_withdrawn: int
    answers_waiting: int
    epsilon_spent: float | None
    delta: float | None


def forget_person(
    home: MemberHome, person: str, *, now: float, even_if_unknown: bool = False
) -> ErasureReport:
    """Remove a person from what this member derived from conversations, and never use them again.

    Args:
        home: the member's folder.
        person: the participant's identifier in the source; spellings that differ in case are one person.
        now: seconds since the epoch.
        even_if_unknown: exclude somebody of whom nothing is found here, as when the source was cleaned first.

    Raises:
        DataError: nobody of this name is known here. Nothing was changed; the message does not repeat the name.
        ConfigError: a file cannot be read or written. What was done stays done; repeat the request.
        BudgetError: the ledger is in doubt. The person is excluded and removed all the same, except from unsent answers.
    """
    if not normalise_participant(person):
        raise DataError("A person needs an identifier.", hint="Give the author id as it stands in the data.")
    source_conversations = _count_in_source(home, person)
    secret = _secret(home)
    called = Pseudonyms(secret).person(person).hex() if secret else ""
    pseudonym = participant_pseudonym(called, secret=secret) if secret else ""
    cache = RowCache(home)
    with cache.lock():
        exclusions = load_exclusions(home)
        already_since = exclusions.since(person)
        known = already_since is not None or bool(source_conversations) or cache.holds(pseudonym)
        if not (known or even_if_unknown):
            raise DataError(
                "Nobody of this name is in the conversations or in what was derived from them."
                if source_conversations is not None
                else "The conversations cannot be read, and what was derived from them does not hold this name.",
                hint="Check the spelling. To exclude the name all the same, add --even-if-unknown.",
            )
        # Step 1: nothing new can hold the person, whatever happens next.
        day = datetime.fromtimestamp(now, tz=UTC).date().isoformat()
        save_exclusions(home, exclusions=exclusions.with_person(person, day=day, pseudonym=called))
        # Step 2: what was derived from their conversations goes, and a head of the member's own that is not in use yet.
        removed = cache.remove_person(pseudonym, secret=secret)
        forget_put_aside(home)
        # Step 3: so do unsent answers, unless a manifest that is left proves that the person is not in them.
        withdrawn, waiting = _withdraw_unsent(home, innocent=cache.datasets(secret=secret), now=now)
    epsilon = _epsilon_spent(home)
    return ErasureReport(
        already_since=already_since,
        source_conversations=source_conversations,
        rows_removed=removed.rows,
        manifests_removed=removed.manifests,
        answers_withdrawn=withdrawn,
        answers_waiting=waiting,
        epsilon_spent=None if epsilon is None else epsilon[0],
        delta=None if epsilon is None else epsilon[1],
    )


def finish_withdrawals(home: MemberHome, *, owner: PayloadOwner) -> int:
    """Withdraw what a request left for whoever holds the ledger, and return how many answers that were.

    Raises:
        ConfigError, BudgetError: as `forget_person`.
    """
    with RowCache(home).lock():
        return withdraw_pending(home, owner=owner)


def withdraw_pending(home: MemberHome, *, owner: PayloadOwner) -> int:
    """Do the same for somebody who holds the cache's lock already."""
    exclusions = load_exclusions(home)
    for key in exclusions.to_withdraw:
        owner.withdraw(key)
    if exclusions.to_withdraw:
        save_exclusions(home, exclusions=exclusions.model_copy(update={"to_withdraw": ()}))
    return len(exclusions.to_withdraw)


def _count_in_source(home: MemberHome, person: str) -> int | None:
    # Under a secret that is forgotten at once: to look must not make the member's own, and needs no other.
    secret = secrets.token_bytes(_SECRET_BYTES)
    wanted = Pseudonyms(secret).person(person).hex()
    try:
        data = load_member_settings(home).data
        with take_snapshot(
            home, data=data, labelled_only=False, secret=secret, skipped=SkippedLines(), everybody=True
        ) as snapshot:
            return sum(wanted in item.participants for item in snapshot)
    except RingfenceError:
        return None  # a source that is down must not keep anybody from being forgotten


def _secret(home: MemberHome) -> bytes:
    # Read and never made here: without it nothing was ever derived.
    try:
        return home.contribution_key_file.read_bytes()
    except FileNotFoundError:
        return b""


def _withdraw_unsent(home: MemberHome, *, innocent: frozenset[str], now: float) -> tuple[int, int]:
    """Withdraw unsent answers and return (how many, how many wait for the agent that holds the ledger)."""
    if not has_ledger(home):
        return 0, 0
    with open_ledger_reader(home) as reader:
        unsent = {item.key for item in reader.stored() if not item.sent}
        doubtful = [
            entry.key
            for entry in (reader.entries() if unsent else ())
            if entry.key in unsent and entry.values.get("dataset") not in innocent
        ]
        lineage = reader.verified_state().terms.lineage if doubtful else ""
    if not doubtful:
        return 0, 0
    exclusions = load_exclusions(home)
    waiting = tuple(sorted({*exclusions.to_withdraw, *doubtful}))
    # Remembered first: a crash, or an agent that holds the ledger, leaves the rest to the next one who opens it.
    save_exclusions(home, exclusions=exclusions.model_copy(update={"to_withdraw": waiting}))
    try:
        ledger = Ledger.open(home.ledger_file, anchor_path=anchor_file(home), lineage=lineage, now=now)
    except BudgetError as error:
        if error.code != LedgerRefusal.LOCKED:
            raise
        return 0, len(waiting)
    with ledger:
        for key in waiting:
            ledger.withdraw(key)
    save_exclusions(home, exclusions=exclusions.model_copy(update={"to_withdraw": ()}))
    return len(waiting), 0


def _epsilon_spent(home: MemberHome) -> tuple[float, float] | None:
    from ringfence.privacy.budget_summary import summarise_budget

    if not has_ledger(home):
        return None
    with open_ledger_reader(home) as reader:
        summary = summarise_budget(reader.entries())
    return dict(summary.fallback.pld_epsilon_by_platforms)[1], summary.state.terms.delta
