"""Admitting a company: its keys are checked, certified under the coordinator's name for it, and recorded."""

from __future__ import annotations

from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ringfence.model.certificates import identity_of_certificate
from ringfence.model.errors import ConfigError, PeerError
from ringfence.model.joining import JoinRequest
from ringfence.model.trust_chain import COORDINATOR
from ringfence.server.certificate_authority import CertificateAuthority
from ringfence.server.members import Member, MemberRegistry, new_member


def admit_member(
    request: JoinRequest,
    *,
    member: str,
    authority: CertificateAuthority,
    registry: MemberRegistry,
    now: datetime,
) -> Member:
    """Certify a company's keys under the coordinator's name for it, and record it as an active member.

    Args:
        request: what the company sent; it does not say a name.
        member: the identifier that the coordinator gives.
        authority: signs the certificate.
        registry: records the member.
        now: the present, UTC.

    Raises:
        PeerError: the request's keys are not usable. The company's fault.
        ConfigError: the name or a key is taken. The operator's to mend.
    """
    record = certified_member(request, member=member, authority=authority, now=now)
    registry.admit(record)
    return record


def certified_member(
    request: JoinRequest, *, member: str, authority: CertificateAuthority, now: datetime
) -> Member:
    """Return the record of a company whose keys were checked and certified; nothing is stored yet.

    Args:
        request: what the company sent.
        member: the identifier that the coordinator gives.
        authority: signs the certificate.
        now: the present, UTC.

    Raises:
        PeerError: the request's keys are not usable. The company's fault.
        ConfigError: no member can have this name. The operator's to mend.
    """
    check_member_name(member)
    for name, pem in (("approval", request.approval_public_key), ("identity", request.identity_public_key)):
        _check_signing_key(pem, name=name)
    chain = authority.issue_member_certificate(request.csr.encode(), member=member, now=now)
    identity = identity_of_certificate(chain)
    return new_member(
        member,
        spiffe_id=identity.spiffe_id,
        certificate_public_key=identity.public_key,
        approval_public_key=request.approval_public_key,
        identity_public_key=request.identity_public_key,
        certificate=chain.decode("ascii"),
        size_class=request.size_class,
        now=now,
    )


def check_member_name(member: str) -> None:
    """Raise unless a member may be called so.

    Raises:
        ConfigError: no member may. The operator's to mend.
    """
    if member == COORDINATOR:
        # Metadata names keys for people: a member of this name could be taken for the coordinator.
        raise ConfigError(f"A member cannot be called {member}.", hint="Choose another name.")


def _check_signing_key(pem: str, *, name: str) -> None:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PeerError(
            f"The request's {name} key is not a public key.", hint="Join with the installed ringfence."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise PeerError(f"The {name} key is not Ed25519.", hint="Join with the installed ringfence.")
