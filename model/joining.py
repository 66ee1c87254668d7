"""The two files by which a company joins: what it asks with, and what it is welcomed with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.errors import ConfigError
from ringfence.model.plan import Name, describe
from ringfence.model.settings_file import Address

_LARGEST_FILE_BYTES = 1 << 20

Pem = Annotated[str, Field(min_length=1, max_length=20_000)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two, so that it does not reveal the exact number")
    return value


SizeClass = Annotated[int, Field(ge=1, le=1 << 30), AfterValidator(_power_of_two)]


class _JoiningFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def save(self, path: Path) -> None:
        """Write the file; it holds nothing secret.

        Raises:
            ConfigError: the file cannot be written. The operator's to mend.
        """
        try:
            path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Check the folder.") from error


class JoinRequest(_JoiningFile):
    """What a company sends to the coordinator: public keys only.

    Attributes:
        schema_version: of this form.
        member: the identifier that the company would like; the coordinator decides.
        csr: certificate signing request of its EC P-256 key, PEM.
        approval_public_key: Ed25519 key that countersigns releases, SubjectPublicKeyInfo PEM.
        identity_public_key: Ed25519 key with which the member's agent signs what only this member may say, such as the head of its
            privacy ledger; SubjectPublicKeyInfo PEM.
        size_class: power of two near its number of conversations; public, and the member's weight in an average.
    """

    schema_version: Literal[1] = 1
    member: Name
    csr: Pem
    approval_public_key: Pem
    identity_public_key: Pem
    size_class: SizeClass = 256


class WelcomeBundle(_JoiningFile):
    """What the coordinator answers: everything that a member trusts from then on.

    Attributes:
        schema_version: of this form.
        federation: identifier of the federation.
        member: the member's identifier, as the coordinator decided.
        demonstration: True only in a federation on invented or public data.
        fleet_address: host:port of the fleet gateway.
        release_address: host:port of the release service.
        certificate: the member's certificate chain, PEM.
        ca: the federation's CA certificates, PEM.
        trust_root: TUF root version 1, base64 of the signed bytes.
        plan_public_key: Ed25519 key that signs plans, base64 of its 32 bytes.
        size_class: the member's public size class, as recorded.
    """

    schema_version: Literal[1] = 1
    federation: Name
    member: Name
    demonstration: bool
    fleet_address: Address
    release_address: Address
    certificate: Pem
    ca: Pem
    trust_root: Annotated[str, Field(min_length=1, max_length=700_000)]
    plan_public_key: Annotated[str, Field(min_length=44, max_length=44)]
    size_class: SizeClass

    def trust_root_bytes(self) -> bytes:
        """Return the TUF root as it was signed.

        Raises:
            ConfigError: the field is not base64. The sender's fault.
        """
        try:
            return base64.b64decode(self.trust_root, validate=True)
        except ValueError as error:
            raise ConfigError(
                "The welcome's trust root is not base64.", hint="Ask the coordinator for the file again."
            ) from error


_File = TypeVar("_File", bound=_JoiningFile)


def load_join_request(path: Path) -> JoinRequest:
    """Read a company's request.

    Raises:
        ConfigError: the file is missing or not in the agreed form. The sender's fault.
    """
    return _load(path, JoinRequest, "a request to join")


def load_welcome_bundle(path: Path) -> WelcomeBundle:
    """Read the coordinator's welcome.

    Raises:
        ConfigError: the file is missing or not in the agreed form. The sender's fault.
    """
    return _load(path, WelcomeBundle, "a welcome")


def _load(path: Path, form: type[_File], what: str) -> _File:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint="Check the path.") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise ConfigError(f"{path} is too large to be {what}.", hint="Check the path.")
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not {what}: {describe(error)}", hint="Ask for the file again."
        ) from error
