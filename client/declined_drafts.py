"""Drafts that this member's approver declined, each with a reason; what was declined is not signed by oversight.

The record stays here, beside the approval key. It names the very bytes that would have been signed: a draft that is written
anew under the same name is another one.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from tuf.api.metadata import Root, Targets

from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.drafts import Draft
from ringfence.model.errors import ConfigError, PolicyError
from ringfence.model.plan import Name
from ringfence.model.trust_chain import parse_metadata

DeclineReason = Literal["quality", "fairness", "privacy", "provenance", "process", "other"]
REASONS: tuple[DeclineReason, ...] = get_args(DeclineReason)


class DeclinedDraft(BaseModel):
    """A draft that was declined.

    Attributes:
        draft: its name, such as ``release-0.2.0``.
        digest: SHA-256 over what would have been signed, in hexadecimal.
        reason: a code, without words of anybody's.
        declined_at: UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    draft: Name
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    reason: DeclineReason
    declined_at: AwareDatetime


_FORM = TypeAdapter(tuple[DeclinedDraft, ...])


def declined_file(home: MemberHome) -> Path:
    """Return where a member's declined drafts are recorded."""
    return home.approval / "declined.json"


def decline_draft(home: MemberHome, *, draft: Draft, reason: str, now: datetime) -> DeclinedDraft:
    """Record that a draft is declined, and return the record; declined again, the newer reason holds.

    Args:
        home: the member's folder, or the approver's, with the approval key's folder.
        draft: what the coordinator asks to sign.
        reason: one of `REASONS`.
        now: the present, UTC.

    Raises:
        ConfigError: there is no such reason, or the record cannot be read or written. The operator's to mend.
        TamperedError: a document of the draft is not metadata.
    """
    for known in REASONS:
        if known == reason:
            made = DeclinedDraft(
                draft=draft.id,
                digest=draft_digest(draft),
                reason=known,
                declined_at=now.replace(microsecond=0),
            )
            break
    else:
        raise ConfigError(f"There is no reason {reason!r}.", hint=f"Choose one of: {', '.join(REASONS)}")
    path = declined_file(home)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock")):
            kept = [found for found in declined_drafts(home) if found.digest != made.digest]
            write_atomically(path, _FORM.dump_json((*kept, made), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Check the folder.") from error
    return made


def declined_drafts(home: MemberHome) -> tuple[DeclinedDraft, ...]:
    """Return every draft that was declined here, the newest last.

    Raises:
        ConfigError: the record cannot be read. The operator's to mend.
    """
    path = declined_file(home)
    try:
        return _FORM.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"Cannot read {path}.", hint="Restore it from a backup, or move it away."
        ) from error


def require_not_declined(home: MemberHome, *, draft: Draft) -> None:
    """Refuse to sign what was declined here.

    Raises:
        PolicyError: this very draft was declined.
    """
    digest = draft_digest(draft)
    for found in declined_drafts(home):
        if found.digest == digest:
            raise PolicyError(
                f"{draft.id} was declined here on {found.declined_at:%Y-%m-%d}: {found.reason}.",
                hint="If that is settled, sign it with --although-declined.",
            )


def draft_digest(draft: Draft) -> str:
    """Return what tells the bytes that a draft asks to sign from others; signatures that are added change nothing.

    Raises:
        TamperedError: a document is not metadata.
    """
    digest = hashlib.sha256()
    for document in draft.documents:
        content = document.metadata.encode()
        signed = (
            parse_metadata(content, Root) if document.role == "root" else parse_metadata(content, Targets)
        ).signed_bytes
        digest.update(f"{document.role} {len(signed)}\n".encode() + signed)
    return digest.hexdigest()
