"""Every certificate that a member was ever given: what was signed must be known, also when it was signed by mistake."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from sqlalchemy import select

from ringfence.model.key_files import public_pem
from ringfence.server.database import Database
from ringfence.server.tables import certificates


class IssuedCertificates:
    """The record of the members' certificates.

    Args:
        database: the coordinator's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, member: str, *, chain: str, now: datetime) -> None:
        """Add a certificate; inside a transaction, it is kept if that one is.

        Args:
            member: whose it is.
            chain: certificate first, PEM.
            now: the present, UTC.
        """
        certificate = x509.load_pem_x509_certificate(chain.encode())
        with self._database.transaction() as connection:
            connection.execute(
                certificates.insert().values(
                    serial=f"{certificate.serial_number:x}",
                    member=member,
                    public_key=public_pem(certificate.public_key()),
                    issued_at=now,
                    not_before=certificate.not_valid_before_utc,
                    not_after=certificate.not_valid_after_utc,
                )
            )

    def knows_key(self, public_key: str) -> bool:
        """Return whether a key (SubjectPublicKeyInfo PEM) was ever certified, whoever's it was."""
        with self._database.reading() as connection:
            found = connection.scalar(
                select(certificates.c.serial).where(certificates.c.public_key == public_key).limit(1)
            )
        return found is not None

    def serials(self, member: str) -> tuple[str, ...]:
        """Return the serial numbers of a member's certificates in hexadecimal digits, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(certificates.c.serial)
                .where(certificates.c.member == member)
                .order_by(certificates.c.issued_at, certificates.c.serial)
            )
            return tuple(row.serial for row in rows)
