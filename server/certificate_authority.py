"""The federation's certificate authority: who may speak to the coordinator, for how long, under which name."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ringfence.model.atomic_file import write_atomically
from ringfence.model.certificates import identity_of_certificate, spiffe_id
from ringfence.model.errors import ConfigError, PeerError
from ringfence.model.joining import JoinRequest
from ringfence.model.key_files import load_transport_key, make_transport_key
from ringfence.model.trust_chain import COORDINATOR
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.members import Member, MemberRegistry, new_member

CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=90)
MEMBER_LIFETIME = timedelta(days=7)
CLOCK_ALLOWANCE = timedelta(
    minutes=5
)  # a member whose clock is a little behind can use its certificate at once


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """Signs the certificates of one federation.

    Attributes:
        federation: identifier of the federation: the SPIFFE trust domain.
        certificate: the authority's own certificate.
        key: its EC P-256 private key.
    """

    federation: str
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    def issue_server_certificate(
        self, names: Sequence[str], *, public_key: EllipticCurvePublicKey, now: datetime
    ) -> bytes:
        """Return the listeners' certificate chain, PEM, valid for 90 days.

        Args:
            names: DNS names and IP addresses under which members reach the coordinator.
            public_key: of the listeners.
            now: the present, UTC.

        Raises:
            ConfigError: a name is neither a DNS name nor an IP address. The operator's to mend.
        """
        return self._issue(
            [_general_name(name) for name in names],
            public_key=public_key,
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            now=now,
            lifetime=SERVER_LIFETIME,
        )

    def issue_member_certificate(self, csr: bytes, *, member: str, now: datetime) -> bytes:
        """Return a member's certificate chain, PEM, valid for seven days.

        Only the public key is taken from the request. Names, usages and extensions that it asks for are ignored: a
        member is who the coordinator says, never who it says.

        Args:
            csr: certificate signing request, PEM.
            member: the identifier that the coordinator gave.
            now: the present, UTC.

        Raises:
            PeerError: the request is not signed by its own key, or the key is not EC P-256. The sender's fault.
        """
        try:
            request = x509.load_pem_x509_csr(csr)
            key = request.public_key()
        except ValueError as error:
            raise PeerError(
                "This is not a certificate signing request.", hint="Ask for the file again."
            ) from error
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise PeerError(
                "The request's key is not EC P-256.", hint="Make it with: ringfence identity create"
            )
        if not request.is_signature_valid:
            # Without this proof of possession, one company could have another's key certified under its name.
            raise PeerError("The request is not signed by its own key.", hint="Ask for the file again.")
        name = x509.UniformResourceIdentifier(spiffe_id(self.federation, member))
        return self._issue(
            [name], public_key=key, usage=ExtendedKeyUsageOID.CLIENT_AUTH, now=now, lifetime=MEMBER_LIFETIME
        )

    def _issue(
        self,
        names: Sequence[x509.GeneralName],
        *,
        public_key: EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        now: datetime,
        lifetime: timedelta,
    ) -> bytes:
        issuer = self.certificate
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - CLOCK_ALLOWANCE, issuer.not_valid_before_utc))
            .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
            # Critical, because the subject is empty (RFC 5280, section 4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def create_certificate_authority(
    home: CoordinatorHome, *, federation: str, now: datetime
) -> CertificateAuthority:
    """Make the authority's key and certificate in ``pki/``.

    Raises:
        ConfigError: there is one already, or the folder cannot be written. The operator's to decide.
    """
    key = make_transport_key(home.ca_key_file)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Ringfence {federation} CA"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_ALLOWANCE)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomically(home.ca_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return CertificateAuthority(federation, certificate, key)


def load_certificate_authority(home: CoordinatorHome, *, federation: str) -> CertificateAuthority:
    """Read the authority from ``pki/``.

    Raises:
        ConfigError: the key or the certificate is missing or damaged. The operator's to mend.
    """
    key = load_transport_key(home.ca_key_file)
    try:
        certificate = x509.load_pem_x509_certificate(home.ca_file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read the CA certificate {home.ca_file}.", hint="Set up first: ringfence-coordinator init"
        ) from error
    if certificate.public_key() != key.public_key():
        raise ConfigError("The CA's key and certificate do not belong together.", hint="Restore both.")
    return CertificateAuthority(federation, certificate, key)


def write_server_certificate(
    home: CoordinatorHome, *, authority: CertificateAuthority, names: Sequence[str], now: datetime
) -> None:
    """Make or renew the listeners' certificate in ``pki/``; the key is made on first use and then kept.

    Raises:
        ConfigError: a name is not usable, or the folder cannot be written. The operator's to mend.
    """
    key = (
        load_transport_key(home.server_key_file)
        if home.server_key_file.exists()
        else make_transport_key(home.server_key_file)
    )
    chain = authority.issue_server_certificate(names, public_key=key.public_key(), now=now)
    write_atomically(home.server_certificate_file, chain, mode=0o644)


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
        request: what the company sent; its own idea of its name is not used.
        member: the identifier that the coordinator gives.
        authority: signs the certificate.
        registry: records the member.
        now: the present, UTC.

    Raises:
        PeerError: the request's keys are not usable. The company's fault.
        ConfigError: the name or a key is taken. The operator's to mend.
    """
    if member == COORDINATOR:
        # Metadata names keys for people: a member of this name could be taken for the coordinator.
        raise ConfigError(f"A member cannot be called {member}.", hint="Choose another --as name.")
    for name, pem in (("approval", request.approval_public_key), ("identity", request.identity_public_key)):
        _check_signing_key(pem, name=name)
    chain = authority.issue_member_certificate(request.csr.encode(), member=member, now=now)
    identity = identity_of_certificate(chain)
    record = new_member(
        member,
        spiffe_id=identity.spiffe_id,
        certificate_public_key=identity.public_key,
        approval_public_key=request.approval_public_key,
        identity_public_key=request.identity_public_key,
        certificate=chain.decode("ascii"),
        size_class=request.size_class,
        now=now,
    )
    registry.admit(record)
    return record


def _check_signing_key(pem: str, *, name: str) -> None:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise PeerError(
            f"The request's {name} key is not a public key.", hint="Ask for the file again."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise PeerError(f"The {name} key is not Ed25519.", hint="Make it with: ringfence identity create")


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(
            f"{name!r} is neither a DNS name nor an IP address.", hint="Correct server_names."
        ) from error
