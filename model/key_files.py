"""Private keys on disk: made here, readable by their owner alone, never sent anywhere."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError

_PRIVATE_MODE = 0o600


def make_transport_key(path: Path) -> EllipticCurvePrivateKey:
    """Make an EC P-256 key of mutual TLS in a new file of mode 0600 (PKCS 8 PEM).

    Raises:
        ConfigError: a key is already there, or the file cannot be written. The operator's to decide.
    """
    key = generate_private_key(SECP256R1())
    _write_new(path, key)
    return key


def make_signing_key(path: Path) -> Ed25519PrivateKey:
    """Make an Ed25519 signing key in a new file of mode 0600 (PKCS 8 PEM).

    Raises:
        ConfigError: a key is already there, or the file cannot be written. The operator's to decide.
    """
    key = Ed25519PrivateKey.generate()
    _write_new(path, key)
    return key


def load_transport_key(path: Path) -> EllipticCurvePrivateKey:
    """Read an EC P-256 key.

    Raises:
        ConfigError: the file is missing, is readable by others, or holds another kind of key. The operator's to mend.
    """
    key = _load(path)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError(
            f"{path} does not hold an EC P-256 key.", hint="Restore the key that belongs there."
        )
    return key


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 key.

    Raises:
        ConfigError: the file is missing, is readable by others, or holds another kind of key. The operator's to mend.
    """
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} does not hold an Ed25519 key.", hint="Restore the key that belongs there.")
    return key


def public_pem(key: PublicKeyTypes) -> str:
    """Return a public key as SubjectPublicKeyInfo in PEM: the one form in which keys are compared."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode("ascii")


def normal_public_pem(pem: bytes | str) -> str:
    """Return a public key's PEM in the one form in which keys are compared, whatever its line breaks were.

    Raises:
        ConfigError: this is not a public key. The sender's fault.
    """
    content = pem.encode() if isinstance(pem, str) else pem
    try:
        return public_pem(serialization.load_pem_public_key(content))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("This is not a public key in PEM.", hint="Ask for the file again.") from error


def key_fingerprint(pem: bytes | str) -> str:
    """Return a public key's hash as people read it to each other: eight groups of four hexadecimal digits.

    Raises:
        ConfigError: this is not a public key. The sender's fault.
    """
    digest = hashlib.sha256(normal_public_pem(pem).encode()).hexdigest()
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))


def raw_public_base64(key: Ed25519PublicKey) -> str:
    """Return the 32 bytes of an Ed25519 public key in base64 (44 characters), for settings of one line."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode("ascii")


def signing_key_from_base64(text: str) -> Ed25519PublicKey:
    """Return the Ed25519 public key that `raw_public_base64` wrote.

    Raises:
        ConfigError: the text is not such a key. The writer's fault.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error) as error:
        raise ConfigError("This is not an Ed25519 public key in base64.", hint="Ask for it again.") from error


def private_pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key in PKCS 8 PEM, unencrypted; the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_new(path: Path, key: PrivateKeyTypes) -> None:
    if path.exists():
        # A key that is overwritten is an identity that is lost: never as a side effect.
        raise ConfigError(f"{path} exists already.", hint="Move it away first if a new key is really meant.")
    try:
        write_atomically(path, private_pem(key), mode=_PRIVATE_MODE)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Check the folder.") from error


def _load(path: Path) -> PrivateKeyTypes:
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Cannot read the key {path}: {error.strerror}",
            hint="Bring the key back from where it is kept; a coordinator can also restore a backup made --with-keys.",
        ) from error
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others.", hint=f"chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a private key.", hint="Restore the key that belongs there."
        ) from error
