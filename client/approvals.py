"""Countersigning: look at a draft, hold it against the rules and one's own files, sign, send.

The approval key belongs to a person and may live on a machine of its own: a draft and its signatures can travel as files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from ringfence.client.declined_drafts import require_not_declined
from ringfence.client.founding import note_agreed_root
from ringfence.client.member_home import MemberHome
from ringfence.client.releases import ReleaseStore
from ringfence.client.signed_releases import load_signed_releases
from ringfence.model.approval_messages import draft_value, signature_messages, summary_value
from ringfence.model.channels import CALL_DEADLINE_S
from ringfence.model.draft_review import DraftReview, review_draft
from ringfence.model.drafts import Draft, DraftSummary, RoleSignature, SignatureFile
from ringfence.model.errors import ConfigError, PolicyError, RingfenceError
from ringfence.model.key_files import load_signing_key
from ringfence.model.release_manifest import ReleaseManifest, hash_folder
from ringfence.model.trust_chain import TrustedState, delegation, parse_metadata
from ringfence.model.wire import approval_service_pb2 as wire
from ringfence.model.wire.approval_service_pb2_grpc import ApprovalServiceStub
from ringfence.model.wire_errors import from_call


class ApprovalClient:
    """The coordinator's drafts, over the member's own connection.

    Args:
        channel: to the coordinator.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = ApprovalServiceStub(channel)

    def list_drafts(self) -> tuple[DraftSummary, ...]:
        """Return the open drafts, in the coordinator's words.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses.
        """
        try:
            response = self._stub.ListDrafts(wire.ListDraftsRequest(), timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return tuple(summary_value(draft) for draft in response.drafts)

    def get_draft(self, draft_id: str) -> Draft:
        """Return one draft.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses, or there is no such draft.
        """
        try:
            response = self._stub.GetDraft(wire.GetDraftRequest(id=draft_id), timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return draft_value(response.draft)

    def submit(self, draft_id: str, *, signatures: Sequence[RoleSignature]) -> DraftSummary:
        """Send signatures, and return how far the draft has come.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses.
        """
        request = wire.SubmitCountersignatureRequest(
            draft_id=draft_id, signatures=signature_messages(signatures)
        )
        try:
            response = self._stub.SubmitCountersignature(request, timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return summary_value(response.draft)


def trusted_now(home: MemberHome) -> TrustedState | None:
    """Return what this member trusts, from its stored metadata; None before its first welcome.

    Raises:
        NotFoundError: the member joined and has not pulled yet, so that there is nothing to compare a draft with.
        ReleaseError: the stored metadata does not verify.
    """
    if not home.root_file.exists():
        return None
    return load_signed_releases(home).state()


def review(home: MemberHome, *, draft: Draft, unsafe_unseen: bool = False) -> DraftReview:
    """Return what a draft changes, after holding it against the rules and against the candidate that was pulled.

    Args:
        home: the member's folder.
        draft: what the coordinator asks to sign.
        unsafe_unseen: review a release whose files this member never had.

    Raises:
        PolicyError: the draft breaks a rule, or adds a release that no installed candidate equals.
        TamperedError: a document is not metadata.
    """
    found = review_draft(draft, trusted=trusted_now(home))
    if found.added is not None and not unsafe_unseen:
        candidate_of(home, manifest=found.added)
    return found


def candidate_of(home: MemberHome, *, manifest: ReleaseManifest) -> str:
    """Return the version of the installed candidate whose files are those of a manifest, file by file.

    Raises:
        PolicyError: there is none: this member would sign what it never evaluated.
    """
    store = ReleaseStore(home)
    for release in store.list():
        if release.channel == "candidate" and release.installed:
            try:
                folder = store.verify(release.version).folder
            except RingfenceError:
                continue  # a damaged copy proves nothing
            if hash_folder(folder) == manifest.files:
                return release.version
    raise PolicyError(
        f"No candidate that was pulled here has the files of release {manifest.version}.",
        hint="Pull and evaluate it first: ringfence model pull --channel candidate",
    )


def sign_draft(
    home: MemberHome, *, draft: Draft, unsafe_unseen: bool = False, although_declined: bool = False
) -> tuple[RoleSignature, ...]:
    """Review a draft, and sign every document of it that this member's approval key may sign.

    Args:
        home: the member's folder, with the approval key.
        draft: what the coordinator asks to sign.
        unsafe_unseen: sign a release whose files this member never had.
        although_declined: sign what was declined here before.

    Raises:
        PolicyError: the draft breaks a rule, was not evaluated here, was declined here, or asks nothing of this member.
        ConfigError: the approval key is missing or readable by others. The operator's to mend.
    """
    review(home, draft=draft, unsafe_unseen=unsafe_unseen)
    if not although_declined:
        require_not_declined(home, draft=draft)
    trusted = trusted_now(home)
    signer = CryptoSigner(load_signing_key(home.approval_key_file))
    key_id = signer.public_key.keyid
    documents = {document.role: document.metadata.encode() for document in draft.documents}
    root = parse_metadata(documents["root"], Root) if "root" in documents else None
    targets = parse_metadata(documents["targets"], Targets) if "targets" in documents else None
    governing = root.signed if root else trusted.root if trusted else None
    approving = targets.signed if targets else trusted.targets if trusted else None
    signatures = []
    for document in draft.documents:
        entitled: set[str] = set()
        if document.role == "root":
            for known in (governing, trusted.root if trusted else None):
                entitled |= set(known.roles["root"].keyids) if known else set()
        elif document.role == "targets" and governing is not None:
            entitled = set(governing.roles["targets"].keyids)
        elif approving is not None:
            entitled = set(delegation(approving, role="stable").keyids)
        if key_id not in entitled:
            continue
        metadata: Metadata[Root] | Metadata[Targets] = (
            parse_metadata(document.metadata.encode(), Root)
            if document.role == "root"
            else parse_metadata(document.metadata.encode(), Targets)
        )
        if isinstance(metadata.signed, Root) and trusted is None:
            note_agreed_root(home, root=metadata)
        made = signer.sign(metadata.signed_bytes)
        signatures.append(RoleSignature(role=document.role, key_id=key_id, signature=made.signature))
    if not signatures:
        raise PolicyError(
            "The draft asks nothing of this member's approval key.", hint="Ask the coordinator who may sign."
        )
    return tuple(signatures)


def signature_file(draft_id: str, *, signatures: Sequence[RoleSignature]) -> bytes:
    """Return the content of a file of signatures; it holds nothing secret."""
    content = SignatureFile(draft_id=draft_id, signatures=tuple(signatures))
    return (content.model_dump_json(indent=2) + "\n").encode()


def save_signatures(path: Path, *, draft_id: str, signatures: Sequence[RoleSignature]) -> None:
    """Write signatures to a file for the coordinator.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    try:
        path.write_bytes(signature_file(draft_id, signatures=signatures))
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Check the folder.") from error
