"""What a company and the coordinator say to each other when one joins the other."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.errors import PeerError
from ringfence.model.plan import Name, describe
from ringfence.model.settings_file import Address

LARGEST_BUNDLE_BYTES = 1 << 20

Pem = Annotated[str, Field(min_length=1, max_length=20_000)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two, so that it does not reveal the exact number")
    return value


SizeClass = Annotated[int, Field(ge=1, le=1 << 30), AfterValidator(_power_of_two)]


class JoinRequest(BaseModel):
    """What a company sends to the coordinator: public keys only, and no name. The invitation decides the name.

    Attributes:
        csr: certificate signing request of its EC P-256 key, PEM.
        approval_public_key: Ed25519 key that countersigns releases, SubjectPublicKeyInfo PEM.
        identity_public_key: Ed25519 key with which the member's agent signs what only this member may say, such as the head of its
            privacy ledger; SubjectPublicKeyInfo PEM.
        size_class: power of two near its number of conversations; public, and the member's weight in an average.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    csr: Pem
    approval_public_key: Pem
    identity_public_key: Pem
    size_class: SizeClass = 256

    def digest(self) -> bytes:
        """Return what tells this very request from any other, 32 bytes: it may be sent again, another may not."""
        return hashlib.sha256(self.model_dump_json().encode()).digest()


class TrustBundle(BaseModel):
    """Everything that a member believes from then on; an invitation pins it by its hash.

    Attributes:
        schema_version: of this form.
        federation: identifier of the federation.
        demonstration: True only in a federation on invented or public data.
        fleet_address: host:port of the fleet gateway.
        release_address: host:port of the control plane: releases, approvals, identity.
        enrolment_address: host:port of the enrolment service.
        ca: the root of the federation's certificates, PEM.
        trust_root: TUF root version 1, base64 of the signed bytes; None while the founding members have not agreed on it.
        plan_public_key: Ed25519 key that signs plans, base64 of its 32 bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    federation: Name
    demonstration: bool
    fleet_address: Address
    release_address: Address
    enrolment_address: Address
    ca: Pem
    trust_root: Annotated[str, Field(min_length=1, max_length=700_000)] | None
    plan_public_key: Annotated[str, Field(min_length=44, max_length=44)]

    def content(self) -> bytes:
        """Return the bytes that are served and hashed."""
        return self.model_dump_json().encode()

    def trust_root_bytes(self) -> bytes | None:
        """Return the TUF root as it was signed, or None while there is none.

        Raises:
            PeerError: the field is not base64. The coordinator's fault.
        """
        if self.trust_root is None:
            return None
        try:
            return base64.b64decode(self.trust_root, validate=True)
        except ValueError as error:
            raise PeerError("The bundle's trust root is not base64.", hint="Tell the coordinator.") from error


def bundle_digest(content: bytes) -> str:
    """Return the hash by which an invitation pins a bundle, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_bundle(content: bytes, *, sha256: str) -> TrustBundle:
    """Return a bundle, after checking that it is the one that the invitation pins.

    Args:
        content: as it was served.
        sha256: from the invitation, 64 hexadecimal digits.

    Raises:
        PeerError: it is another one, or not in the agreed form. Somebody stands between, or the coordinator's fault.
    """
    if bundle_digest(content) != sha256:
        raise PeerError(
            "What answers there is not the coordinator that this invitation is from.",
            hint="Nothing was sent. Check the network in between, and ask the coordinator by another way.",
        )
    try:
        return TrustBundle.model_validate_json(content)
    except ValidationError as error:
        raise PeerError(
            f"The coordinator's bundle is not in the agreed form: {describe(error)}",
            hint="Install the ringfence that the coordinator runs.",
        ) from error
