"""Between drafts as values and ApprovalService's messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from ringfence.model.drafts import Draft, DraftDocument, DraftSummary, RoleProgress, RoleSignature
from ringfence.model.errors import PeerError
from ringfence.model.plan import describe
from ringfence.model.trust_chain import readable
from ringfence.model.wire import approval_service_pb2 as wire


def draft_message(draft: Draft) -> wire.Draft:
    """Return a draft as a message."""
    return wire.Draft(
        id=draft.id,
        purpose=draft.purpose,
        created_at=draft.created_at.isoformat(),
        documents=[
            wire.DraftDocument(role=document.role, metadata=document.metadata.encode())
            for document in draft.documents
        ],
        manifest=(draft.manifest or "").encode(),
    )


def draft_value(message: wire.Draft) -> Draft:
    """Return the draft that a message carries.

    Raises:
        PeerError: it is not in the agreed form. The coordinator's fault.
    """
    try:
        return Draft(
            id=message.id,
            purpose=readable(message.purpose),
            created_at=datetime.fromisoformat(message.created_at),
            documents=tuple(
                DraftDocument.model_validate(
                    {"role": document.role, "metadata": document.metadata.decode("utf-8")}
                )
                for document in message.documents
            ),
            manifest=message.manifest.decode("utf-8") or None,
        )
    except ValidationError as error:
        raise PeerError(f"The draft is not in the agreed form: {describe(error)}", hint=_TELL) from error
    except ValueError as error:
        raise PeerError("The draft is not in the agreed form.", hint=_TELL) from error


def summary_message(summary: DraftSummary) -> wire.DraftSummary:
    """Return a draft's progress as a message."""
    return wire.DraftSummary(
        id=summary.id,
        purpose=summary.purpose,
        roles=[
            wire.RoleProgress(
                role=role.role,
                threshold=role.threshold,
                signed_by=role.signed_by,
                awaited_from=role.awaited_from,
            )
            for role in summary.roles
        ],
    )


def summary_value(message: wire.DraftSummary) -> DraftSummary:
    """Return the progress that a message carries; it is for people, and proves nothing."""
    return DraftSummary(
        id=readable(message.id),
        purpose=readable(message.purpose),
        roles=tuple(
            RoleProgress(
                role=readable(role.role),
                threshold=role.threshold,
                signed_by=tuple(readable(name) for name in role.signed_by),
                awaited_from=tuple(readable(name) for name in role.awaited_from),
            )
            for role in message.roles
        ),
    )


def signature_messages(signatures: Sequence[RoleSignature]) -> list[wire.RoleSignature]:
    """Return signatures as messages."""
    return [
        wire.RoleSignature(
            role=signature.role, key_id=signature.key_id, signature=bytes.fromhex(signature.signature)
        )
        for signature in signatures
    ]


def signature_values(messages: Sequence[wire.RoleSignature]) -> tuple[RoleSignature, ...]:
    """Return the signatures that messages carry; that they verify is checked where they are used.

    Raises:
        PeerError: they are none, too many, or not in the agreed form. The signer's fault.
    """
    if not 1 <= len(messages) <= 3:
        raise PeerError("Between one and three signatures are expected.", hint="Sign the draft again.")
    try:
        return tuple(
            RoleSignature.model_validate(
                {"role": message.role, "key_id": message.key_id, "signature": message.signature.hex()}
            )
            for message in messages
        )
    except ValidationError as error:
        raise PeerError(
            f"A signature is not in the agreed form: {describe(error)}", hint="Sign the draft again."
        ) from error


_TELL = "Tell the coordinator."
