"""Letting companies in: invitations made, used once, approved where that is asked for.

Burning an invitation's secret, admitting the member and recording its certificate is one transaction: a crash leaves the
invitation open or the member admitted, never the one without the other.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError
from ringfence.model.invitation import SECRET_BYTES, Invitation
from ringfence.model.joining import JoinRequest
from ringfence.model.key_files import key_fingerprint, public_pem
from ringfence.server.admission import certified_member, check_member_name
from ringfence.server.audit_events import AuditEvents
from ringfence.server.certificate_authority import key_of_request, load_certificate_authority
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, require_reachable
from ringfence.server.database import Database
from ringfence.server.denials import Denials
from ringfence.server.invitations import InvitationStore, KeptInvitation, is_pending
from ringfence.server.issued_certificates import IssuedCertificates
from ringfence.server.members import Member, MemberRegistry
from ringfence.server.trust_bundle import compose_bundle, keep_bundle

LONGEST_INVITATION = timedelta(days=30)
MOST_REFUSALS_NOTED = 5
"""Lines in the audit trail about one invitation that is shown and refused."""

log = logging.getLogger("ringfence.coordinator")
_ASK = "Ask the coordinator for a new one."


@dataclass(frozen=True, slots=True)
class Issued:
    """A company is a member.

    Attributes:
        member: the name that it was given.
        certificate: its chain, PEM.
    """

    member: str
    certificate: str


@dataclass(frozen=True, slots=True)
class Awaited:
    """Somebody at the coordinator has to approve first."""


class Enrolment:
    """Invites companies and lets them in.

    Args:
        home: the coordinator's folder.
        settings: federation and addresses.
        database: the coordinator's.
        now: returns the present, UTC.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        *,
        settings: CoordinatorSettings,
        database: Database,
        now: Callable[[], datetime],
    ) -> None:
        self._home = home
        self._settings = settings
        self._database = database
        self._now = now
        self.invitations = InvitationStore(database)
        self.members = MemberRegistry(database)
        self._certificates = IssuedCertificates(database)
        self._denials = Denials(database)
        self._audit = AuditEvents(database)

    def invite(
        self,
        member: str,
        *,
        valid_for: timedelta = timedelta(hours=72),
        require_approval: bool = False,
        again: bool = False,
    ) -> Invitation:
        """Make an invitation; earlier ones of the same name that were not used yet are withdrawn.

        Args:
            member: the name that whoever holds it gets.
            valid_for: how long it can be used, up to 30 days.
            require_approval: somebody must approve the keys before they are certified.
            again: the member is known already and needs a new certificate: it was off for too long, or lost its key.

        Raises:
            ConfigError: the name is taken or cannot be given, there is no such member to invite again, or nobody could reach
                this coordinator at the addresses of its settings. The operator's.
        """
        check_member_name(member)
        require_reachable(self._settings)
        if not timedelta() < valid_for <= LONGEST_INVITATION:
            raise ConfigError("An invitation holds for up to 30 days.", hint="Choose another --expires.")
        now = self._now()
        bundle = keep_bundle(self._home, bundle=compose_bundle(self._home, settings=self._settings, now=now))
        made = Invitation(
            address=self._settings.enrolment_address_for_members,
            bundle_sha256=bundle,
            secret=secrets.token_bytes(SECRET_BYTES),
        )
        with self._database.transaction():
            self._require_invitable(member, again=again)
            for earlier in self.invitations.pending(member):
                self.invitations.change(earlier.cancelled())
            self.invitations.add(
                KeptInvitation(
                    id=made.id,
                    member=member,
                    secret_hash=made.secret_hash(),
                    trust_bundle_hash=bytes.fromhex(bundle),
                    again=again,
                    require_approval=require_approval,
                    state="open",
                    created_at=now,
                    expires_at=now + valid_for,
                )
            )
            self._audit.record("member.invite", subject=member, now=now, detail="again" if again else "")
        return made

    def enrol(self, secret: bytes, request: JoinRequest) -> Issued | Awaited:
        """Let the holder of an invitation in, or tell it to wait. The same request has the same answer when sent again.

        A request whose keys cannot be certified leaves the invitation as it was.

        Args:
            secret: of the invitation.
            request: the company's keys.

        Raises:
            ConnectionFailedError: the invitation is unknown, withdrawn, expired, or was used by another request.
            PeerError: the keys are not usable, are another member's, or were given up earlier.
        """
        now = self._now()
        kept = self._shown(secret)
        if kept is None:
            raise ConnectionFailedError("The coordinator does not know this invitation.", hint=_ASK)
        try:
            with self._database.transaction():
                return self._answer(kept.id, request, now=now)
        except PeerError as refusal:
            # After the transaction, which a refusal takes back.
            self._note_refusal(kept, csr=request.csr, reason=refusal.message, now=now)
            raise

    def note_malformed(self, secret: bytes, *, csr: str, reason: str) -> None:
        """Leave the trace of a request that is not even in the agreed form, if it came with an invitation that is known.

        Args:
            secret: of the invitation.
            csr: as it came; its key is noted if it can be read.
            reason: why it is refused, in one sentence without what was sent.
        """
        kept = self._shown(secret)
        if kept is not None:
            self._note_refusal(kept, csr=csr, reason=reason, now=self._now())

    def _shown(self, secret: bytes) -> KeptInvitation | None:
        """Return the invitation whose secret this is, or None."""
        shown = Invitation(address="", bundle_sha256="", secret=secret)
        kept = self.invitations.find(shown.id)
        return kept if kept is not None and kept.knows_secret(shown.secret_hash()) else None

    def _answer(self, invitation: str, request: JoinRequest, *, now: datetime) -> Issued | Awaited:
        kept = self.invitations.find(invitation)
        if kept is None or kept.state == "cancelled":
            raise ConnectionFailedError("This invitation was withdrawn.", hint=_ASK)
        if kept.state == "used" and kept.certificate is not None and kept.is_request(request):
            return Issued(kept.member, self._present_certificate(kept))
        if kept.state == "used" or (kept.state == "waiting" and not kept.is_request(request)):
            raise ConnectionFailedError("This invitation was used already, with other keys.", hint=_ASK)
        if now >= kept.expires_at:
            raise ConnectionFailedError("This invitation has expired.", hint=_ASK)
        if kept.require_approval:
            # Checked now, so that nobody waits for an approval that cannot be given.
            self._certify(kept, request, now=now)
            if kept.state == "open":
                self.invitations.change(kept.waiting(request))
                self._audit.record(
                    "member.ask",
                    subject=kept.member,
                    now=now,
                    actor=f"member:{kept.member}",
                    detail=_fingerprint(request.csr),
                )
            return Awaited()
        return self._admit(kept, request, now=now, actor=f"member:{kept.member}")

    def _note_refusal(self, kept: KeptInvitation, *, csr: str, reason: str, now: datetime) -> None:
        """Leave a trace of who holds an invitation and is not let in: it may have been stolen, on either side of its use."""
        actor = f"invitation:{kept.id}"
        with self._database.transaction():
            if self._audit.count("member.refused", actor=actor) >= MOST_REFUSALS_NOTED:
                return  # whoever holds it could fill the disk
            detail = f"{reason} It came with the key {_fingerprint(csr)}."
            self._audit.record("member.refused", subject=kept.member, now=now, actor=actor, detail=detail)
        log.warning("an invitation for %s was refused. %s", kept.member, detail)

    def approve(self, member: str) -> Member:
        """Approve the request that waits under a name, and return the member's record.

        Raises:
            ConfigError: none waits, or its time is over. The operator's to mend.
        """
        now = self._now()
        with self._database.transaction():
            waiting = [found for found in self.invitations.pending(member) if found.state == "waiting"]
            if not waiting or waiting[0].request is None:
                raise ConfigError(
                    f"Nobody waits to join as {member}.", hint="See: ringfence-coordinator member list"
                )
            kept, request = waiting[0], waiting[0].request
            if now >= kept.expires_at:
                raise ConfigError(
                    "The invitation has expired meanwhile.",
                    hint=f"Make a new one: ringfence-coordinator member invite {member}",
                )
            self._admit(kept, request, now=now, actor=None)
            return self.members.get(member)

    def _admit(
        self, kept: KeptInvitation, request: JoinRequest, *, now: datetime, actor: str | None
    ) -> Issued:
        record = self._certify(kept, request, now=now)
        known = self.members.find(kept.member)
        try:
            if known is None:
                self.members.admit(record)
            else:
                self.members.readmit(record)
        except ConfigError as error:
            # Whose key it is, is nobody's business but the coordinator's.
            raise PeerError(
                "One of these keys is another member's already.",
                hint="Join from a folder of its own: ringfence join INVITATION --home FOLDER",
            ) from error
        self._denials.lift(kept.member, now=now)
        self._certificates.record(record.id, chain=record.certificate, now=now)
        self.invitations.change(kept.used(request, certificate=record.certificate, now=now))
        self._audit.record(
            "member.admit" if known is None else "member.admit_again",
            subject=kept.member,
            now=now,
            actor=actor,
            detail=_changed_keys(known, record),
        )
        return Issued(record.id, record.certificate)

    def _certify(self, kept: KeptInvitation, request: JoinRequest, *, now: datetime) -> Member:
        try:
            self._require_invitable(kept.member, again=kept.again)
        except ConfigError as error:
            # It was when the invitation was made; a suspended or taken name meanwhile is not one to be let in under.
            raise ConnectionFailedError("This invitation holds no more.", hint=_ASK) from error
        authority = load_certificate_authority(self._home, federation=self._settings.federation)
        record = certified_member(request, member=kept.member, authority=authority, now=now)
        key = record.certificate_public_key
        if self.members.find_by_public_key(key.encode()) is None and self._certificates.knows_key(key):
            # The fleet unregistered it when it was replaced, and Flower never takes one back.
            raise PeerError(
                "This company gave up this key earlier, when it joined with another; it cannot come back.",
                hint="Move identity/member.key away in the member's folder and join again: the invitation is still good.",
            )
        return record

    def _require_invitable(self, member: str, *, again: bool) -> None:
        known = self.members.find(member)
        if known is None and again:
            raise ConfigError(f"There is no member {member} yet.", hint="Leave --again out.")
        if known is not None and known.status == "suspended":
            raise ConfigError(
                f"{member} is suspended.",
                hint=f"Resume it first: ringfence-coordinator member resume {member}",
            )
        if known is not None and not again:
            raise ConfigError(
                f"{member} is known already.",
                hint="Choose another name, or say --again: the same company joins anew and keeps its history.",
            )

    def _present_certificate(self, kept: KeptInvitation) -> str:
        """Return the certificate that a member has for the key of its invitation; it may have renewed the first one since."""
        known = self.members.find(kept.member)
        request = kept.request
        if (
            known is None
            or request is None
            or known.status != "active"
            or known.certificate_public_key != public_pem(key_of_request(request.csr.encode()))
        ):
            raise ConnectionFailedError("This invitation holds no more.", hint=_ASK)
        return known.certificate


def is_awaiting(invitation: KeptInvitation, *, now: datetime) -> bool:
    """Return whether an invitation may still be used or approved."""
    return is_pending(invitation) and now < invitation.expires_at


def _fingerprint(csr: str) -> str:
    try:
        return key_fingerprint(public_pem(key_of_request(csr.encode())))
    except PeerError:
        return "that cannot be read"


def _changed_keys(known: Member | None, record: Member) -> str:
    fingerprint = key_fingerprint(record.certificate_public_key)
    if known is None:
        return fingerprint
    changed = [
        name
        for name in ("certificate", "approval", "identity")
        if getattr(known, f"{name}_public_key") != getattr(record, f"{name}_public_key")
    ]
    return f"{fingerprint}; new keys: {', '.join(changed) or 'none'}"
