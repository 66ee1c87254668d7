"""The federation's certificate authority: who may speak to the coordinator, for how long, under which name.

What signs here is the online intermediate. The root that vouches for it lies offline (`ringfence.server.root_authority`): what
is stolen from this machine ends with the intermediate, and a new one needs no member to join again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from ringfence.model.atomic_file import write_atomically
from ringfence.model.certificates import CLOCK_ALLOWANCE, spiffe_id
from ringfence.model.errors import ConfigError, PeerError
from ringfence.model.key_files import load_transport_key, make_transport_key, private_pem
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.root_authority import BACKDATE, create_root, key_usage, sign_intermediate

SERVER_LIFETIME = timedelta(days=90)
MEMBER_LIFETIME = timedelta(days=7)
RENEW_AT = 2 / 3
_LOOPBACK = "127.0.0.1"
"""The share of its life after which a certificate is renewed."""


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """Signs the certificates of one federation.

    Attributes:
        federation: identifier of the federation: the SPIFFE trust domain.
        certificate: the intermediate's own certificate.
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
            # Long before now, so that a member whose clock is behind is told so instead of meeting a failed handshake.
            begins_at=now - BACKDATE,
            ends_at=now + SERVER_LIFETIME,
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
        return self.renew_member_certificate(key_of_request(csr), member=member, now=now)

    def renew_member_certificate(
        self, public_key: EllipticCurvePublicKey, *, member: str, now: datetime
    ) -> bytes:
        """Return the chain of a new certificate for a key that its bearer has proven to hold, PEM.

        Args:
            public_key: EC P-256, of the present certificate.
            member: the identifier that the coordinator gave.
            now: the present, UTC.
        """
        return self._issue(
            [x509.UniformResourceIdentifier(spiffe_id(self.federation, member))],
            public_key=public_key,
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            # A member whose clock is a little behind can use its certificate at once.
            begins_at=now - CLOCK_ALLOWANCE,
            ends_at=now + MEMBER_LIFETIME,
        )

    def _issue(
        self,
        names: Sequence[x509.GeneralName],
        *,
        public_key: EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        begins_at: datetime,
        ends_at: datetime,
    ) -> bytes:
        issuer = self.certificate
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(begins_at, issuer.not_valid_before_utc))
            .not_valid_after(min(ends_at, issuer.not_valid_after_utc))
            # Critical, because the subject is empty (RFC 5280, section 4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        # The intermediate travels with every certificate: the other side knows the root alone.
        pem = serialization.Encoding.PEM
        return certificate.public_bytes(pem) + issuer.public_bytes(pem)


def key_of_request(csr: bytes) -> EllipticCurvePublicKey:
    """Return the public key of a certificate signing request, after checking that its sender holds the private one.

    Raises:
        PeerError: the request is not signed by its own key, or the key is not EC P-256. The sender's fault.
    """
    try:
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PeerError(
            "This is not a certificate signing request.", hint="Join with the installed ringfence."
        ) from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise PeerError("The request's key is not EC P-256.", hint="Join with the installed ringfence.")
    if not proven:
        # Without this proof of possession, one company could have another's key certified under its name.
        raise PeerError(
            "The request is not signed by its own key.", hint="Join with the installed ringfence."
        )
    return key


def create_certificate_authority(
    home: CoordinatorHome, *, federation: str, now: datetime
) -> CertificateAuthority:
    """Make the root and a first intermediate in ``pki/``.

    Raises:
        ConfigError: there is one already, or the folder cannot be written. The operator's to decide.
    """
    create_root(home, federation=federation, now=now)
    return renew_certificate_authority(home, federation=federation, root_key=home.root_key_file, now=now)


def renew_certificate_authority(
    home: CoordinatorHome, *, federation: str, root_key: Path, now: datetime
) -> CertificateAuthority:
    """Make a new intermediate, signed by the root's key, and let it sign from now on.

    Certificates of the one before stay valid until they run out: each travels with the intermediate that signed it.

    Args:
        home: the coordinator's folder.
        federation: identifier of the federation.
        root_key: file of the root's key, brought back for this from where it is kept.
        now: the present, UTC.

    Raises:
        ConfigError: the key is not the root's, or a file cannot be written. The operator's to mend.
    """
    key = generate_private_key(SECP256R1())
    certificate = sign_intermediate(
        home, root_key=root_key, public_key=key.public_key(), federation=federation, now=now
    )
    try:
        # One file for both: a key beside another one's certificate could sign nothing that anybody believes.
        write_atomically(
            home.intermediate_file, private_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)
        )
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.intermediate_file}: {error.strerror}", hint="Check the folder."
        ) from error
    return CertificateAuthority(federation, certificate, key)


def load_certificate_authority(home: CoordinatorHome, *, federation: str) -> CertificateAuthority:
    """Read the intermediate from ``pki/``.

    Raises:
        ConfigError: it is missing or damaged. The operator's to mend.
    """
    key = load_transport_key(home.intermediate_file)
    try:
        certificate = x509.load_pem_x509_certificate(home.intermediate_file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read the certificate in {home.intermediate_file}.",
            hint="Make a new one with the root's key: ringfence-coordinator ca renew --root-key FILE",
        ) from error
    if certificate.public_key() != key.public_key():
        raise ConfigError(
            "The intermediate's key and certificate do not belong together.",
            hint="Make a new one with the root's key: ringfence-coordinator ca renew --root-key FILE",
        )
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
    chain = authority.issue_server_certificate(listener_names(names), public_key=key.public_key(), now=now)
    try:
        write_atomically(home.server_certificate_file, chain, mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.server_certificate_file}: {error.strerror}", hint="Check the folder."
        ) from error


def server_certificate_is_due(home: CoordinatorHome, *, names: Sequence[str], now: datetime) -> bool:
    """Return whether the listeners' certificate should be made anew: it is two thirds over, or names changed, or its key is gone."""
    if not home.server_key_file.exists():
        return True  # as after a restore; nobody pinned that key, and the intermediate vouches for another as well
    try:
        present = x509.load_pem_x509_certificate(home.server_certificate_file.read_bytes())
        named = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return True
    ends_at, begins_at = present.not_valid_after_utc, present.not_valid_before_utc
    wanted = [_general_name(name) for name in listener_names(names)]
    return now >= begins_at + (ends_at - begins_at) * RENEW_AT or list(named) != wanted


def listener_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the listeners' certificate: the given ones, and that of the coordinator's own loopback listener."""
    return tuple(dict.fromkeys((*names, _LOOPBACK)))


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
