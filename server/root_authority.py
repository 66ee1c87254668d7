"""The root of the federation's certificates: made once, kept offline, brought back once a year to sign an intermediate."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.key_files import load_transport_key, make_transport_key
from ringfence.server.coordinator_home import CoordinatorHome

ROOT_LIFETIME = timedelta(days=3650)
INTERMEDIATE_LIFETIME = timedelta(days=400)
BACKDATE = timedelta(days=1)
"""The coordinator's own certificates begin this long before they are made: a clock that is wrong is told, not met as a
handshake that fails without words."""


def create_root(home: CoordinatorHome, *, federation: str, now: datetime) -> x509.Certificate:
    """Make the root's key and certificate in ``pki/``. The key is to be moved away from there.

    Raises:
        ConfigError: there is one already, or the folder cannot be written. The operator's to decide.
    """
    if home.ca_file.exists():
        raise ConfigError(
            f"{home.ca_file} exists already.",
            hint="Every member pinned it: a new root is a new federation. Choose another --home.",
        )
    key = make_transport_key(home.root_key_file)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Ringfence {federation} root"[:64])])
    certificate = (
        _authority(name, issuer=name, public_key=key.public_key(), path_length=1, now=now)
        .not_valid_after(now + ROOT_LIFETIME)
        .sign(key, hashes.SHA256())
    )
    write_atomically(home.ca_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return certificate


def sign_intermediate(
    home: CoordinatorHome,
    *,
    root_key: Path,
    public_key: EllipticCurvePublicKey,
    federation: str,
    now: datetime,
) -> x509.Certificate:
    """Return the certificate of a new intermediate: it may certify servers and members for 400 days, and no other authority.

    Args:
        home: the coordinator's folder, with the root's certificate.
        root_key: file of the root's private key.
        public_key: of the intermediate.
        federation: identifier of the federation.
        now: the present, UTC.

    Raises:
        ConfigError: the key cannot be read, or is not the root's. The operator's to mend.
    """
    key = load_transport_key(root_key)
    root = load_root(home)
    if key.public_key() != root.public_key():
        raise ConfigError(
            f"{root_key} is not the key of this federation's root.", hint="Bring the right one back."
        )
    name = f"Ringfence {federation} {now:%Y-%m-%d}"[:64]
    return (
        _authority(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer=root.subject,
            public_key=public_key,
            path_length=0,
            now=now,
        )
        .not_valid_after(min(now + INTERMEDIATE_LIFETIME, root.not_valid_after_utc))
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def load_root(home: CoordinatorHome) -> x509.Certificate:
    """Return the root's certificate.

    Raises:
        ConfigError: it is missing or damaged. The operator's to mend.
    """
    try:
        return x509.load_pem_x509_certificate(home.ca_file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot read the root's certificate {home.ca_file}.",
            hint="Restore it from a backup, or set up first: ringfence-coordinator init",
        ) from error


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what a key may be used for: certificates, or the handshakes of a server or a member."""
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


def _authority(
    name: x509.Name,
    *,
    issuer: x509.Name,
    public_key: EllipticCurvePublicKey,
    path_length: int,
    now: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
