"""Invitations as the coordinator keeps them: one row each, the secret only as a hash."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sqlalchemy import RowMapping, select

from ringfence.model.joining import JoinRequest
from ringfence.server.database import Database
from ringfence.server.tables import invitations

State = Literal["open", "waiting", "used", "cancelled"]


@dataclass(frozen=True, slots=True)
class KeptInvitation:
    """An invitation and what became of it.

    Attributes:
        id: tells it from others, and nothing about its secret.
        member: the name that whoever holds it gets.
        secret_hash: the only form of its secret that is kept, 32 bytes.
        trust_bundle_hash: of the bundle that it pins, 32 bytes.
        again: for a member that is known already.
        require_approval: somebody must approve the keys before they are certified.
        state: "open"; "waiting" for approval; "used": a certificate was issued; "cancelled".
        created_at: UTC.
        expires_at: UTC; only an open one expires.
        request_hash: of the request that came with the secret, 32 bytes; None while open.
        request: that request; None while open.
        certificate: the chain that was issued, PEM; None until then.
        approved_at: when somebody approved, UTC.
        used_at: when the certificate was issued, UTC.
    """

    id: str
    member: str
    secret_hash: bytes
    trust_bundle_hash: bytes
    again: bool
    require_approval: bool
    state: State
    created_at: datetime
    expires_at: datetime
    request_hash: bytes | None = None
    request: JoinRequest | None = None
    certificate: str | None = None
    approved_at: datetime | None = None
    used_at: datetime | None = None

    def knows_secret(self, secret_hash: bytes) -> bool:
        """Return whether this hash is that of the secret, in a time that does not depend on where they differ."""
        return hmac.compare_digest(self.secret_hash, secret_hash)

    def is_request(self, request: JoinRequest) -> bool:
        """Return whether this very request came with the secret before."""
        return self.request_hash is not None and hmac.compare_digest(self.request_hash, request.digest())

    def waiting(self, request: JoinRequest) -> KeptInvitation:
        """Return the invitation as it waits for approval of a request."""
        return replace(self, state="waiting", request=request, request_hash=request.digest())

    def used(self, request: JoinRequest, *, certificate: str, now: datetime) -> KeptInvitation:
        """Return the invitation as it is once a certificate was issued for a request."""
        return replace(
            self,
            state="used",
            request=request,
            request_hash=request.digest(),
            certificate=certificate,
            approved_at=now if self.require_approval else None,
            used_at=now,
        )

    def cancelled(self) -> KeptInvitation:
        """Return the invitation as it is once nobody may use it any more."""
        return replace(self, state="cancelled")


class InvitationStore:
    """The invitations of one federation.

    Args:
        database: the coordinator's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, invitation: str) -> KeptInvitation | None:
        """Return the invitation of this identifier, or None."""
        with self._database.reading() as connection:
            row = (
                connection.execute(select(invitations).where(invitations.c.id == invitation))
                .mappings()
                .first()
            )
        return None if row is None else _invitation(row)

    def all(self) -> tuple[KeptInvitation, ...]:
        """Return every invitation, oldest first."""
        with self._database.reading() as connection:
            order = (invitations.c.created_at, invitations.c.id)
            rows = connection.execute(select(invitations).order_by(*order)).mappings().all()
        return tuple(_invitation(row) for row in rows)

    def pending(self, member: str) -> tuple[KeptInvitation, ...]:
        """Return the invitations of a name that may still lead to a certificate, oldest first."""
        return tuple(found for found in self.all() if found.member == member and is_pending(found))

    def add(self, invitation: KeptInvitation) -> None:
        """Keep a new invitation."""
        with self._database.transaction() as connection:
            connection.execute(invitations.insert().values(**_values(invitation)))

    def change(self, invitation: KeptInvitation) -> None:
        """Replace what is kept of an invitation."""
        with self._database.transaction() as connection:
            connection.execute(
                invitations.update().where(invitations.c.id == invitation.id).values(**_values(invitation))
            )


def is_pending(invitation: KeptInvitation) -> bool:
    """Return whether an invitation may still lead to a certificate."""
    return invitation.state in ("open", "waiting")


def _invitation(row: RowMapping) -> KeptInvitation:
    values = dict(row)
    request = values["request"]
    values["request"] = None if request is None else JoinRequest.model_validate_json(request)
    return KeptInvitation(**values)


def _values(invitation: KeptInvitation) -> dict[str, object]:
    values = {name: getattr(invitation, name) for name in KeptInvitation.__slots__}
    request = invitation.request
    values["request"] = None if request is None else request.model_dump_json().encode()
    return values
