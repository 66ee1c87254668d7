"""Members' ledger heads, kept by the coordinator for the members: with them a restored backup cannot pass as the ledger.

The coordinator cannot make one up, because the member signs it. It could return an old one; therefore the member keeps
its newest head in a second place of its own as well.

A member that joins again with a new key keeps its ledger, and so the head that its former key signed is kept until it
sends one of the new key. It is returned like any other: the member finds it in its own chain, or refuses.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from ringfence.model.errors import ConfigError, PeerError
from ringfence.privacy.ledger_anchor import read_signed_head, read_unverified_head
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.server.database import Database
from ringfence.server.members import MemberRegistry
from ringfence.server.tables import ledger_heads


class LedgerHeads:
    """One row a member: its newest signed head.

    Args:
        database: the coordinator's; it knows the members' identity keys too.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._registry = MemberRegistry(database)

    def newest(self, member: str) -> bytes:
        """Return the newest head that is kept for a member, empty if none is."""
        wanted = select(ledger_heads.c.signed_head).where(ledger_heads.c.member == member)
        with self._database.reading() as connection:
            return connection.scalar(wanted) or b""

    def keep(self, member: str, signed_head: bytes) -> None:
        """Keep a head, unless a newer one of the same ledger is kept already, by whichever key of the member.

        Raises:
            PeerError: the member did not sign it. The member's fault.
        """
        head = self._read(member, signed_head)
        with self._database.transaction() as connection:
            kept = self.newest(member)
            known = _unverified(kept)
            newer = known is not None and known.ledger == head.ledger and known.seq >= head.seq
            if kept == signed_head or (newer and known != head):
                return  # the same head signed by the member's new key replaces that of its former one
            connection.execute(ledger_heads.delete().where(ledger_heads.c.member == member))
            connection.execute(ledger_heads.insert().values(member=member, signed_head=signed_head))

    def vouched(self, member: str) -> tuple[LedgerHead, bytes] | None:
        """Return the newest head of a member and its signed form, or None unless the member's present key signed it.

        Whoever checks a receipt has that key alone: under a former one, a true head would look like a forged one.
        """
        kept = self.newest(member)
        try:
            return (self._read(member, kept), kept) if kept else None
        except PeerError:
            return None

    def _read(self, member: str, signed_head: bytes) -> LedgerHead:
        key = serialization.load_pem_public_key(self._registry.get(member).identity_public_key.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(
                f"The identity key of {member} is not Ed25519.", hint="Restore the database from a backup."
            )
        if len(signed_head) <= 64:
            raise PeerError("An answer carries no signed ledger head.")
        return read_signed_head(signed_head, key=key)


def _unverified(kept: bytes) -> LedgerHead | None:
    try:
        return read_unverified_head(kept) if kept else None
    except PeerError:
        return None  # a damaged row remembers nothing; the member's next answer mends it
