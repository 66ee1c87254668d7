"""The agent's use of the privacy ledger: confirm, look up, charge. Nothing leaves that did not come from here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.client.member_home import MemberHome
from ringfence.client.stored_answer import Charged, StoredAnswer, question_digest
from ringfence.model.errors import BudgetError, ConfigError, PeerError
from ringfence.model.evaluation_messages import EvaluateRequest
from ringfence.model.key_files import load_signing_key
from ringfence.model.plan import Plan
from ringfence.model.round_messages import RoundRequest, RoundUpdate
from ringfence.privacy.answer_mechanism import AnswerMechanism, evaluation_mechanism, round_mechanism
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_anchor import read_signed_head, read_unverified_head, sign_head
from ringfence.privacy.ledger_chain import LedgerEntry, LedgerHead
from ringfence.privacy.ledger_charge import Charge, ChargeKind, charged_entry, evaluation_key, release_key
from ringfence.privacy.ledger_refusals import LedgerRefusal
from ringfence.privacy.ledger_terms import LedgerTerms

_NO_DIGEST = "0" * 64
_NOT_YET = (LedgerRefusal.MISSING, LedgerRefusal.NO_ANCHOR, LedgerRefusal.DAMAGED)


class MemberLedger:
    """A member's open ledger, as its agent uses it.

    Args:
        ledger: open, and owned from now on.
        key: the member's identity key, which signs heads.
        federation: that this agent takes part in; a ledger outlives federations, so keys name theirs.
        now: returns seconds since the epoch.
    """

    def __init__(
        self, ledger: Ledger, *, key: Ed25519PrivateKey, federation: str, now: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._key = key
        self._federation = federation
        self._now = now

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the ledger."""
        self._ledger.close()

    def confirm(self, known_head: bytes) -> None:
        """Hold the ledger against the head that the coordinator kept for this member.

        A head that the present key did not sign may be of a key that the member had before. It is believed if it stands in
        this chain: only who was given it knows the hash of an entry, and it allows no more than an older head of this key.

        Raises:
            BudgetError: the ledger is behind it: restored from a backup, or replaced.
            PeerError: the head is neither signed by this member's key nor in its ledger. The coordinator's fault, or the ledger
                went together with the key.
        """
        self._ledger.confirm(self._returned(known_head) if known_head else None)

    def released(self, request: RoundRequest) -> RoundUpdate | None:
        """Return the answer that was charged for this very question, with the present head; None if there is none.

        Raises:
            PeerError: the attempt was answered, but to another question. The coordinator's fault.
            BudgetError: the answer was withdrawn, or is not what was charged.
        """
        content = self._ledger.released(self._key_of(request))
        if content is None:
            return None
        stored = StoredAnswer.decode(content)
        if stored.question != question_digest(request):
            raise PeerError("This attempt of the round was answered already, to another question.")
        return self._with_head(stored.update)

    def check(self, request: RoundRequest, plan: Plan) -> None:
        """Refuse before anything is computed what a charge would refuse.

        Raises:
            BudgetError: the budget does not suffice, or a limit is exceeded.
        """
        charge = self._charge(request, plan, dataset_digest=_NO_DIGEST)
        charged_entry(
            self._ledger.state,
            charge,
            payload_digest=_NO_DIGEST,
            kind=_kind_of(request),
            now=self._now(),
            confirmed=self._ledger.confirmed,
        )

    def charge(
        self, request: RoundRequest, *, plan: Plan, update: RoundUpdate, dataset_digest: str
    ) -> RoundUpdate:
        """Charge for an answer, store it, and return what may leave: on disk, in one transaction, when this returns.

        Args:
            request: the question.
            plan: of the run, as signed by the coordinator.
            update: the answer, noised.
            dataset_digest: of the manifest of what was used.

        Raises:
            BudgetError: nothing was charged and nothing may leave.
        """
        payload = StoredAnswer(question=question_digest(request), update=update).encode()
        content = self._ledger.charge(
            self._charge(request, plan, dataset_digest=dataset_digest),
            payload,
            now=self._now(),
            kind=_kind_of(request),
        )
        return self._with_head(StoredAnswer.decode(content).update)

    def charged(self, request: RoundRequest) -> Charged | None:
        """Return what was charged for this very question, for the firewall to compare with; None if nothing was.

        Raises:
            BudgetError: the answer was withdrawn, or is not what was charged.
        """
        content = self._ledger.released(self._key_of(request))
        if content is None:
            return None
        return Charged(payload=hashlib.sha256(content).hexdigest(), head=self._ledger.head.hash)

    def mark_sent(self, request: RoundRequest) -> None:
        """Note that an answer left. It may still be sent again."""
        self._ledger.mark_sent(self._key_of(request))

    def withdraw(self, key: str) -> None:
        """Remove the stored bytes of an answer for good, for erasure or when their time is over; the charge stays."""
        self._ledger.withdraw(key)

    @property
    def order(self) -> int:
        """Renyi order of the ledger."""
        return self._ledger.state.terms.order

    def entries(self, *, after: int = 0) -> Iterator[LedgerEntry]:
        """Yield every entry behind a place in the chain, from the first on."""
        return self._ledger.entries(after=after)

    def _returned(self, known_head: bytes) -> LedgerHead:
        try:
            return read_signed_head(known_head, key=self._key.public_key())
        except PeerError as error:
            head = read_unverified_head(known_head)
            if self._ledger.holds(head):
                return head
            raise PeerError(
                "The returned ledger head is not one that this member signed with its present key, nor is it in its ledger.",
                hint="If the key is new, bring back the newest ledger: this is not it. If not, ask the coordinator where the head "
                "comes from.",
            ) from error

    def _with_head(self, update: RoundUpdate) -> RoundUpdate:
        return replace(update, ledger_head=sign_head(self._ledger.head, key=self._key))

    def _key_of(self, request: RoundRequest) -> str:
        run = f"{self._federation}/{request.run}"
        if isinstance(request, EvaluateRequest):
            return evaluation_key(run)
        return release_key(run, round_number=request.round, attempt=request.attempt)

    def _charge(self, request: RoundRequest, plan: Plan, *, dataset_digest: str) -> Charge:
        price = _price(request, plan)
        return Charge(
            key=self._key_of(request),
            plan_digest=plan.digest(),
            dataset_digest=dataset_digest,
            cohort=plan.cohort.minimum,
            mechanism=price.headline,
            own_noise_multiplier=price.own.noise_multiplier,
        )


def _kind_of(request: RoundRequest) -> ChargeKind:
    return "evaluate" if isinstance(request, EvaluateRequest) else "charge"


def _price(request: RoundRequest, plan: Plan) -> AnswerMechanism:
    """Return what an answer does: the very value that the trainer carries out."""
    if not isinstance(request, EvaluateRequest):
        return round_mechanism(plan)
    evaluation = evaluation_mechanism(plan)
    if evaluation is None:
        raise BudgetError("The plan has no evaluation.", hint="Refuse the question.")
    return evaluation


def make_ledger_folders(home: MemberHome, *, anchor_file: Path) -> None:
    """Make the folders of a ledger and of its second place, where they lie in the member's own.

    Raises:
        ConfigError: the second place lies elsewhere, and its folder is not there. The operator's to mend.
    """
    home.ledger_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if anchor_file.resolve().is_relative_to(home.root.resolve()):
        anchor_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not anchor_file.parent.is_dir():
        # Never made here: an empty folder where another disk is not mounted would pass for a ledger that never was.
        raise ConfigError(
            f"The folder of the ledger's second place, {anchor_file.parent}, is not there.",
            hint="Mount its disk, or make the folder once, with mode 0700.",
        )


def open_member_ledger(
    home: MemberHome,
    *,
    terms: LedgerTerms,
    anchor_file: Path,
    federation: str,
    now: Callable[[], float],
) -> MemberLedger:
    """Open the ledger of a member's data; make it if this data set never had one.

    Args:
        home: the member's folder.
        terms: for life, if the ledger is made now.
        anchor_file: second place of the newest head, of the member's own.
        federation: that the agent takes part in.
        now: returns seconds since the epoch.

    Raises:
        BudgetError: the ledger is in doubt: missing although its anchor is there, behind it, in use, damaged, open to others.
        ConfigError: the identity key is missing or damaged, or the second place's folder is not there.
    """
    key = load_signing_key(home.identity_key_file)
    make_ledger_folders(home, anchor_file=anchor_file)
    try:
        ledger = Ledger.open(home.ledger_file, anchor_path=anchor_file, lineage=terms.lineage, now=now())
    except BudgetError as error:
        if error.code not in _NOT_YET:
            raise
        # A new data set, or a crash while its ledger was made. `create` refuses at any sign that there was one.
        try:
            ledger = Ledger.create(home.ledger_file, anchor_path=anchor_file, terms=terms, now=now())
        except BudgetError:
            raise error from None
    return MemberLedger(ledger, key=key, federation=federation, now=now)
