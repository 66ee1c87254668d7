"""Members' ledger heads, kept by the coordinator for the members: with them a restored backup cannot pass as the ledger.

The coordinator cannot make one up, because the member signs it. It could return an old one; therefore the member keeps
its newest head in a second place of its own as well.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from ringfence.model.errors import ConfigError, PeerError
from ringfence.privacy.ledger_anchor import read_signed_head
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
        """Keep a head, unless a newer one of the same ledger is kept already.

        Raises:
            PeerError: the member did not sign it. The member's fault.
        """
        head = self._read(member, signed_head)
        with self._database.transaction() as connection:
            kept = self.newest(member)
            known = self._kept(member, kept)
            if known is not None and known.ledger == head.ledger and known.seq >= head.seq:
                return
            connection.execute(ledger_heads.delete().where(ledger_heads.c.member == member))
            connection.execute(ledger_heads.insert().values(member=member, signed_head=signed_head))

    def forget(self, member: str) -> None:
        """Keep no head of a member any more: it signs with another key from now on, and could not verify this one."""
        with self._database.transaction() as connection:
            connection.execute(ledger_heads.delete().where(ledger_heads.c.member == member))

    def head(self, member: str) -> LedgerHead | None:
        """Return the newest head that is kept for a member, or None.

        Raises:
            PeerError: the row does not hold one that the member signed. The operator's to restore.
        """
        kept = self.newest(member)
        return self._read(member, kept) if kept else None

    def _kept(self, member: str, signed_head: bytes) -> LedgerHead | None:
        try:
            return self._read(member, signed_head) if signed_head else None
        except PeerError:
            return None  # signed by a key that the member had before: its present one decides

    def _read(self, member: str, signed_head: bytes) -> LedgerHead:
        key = serialization.load_pem_public_key(self._registry.get(member).identity_public_key.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(
                f"The identity key of {member} is not Ed25519.", hint="Restore the database from a backup."
            )
        if len(signed_head) <= 64:
            raise PeerError("An answer carries no signed ledger head.")
        return read_signed_head(signed_head, key=key)
