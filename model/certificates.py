"""Who a certificate says its bearer is: a SPIFFE identifier, ``spiffe://<federation>/member/<id>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from ringfence.model.errors import PeerError
from ringfence.model.key_files import public_pem

CLOCK_ALLOWANCE = timedelta(minutes=5)
"""How far two clocks may be apart: certificates of members begin this long before they are made."""

_SPIFFE = re.compile(r"spiffe://([a-z0-9][a-z0-9._-]{0,62})/member/([a-z0-9][a-z0-9._-]{0,62})")


@dataclass(frozen=True, slots=True)
class MemberIdentity:
    """A member as a certificate names it.

    Attributes:
        federation: identifier of the federation, the SPIFFE trust domain.
        member: identifier of the member in it.
        public_key: the certificate's key, SubjectPublicKeyInfo in PEM.
    """

    federation: str
    member: str
    public_key: str

    @property
    def spiffe_id(self) -> str:
        """The member's SPIFFE identifier."""
        return spiffe_id(self.federation, self.member)


def spiffe_id(federation: str, member: str) -> str:
    """Return the SPIFFE identifier of a member."""
    return f"spiffe://{federation}/member/{member}"


def expires_at(pem: bytes) -> datetime:
    """Return when the first certificate of a chain runs out, UTC.

    Raises:
        ValueError: this is no certificate.
    """
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def identity_of_certificate(pem: bytes) -> MemberIdentity:
    """Read who a certificate names; that it was issued by the federation's CA is checked elsewhere (TLS, `accept`).

    Raises:
        PeerError: this is not a certificate of exactly one member. The issuer's fault.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identifiers = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise PeerError(
            "The certificate names no member.", hint="Ask the coordinator for a new one."
        ) from error
    found = _SPIFFE.fullmatch(identifiers[0]) if len(identifiers) == 1 else None
    if found is None:
        raise PeerError("The certificate names no member.", hint="Ask the coordinator for a new one.")
    return MemberIdentity(found[1], found[2], public_pem(certificate.public_key()))
