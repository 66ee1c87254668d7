"""What happens to a member once it is one: a new certificate, a suspension, its end. Each leaves a line in the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.server.audit_events import AuditEvents
from ringfence.server.certificate_authority import load_certificate_authority
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.database import Database
from ringfence.server.denials import Denials
from ringfence.server.issued_certificates import IssuedCertificates
from ringfence.server.members import Member, MemberRegistry


class Membership:
    """Changes what is recorded of members.

    Args:
        home: the coordinator's folder, with the certificate authority.
        federation: identifier of the federation.
        database: the coordinator's.
        now: returns the present, UTC.
    """

    def __init__(
        self, home: CoordinatorHome, *, federation: str, database: Database, now: Callable[[], datetime]
    ) -> None:
        self._home = home
        self._federation = federation
        self._database = database
        self._now = now
        self._members = MemberRegistry(database)
        self._certificates = IssuedCertificates(database)
        self._denials = Denials(database)
        self._audit = AuditEvents(database)

    def renew(self, member: Member) -> Member:
        """Issue a new certificate for the key that a member has, and return its new record.

        Args:
            member: as it was when its call was admitted.

        Raises:
            ConnectionFailedError: it was suspended or got another key meanwhile.
            ConfigError: the certificate authority cannot be read. The operator's to mend.
        """
        now = self._now()
        key = serialization.load_pem_public_key(member.certificate_public_key.encode())
        if not isinstance(key, EllipticCurvePublicKey):
            raise ConfigError(f"The key of {member.id} is not EC P-256.", hint="Invite it again.")
        authority = load_certificate_authority(self._home, federation=self._federation)
        chain = authority.renew_member_certificate(key, member=member.id, now=now).decode("ascii")
        with self._database.transaction():
            present = self._members.get(member.id)
            if present.status != "active" or present.certificate_public_key != member.certificate_public_key:
                raise ConnectionFailedError("The coordinator does not serve this identity.")
            self._certificates.record(member.id, chain=chain, now=now)
            self._audit.record("member.renew", subject=member.id, now=now, actor=f"member:{member.id}")
            return self._members.renew(member.id, certificate=chain)

    def suspend(self, member: str, *, reason: str = "") -> Member:
        """Refuse a member everywhere from its next call on; its certificate is not renewed.

        Raises:
            ConfigError: there is no such member, or it was removed. The operator's to mend.
        """
        now = self._now()
        with self._database.transaction():
            changed = self._members.suspend(member)
            self._denials.deny(member, reason=reason or "suspended", now=now)
            self._audit.record("member.suspend", subject=member, now=now, detail=reason)
            return changed

    def resume(self, member: str) -> Member:
        """Serve a suspended member again.

        Raises:
            ConfigError: there is no such member, or it was removed. The operator's to mend.
        """
        now = self._now()
        with self._database.transaction():
            changed = self._members.resume(member)
            self._denials.lift(member, now=now)
            self._audit.record("member.resume", subject=member, now=now)
            return changed

    def remove(self, member: str, *, reason: str = "") -> Member:
        """Refuse a member everywhere for good. What it did stays on record, and its name is not given to anybody else.

        Raises:
            ConfigError: there is no such member. The operator's to mend.
        """
        return self._end(member, action="member.remove", reason=reason or "removed", actor=None)

    def leave(self, member: str) -> Member:
        """End a membership because the member says so.

        Raises:
            ConfigError: there is no such member.
        """
        return self._end(member, action="member.leave", reason="left", actor=f"member:{member}")

    def _end(self, member: str, *, action: str, reason: str, actor: str | None) -> Member:
        now = self._now()
        with self._database.transaction():
            changed = self._members.remove(member)
            self._denials.deny(member, reason=reason, now=now)
            self._audit.record(action, subject=member, now=now, detail=reason, actor=actor)
            return changed
