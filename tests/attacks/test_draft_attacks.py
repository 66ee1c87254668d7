"""What a coordinator that turned bad would ask members to sign: every such draft is refused before a signature is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trust_harness import FILES, TrustFederation, make_trust_federation, prepare_trust_federation
from tuf.api.metadata import DelegatedRole, Metadata, Root, TargetFile, Targets

from ringfence.client.approvals import review, sign_draft
from ringfence.model.drafts import Draft, DraftDocument, RoleSignature
from ringfence.model.errors import PolicyError, RingfenceError
from ringfence.server.draft_signing import document_text
from ringfence.server.publication import load_signers
from ringfence.server.trust_roles import named_key


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    made = make_trust_federation(tmp_path)
    made.release("0.1.0")
    made.catch_up("acme", "beta", "gamma")
    return made


def edited(draft: Draft, *, role: str, edit: Callable[[Metadata], None]) -> Draft:
    """Return a draft with one document changed, as the coordinator could write it."""
    documents = []
    for document in draft.documents:
        if document.role == role:
            kind: type[Root] | type[Targets] = Root if role == "root" else Targets
            metadata = Metadata[kind].from_bytes(document.metadata.encode())  # type: ignore[valid-type]
            edit(metadata)
            document = DraftDocument(role=document.role, metadata=document_text(metadata))
        documents.append(document)
    return draft.model_copy(update={"documents": tuple(documents)})


def next_release(federation: TrustFederation) -> Draft:
    return federation.trust.draft_release(
        federation.folder("0.2.0", files={**FILES, "README.md": b"two\n"}), version="0.2.0"
    )


def next_trust(federation: TrustFederation) -> Draft:
    return federation.trust.draft_trust(federation.active)


def slip_in_a_file(metadata: Metadata) -> None:
    metadata.signed.targets["blobs/" + "a" * 64] = TargetFile.from_data("blobs/" + "a" * 64, b"x", ["sha256"])


def slip_in_a_second_release(metadata: Metadata) -> None:
    path = "stable/0.9.0.json"
    metadata.signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])


def change_a_published_release(metadata: Metadata) -> None:
    path = "stable/0.1.0.json"
    metadata.signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])


def remove_a_published_release(metadata: Metadata) -> None:
    del metadata.signed.targets["stable/0.1.0.json"]


def swap_a_file_of_the_release(metadata: Metadata) -> None:
    target = metadata.signed.targets["stable/0.2.0.json"]
    target.hashes = {"sha256": "b" * 64}


def go_back_in_version(metadata: Metadata) -> None:
    metadata.signed.version -= 1


def skip_a_version(metadata: Metadata) -> None:
    metadata.signed.version += 1


def let_one_key_govern(metadata: Metadata) -> None:
    metadata.signed.roles["root"].threshold = 1


def let_one_key_choose_approvers(metadata: Metadata) -> None:
    metadata.signed.roles["targets"].threshold = 1


def let_one_key_that_stands_twice_govern(metadata: Metadata) -> None:
    metadata.signed.roles["targets"].keyids = metadata.signed.roles["targets"].keyids[:1]


def let_a_daily_key_govern(metadata: Metadata) -> None:
    metadata.signed.roles["root"].keyids.append(metadata.signed.roles["timestamp"].keyids[0])


def let_the_coordinator_approve(metadata: Metadata) -> None:
    delegations = metadata.signed.delegations
    delegations.roles["stable"].keyids.append(delegations.roles["candidate"].keyids[0])


def let_candidates_reach_into_stable(metadata: Metadata) -> None:
    metadata.signed.delegations.roles["candidate"].paths = ["candidate/*", "candidate/blobs/*", "blobs/*"]


def publish_past_the_channels(metadata: Metadata) -> None:
    slip_in_a_second_release(metadata)


def delegate_to_a_third_role(metadata: Metadata) -> None:
    roles = metadata.signed.delegations.roles
    roles["other"] = DelegatedRole("other", roles["candidate"].keyids, 1, False, paths=["stable/*"])


RELEASE_EDITS = (
    slip_in_a_file,
    slip_in_a_second_release,
    change_a_published_release,
    remove_a_published_release,
    swap_a_file_of_the_release,
    go_back_in_version,
    skip_a_version,
)
TRUST_EDITS = (
    ("root", let_one_key_govern),
    ("root", let_one_key_choose_approvers),
    ("root", let_one_key_that_stands_twice_govern),
    ("root", let_a_daily_key_govern),
    ("root", go_back_in_version),
    ("targets", let_the_coordinator_approve),
    ("targets", let_candidates_reach_into_stable),
    ("targets", publish_past_the_channels),
    ("targets", delegate_to_a_third_role),
    ("targets", skip_a_version),
    ("stable", slip_in_a_file),
    ("stable", remove_a_published_release),
)


@pytest.mark.parametrize("edit", RELEASE_EDITS, ids=lambda edit: edit.__name__)
def test_a_release_draft_that_does_more_than_it_shows_is_not_signed(
    edit: Callable[[Metadata], None], federation: TrustFederation
) -> None:
    draft = next_release(federation)
    assert sign_draft(federation.members["acme"], draft=draft, unsafe_unseen=True)
    with pytest.raises(PolicyError):
        sign_draft(
            federation.members["acme"], draft=edited(draft, role="stable", edit=edit), unsafe_unseen=True
        )


@pytest.mark.parametrize(("role", "edit"), TRUST_EDITS, ids=lambda value: getattr(value, "__name__", value))
def test_a_trust_draft_that_would_let_the_coordinator_decide_alone_is_not_signed(
    role: str, edit: Callable[[Metadata], None], federation: TrustFederation
) -> None:
    draft = next_trust(federation)
    assert sign_draft(federation.members["acme"], draft=draft)
    with pytest.raises(PolicyError):
        sign_draft(federation.members["acme"], draft=edited(draft, role=role, edit=edit))


def test_a_draft_that_would_bring_back_a_withdrawn_release_is_not_signed(federation: TrustFederation) -> None:
    federation.yank("0.1.0")
    federation.catch_up("acme")

    def bring_back(metadata: Metadata) -> None:
        metadata.signed.targets["stable/0.1.0.json"].unrecognized_fields["custom"] = {"yanked": False}

    draft = next_release(federation)
    with pytest.raises(PolicyError, match="bring back"):
        sign_draft(
            federation.members["acme"],
            draft=edited(draft, role="stable", edit=bring_back),
            unsafe_unseen=True,
        )


def test_a_draft_with_another_manifest_than_it_would_sign_is_not_signed(federation: TrustFederation) -> None:
    draft = next_release(federation)
    manifest = json.loads(draft.manifest or "")
    del manifest["files"]["README.md"]
    shown = draft.model_copy(update={"manifest": json.dumps(manifest, sort_keys=True, separators=(",", ":"))})
    hidden = draft.model_copy(update={"manifest": None})
    for lie in (shown, hidden):
        with pytest.raises(PolicyError):
            sign_draft(federation.members["acme"], draft=lie, unsafe_unseen=True)


def test_the_first_ceremony_is_held_against_the_same_rules(tmp_path: Path) -> None:
    made = prepare_trust_federation(tmp_path)
    draft = made.trust.draft_trust(made.active)
    assert sign_draft(made.members["acme"], draft=draft)
    with pytest.raises(PolicyError, match="One key alone"):
        sign_draft(made.members["acme"], draft=edited(draft, role="root", edit=let_one_key_govern))


def test_a_release_that_this_member_never_evaluated_is_not_signed(federation: TrustFederation) -> None:
    acme = federation.members["acme"]
    draft = next_release(federation)
    with pytest.raises(PolicyError, match="No candidate"):
        sign_draft(acme, draft=draft)
    federation.trust.publish_candidate(
        federation.folder("near", files={**FILES, "README.md": b"tw0\n"}), version="0.2.0-rc.1"
    )
    with federation.serving() as address:
        federation.store("acme", address).pull("candidate")
        with pytest.raises(PolicyError, match="No candidate"):
            sign_draft(acme, draft=draft)
        federation.trust.publish_candidate(federation.root / "content" / "0.2.0", version="0.2.0-rc.2")
        store = federation.store("acme", address)
        candidate = store.pull("candidate")
        store.refresh()
    assert sign_draft(acme, draft=draft)
    (candidate.folder / "README.md").write_bytes(b"xxx\n")
    with pytest.raises(PolicyError, match="No candidate"):
        sign_draft(acme, draft=draft)


def test_a_review_says_in_words_what_would_change(federation: TrustFederation) -> None:
    acme = federation.members["acme"]
    found = review(acme, draft=next_release(federation), unsafe_unseen=True)
    assert "stable: release 0.2.0 is added, 3 files" in found.lines
    assert found.added is not None
    federation.registry.suspend("gamma")
    federation.admit("delta")
    trust = federation.trust.draft_trust(federation.active, threshold=1, replace=True)
    text = "\n".join(review(acme, draft=trust).lines)
    assert "1 of acme, beta, delta approve" in text
    assert "gamma approves no longer" in text
    assert "delta is new" in text
    assert "FALLS from 2 to 1" in text
    yank = federation.trust.draft_yank("0.1.0", reason="wrong thresholds", replace=True)
    assert "stable: release 0.1.0 is WITHDRAWN: wrong thresholds" in review(acme, draft=yank).lines


def test_a_stranger_signs_nothing(federation: TrustFederation, tmp_path: Path) -> None:
    federation.admit("delta")
    federation.welcome("delta")
    federation.catch_up("delta")
    with pytest.raises(PolicyError, match="asks nothing"):
        sign_draft(federation.members["delta"], draft=next_release(federation), unsafe_unseen=True)


def test_a_key_under_a_false_name_gains_nothing(federation: TrustFederation) -> None:
    # Names in metadata are for people; a second key called acme is still another key.
    def add_twin(metadata: Metadata) -> None:
        twin = named_key(Ed25519PrivateKey.generate().public_key(), name="acme")
        metadata.signed.add_key(twin, "stable")

    draft = edited(next_trust(federation), role="targets", edit=add_twin)
    lines = review(federation.members["acme"], draft=draft).lines
    assert any("acme is new, key" in line for line in lines)


def test_the_coordinators_own_keys_sign_no_stable_document(federation: TrustFederation) -> None:
    draft = next_release(federation)
    signers = load_signers(federation.home)
    (document,) = draft.documents
    metadata = Metadata[Targets].from_bytes(document.metadata.encode())
    for signer in (signers.governance, signers.candidate, signers.snapshot, signers.timestamp):
        made = signer.sign(metadata.signed_bytes)
        forged = RoleSignature(role="stable", key_id=made.keyid, signature=made.signature)
        with pytest.raises(RingfenceError):
            federation.trust.accept_signatures(draft.id, signatures=[forged], members=federation.active)
