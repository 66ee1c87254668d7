"""Which keys a draft needs, whose signatures it has, and whether a new one counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature
from tuf.api.metadata import Metadata, Root, Targets

from ringfence.model.drafts import Draft, DraftDocument, DraftRole, DraftSummary, RoleProgress, RoleSignature
from ringfence.model.errors import PeerError, ThresholdError
from ringfence.model.trust_chain import key_name, parse_metadata
from ringfence.server.release_repository import RepositoryState


@dataclass(frozen=True, slots=True)
class DraftContent:
    """A draft's documents, parsed. What a draft does not change is None.

    Attributes:
        root: the new root of trust.
        targets: the new list of who may approve.
        stable: the new list of releases.
    """

    root: Metadata[Root] | None
    targets: Metadata[Targets] | None
    stable: Metadata[Targets] | None

    def document(self, role: DraftRole) -> Metadata[Root] | Metadata[Targets] | None:
        """Return one role's document."""
        return {"root": self.root, "targets": self.targets, "stable": self.stable}[role]


def content_of(draft: Draft) -> DraftContent:
    """Return a draft's documents.

    Raises:
        TamperedError: one of them is not metadata of its role.
    """
    found = {document.role: document.metadata.encode() for document in draft.documents}
    return DraftContent(
        root=parse_metadata(found["root"], Root) if "root" in found else None,
        targets=parse_metadata(found["targets"], Targets) if "targets" in found else None,
        stable=parse_metadata(found["stable"], Targets) if "stable" in found else None,
    )


def summarise(draft: Draft, *, state: RepositoryState | None) -> DraftSummary:
    """Return how far a draft has come; only signatures that verify are counted.

    Args:
        draft: the draft.
        state: what is published; None before the first root of trust.
    """
    content = content_of(draft)
    rows = []
    for document in draft.documents:
        metadata = content.document(document.role)
        if metadata is None:
            continue
        for label, delegator in _delegators(document.role, content=content, state=state):
            result = delegator.get_verification_result(
                document.role, metadata.signed_bytes, metadata.signatures
            )
            rows.append(
                RoleProgress(
                    role=label,
                    threshold=result.threshold,
                    signed_by=tuple(sorted(key_name(delegator, key_id=key_id) for key_id in result.signed)),
                    awaited_from=tuple(
                        sorted(key_name(delegator, key_id=key_id) for key_id in result.unsigned)
                    ),
                )
            )
    return DraftSummary(id=draft.id, purpose=draft.purpose, roles=tuple(rows))


def with_signatures(
    draft: Draft, *, signatures: Sequence[RoleSignature], state: RepositoryState | None
) -> Draft:
    """Return the draft with more signatures, each verified against the document that it is for.

    Args:
        draft: the draft.
        signatures: what a signer sent.
        state: what is published; None before the first root of trust.

    Raises:
        PeerError: a signature is for no document of the draft, is by a key that is not entitled, or does not verify.
            The signer's fault.
    """
    content = content_of(draft)
    for signature in signatures:
        metadata = content.document(signature.role)
        if metadata is None:
            raise PeerError(f"The draft has no {signature.role} to sign.", hint="Fetch the draft again.")
        key = None
        for _, delegator in _delegators(signature.role, content=content, state=state):
            if signature.key_id in delegator.get_delegated_role(signature.role).keyids:
                key = delegator.get_key(signature.key_id)
        if key is None:
            raise PeerError(
                f"This key is not entitled to sign {signature.role}.",
                hint="Ask the coordinator who may sign.",
            )
        made = Signature(signature.key_id, signature.signature)
        try:
            key.verify_signature(made, metadata.signed_bytes)
        except UnverifiedSignatureError as error:
            raise PeerError(
                f"The signature over {signature.role} does not verify.",
                hint="Fetch the draft again and sign it anew.",
            ) from error
        metadata.signatures[signature.key_id] = made
    documents = tuple(
        DraftDocument(role=document.role, metadata=_text(content.document(document.role), document))
        for document in draft.documents
    )
    return draft.model_copy(update={"documents": documents})


def require_complete(summary: DraftSummary) -> None:
    """Refuse a draft that too few keys signed.

    Raises:
        ThresholdError: a role is below its threshold; the hint names who may still sign.
    """
    for role in summary.roles:
        if not role.is_reached:
            raise ThresholdError(
                f"{role.role} is signed by {len(role.signed_by)} of the {role.threshold} keys that it needs.",
                hint=f"Ask {', '.join(role.awaited_from)} to sign: ringfence approve sign {summary.id}",
            )


def document_text(metadata: Metadata[Root] | Metadata[Targets]) -> str:
    """Return metadata as a draft carries it."""
    return metadata.to_bytes().decode("utf-8")


def _text(metadata: Metadata[Root] | Metadata[Targets] | None, document: DraftDocument) -> str:
    return document.metadata if metadata is None else document_text(metadata)


def _delegators(
    role: DraftRole, *, content: DraftContent, state: RepositoryState | None
) -> list[tuple[str, Root | Targets]]:
    """Who says which keys may sign a role: the draft's own new documents come before the published ones."""
    root = content.root or (state.root if state else None)
    targets = content.targets or (state.targets if state else None)
    if role == "root":
        found: list[tuple[str, Root | Targets]] = [("root", root.signed)] if root else []
        if state is not None:
            # A new root counts only when the keys of the old one agree to it (TUF specification, 5.3.4).
            found.append(("root by its previous keys", state.root.signed))
        return found
    if role == "targets":
        return [("targets", root.signed)] if root else []
    return [("stable", targets.signed)] if targets else []
