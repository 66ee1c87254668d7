"""A certificate that ran out while nobody renewed it, and what both sides do about it."""

from __future__ import annotations

from datetime import datetime

from ringfence.client.identity import InstalledIdentity, read_identity
from ringfence.client.member_home import MemberHome
from ringfence.model.errors import ConnectionFailedError


class IdentityExpiredError(ConnectionFailedError):
    """This member's certificate has run out, so that nobody accepts it."""

    code = "identity_expired"


def require_valid(home: MemberHome, *, now: datetime) -> InstalledIdentity:
    """Return this member's identity, unless its certificate has run out.

    Raises:
        IdentityExpiredError: it has; the hint says what both sides do about it.
        ConfigError: this member has not joined, or a file is damaged. The operator's to mend.
    """
    found = read_identity(home)
    if now >= found.expires_at:
        member = found.identity.member
        raise IdentityExpiredError(
            f"This member's certificate ran out on {found.expires_at:%Y-%m-%d %H:%M} UTC, while nobody renewed it.",
            hint=f"Ask the coordinator to run: ringfence-coordinator member invite {member} --again; then run here:"
            " ringfence join INVITATION. Keys, budget and history stay.",
        )
    return found
