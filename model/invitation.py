"""The one string by which a company joins: where to ask, what to expect there, and the secret that lets it in.

``rfj1.<base64url of [address, sha256 of the trust bundle]>.<base64url of a 160-bit secret and a 32-bit checksum>``, about 170
characters. The checksum is no protection: it tells a string that was cut or mistyped from one that is wrong.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass

from ringfence.model.errors import ConfigError
from ringfence.model.settings_file import split_address

PREFIX = "rfj1"
SECRET_BYTES = 20
_CHECKSUM_BYTES = 4
_LONGEST = 600
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PASTE = "Paste the whole line that the coordinator sent."


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an invitation says.

    Attributes:
        address: host:port of the coordinator's enrolment service.
        bundle_sha256: of the trust bundle that is served there, 64 hexadecimal digits.
        secret: lets one company in, once; 20 bytes.
    """

    address: str
    bundle_sha256: str
    secret: bytes

    @property
    def id(self) -> str:
        """A name for this invitation that tells nothing about its secret."""
        return hashlib.sha256(b"ringfence invitation id" + self.secret).hexdigest()[:16]

    def secret_hash(self) -> bytes:
        """Return the only form in which the coordinator keeps the secret, 32 bytes. It is random: no salt, no stretching."""
        return hashlib.sha256(b"ringfence invitation secret" + self.secret).digest()

    def text(self) -> str:
        """Return the string that is sent to the company."""
        place = json.dumps([self.address, self.bundle_sha256], separators=(",", ":")).encode()
        head = f"{PREFIX}.{_encode(place)}."
        return head + _encode(self.secret + _checksum(head, self.secret))


def parse_invitation(text: str) -> Invitation:
    """Read an invitation.

    Raises:
        ConfigError: this is not one, or a part of it is missing or changed. The operator's to mend.
    """
    joined = "".join(text.split())  # mail programs break long lines
    parts = joined.split(".")
    if parts[0] != PREFIX or len(joined) > _LONGEST:
        if re.fullmatch(r"rfj[0-9]+", parts[0]):
            raise ConfigError(
                "The invitation is of another version.",
                hint="Install the ringfence that the coordinator runs.",
            )
        raise ConfigError("This is not an invitation.", hint=f"It begins with {PREFIX}. {_PASTE}")
    if len(parts) != 3:
        raise ConfigError("The invitation is cut short.", hint=_PASTE)
    tail = _decode(parts[2])
    head = f"{PREFIX}.{parts[1]}."
    secret = tail[:SECRET_BYTES]
    if len(tail) != SECRET_BYTES + _CHECKSUM_BYTES or tail[SECRET_BYTES:] != _checksum(head, secret):
        raise ConfigError("The invitation is cut short or mistyped.", hint=_PASTE)
    try:
        address, digest = json.loads(_decode(parts[1]))
        split_address(address)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError("The invitation is not in the agreed form.", hint=_PASTE) from error
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ConfigError("The invitation is not in the agreed form.", hint=_PASTE)
    return Invitation(address=address, bundle_sha256=digest, secret=secret)


def _checksum(head: str, secret: bytes) -> bytes:
    return hashlib.sha256(b"ringfence invitation checksum" + head.encode() + secret).digest()[
        :_CHECKSUM_BYTES
    ]


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""
