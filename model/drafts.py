"""Drafts: metadata that awaits signatures, as a file and over the wire, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.errors import ConfigError
from ringfence.model.plan import Name, describe

DraftRole = Literal["root", "targets", "stable"]

_LARGEST_DRAFT_BYTES = 4 << 20


class _DraftForm(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DraftDocument(_DraftForm):
    """One role's metadata in a draft.

    Attributes:
        role: who signs it: governance (root, targets) or the members' approval keys (stable).
        metadata: TUF metadata in JSON, with the signatures so far.
    """

    role: DraftRole
    metadata: Annotated[str, Field(max_length=_LARGEST_DRAFT_BYTES)]


class Draft(_DraftForm):
    """Everything that a signer needs to see.

    Attributes:
        schema_version: of this form.
        id: such as ``release-0.2.0``.
        purpose: one sentence for people; the metadata itself is what counts.
        created_at: when it was written, UTC.
        documents: what is to be signed, in this order.
        manifest: manifest of the release that the draft adds, in JSON; None if it adds none.
    """

    schema_version: Literal[1] = 1
    id: Name
    purpose: Annotated[str, Field(max_length=300)]
    created_at: AwareDatetime
    documents: Annotated[tuple[DraftDocument, ...], Field(min_length=1, max_length=3)]
    manifest: str | None = None


class RoleSignature(_DraftForm):
    """One signature over one role's canonical bytes.

    Attributes:
        role: which document.
        key_id: TUF key identifier, hexadecimal.
        signature: Ed25519, hexadecimal.
    """

    role: DraftRole
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class SignatureFile(_DraftForm):
    """A member's signatures, when they travel as a file.

    Attributes:
        schema_version: of this form.
        draft_id: the draft that was signed.
        signatures: one for each document that the member may sign.
    """

    schema_version: Literal[1] = 1
    draft_id: Name
    signatures: Annotated[tuple[RoleSignature, ...], Field(min_length=1, max_length=3)]


@dataclass(frozen=True, slots=True)
class RoleProgress:
    """How far one role of a draft is from its threshold.

    Attributes:
        role: the role, and for a new root also its previous keys.
        threshold: signatures that it needs, 1 or more.
        signed_by: names of the keys that signed.
        awaited_from: names of the keys that may still sign.
    """

    role: str
    threshold: int
    signed_by: tuple[str, ...]
    awaited_from: tuple[str, ...]

    @property
    def is_reached(self) -> bool:
        """Whether enough keys signed."""
        return len(self.signed_by) >= self.threshold


@dataclass(frozen=True, slots=True)
class DraftSummary:
    """A draft at a glance.

    Attributes:
        id: such as ``release-0.2.0``.
        purpose: one sentence for people.
        roles: progress of each role.
    """

    id: str
    purpose: str
    roles: tuple[RoleProgress, ...]

    @property
    def is_complete(self) -> bool:
        """Whether it can be published."""
        return all(role.is_reached for role in self.roles)


def load_draft(path: Path) -> Draft:
    """Read a draft.

    Raises:
        ConfigError: the file is missing or not in the agreed form. The sender's fault.
    """
    try:
        return Draft.model_validate_json(_read(path))
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a draft: {describe(error)}", hint="Ask for the file again."
        ) from error


def load_signature_file(path: Path) -> SignatureFile:
    """Read a member's signatures.

    Raises:
        ConfigError: the file is missing or not in the agreed form. The sender's fault.
    """
    try:
        return SignatureFile.model_validate_json(_read(path))
    except ValidationError as error:
        raise ConfigError(
            f"{path} does not hold signatures: {describe(error)}", hint="Ask for the file again."
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_DRAFT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint="Check the path.") from error
    if len(content) > _LARGEST_DRAFT_BYTES:
        raise ConfigError(f"{path} is too large.", hint="Check the path.")
    return content
