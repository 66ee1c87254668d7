"""What an adversary that owns the coordinator, a network or some keys would try against releases: each is refused.

Every row runs over real gRPC with mutual TLS on loopback, against a member that pulled 0.1.0 and scores with it.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from trust_harness import FILES, CuttingProxy, TrustFederation, make_trust_federation
from tuf.api.metadata import Metadata, TargetFile

from ringfence.client.release_fetcher import GrpcFetcher
from ringfence.model.errors import (
    ExpiredError,
    NotFoundError,
    ReleaseError,
    RingfenceError,
    RollbackError,
    TamperedError,
    ThresholdError,
)
from ringfence.server.publication import CoordinatorSigners, load_signers
from ringfence.server.trust_roles import build_targets, named_key


@dataclass(frozen=True)
class Attack:
    """A row: what the adversary does, and what the member's pull ends with."""

    what: str
    act: Callable[[TrustFederation], None]
    expected: type[RingfenceError]
    version: str = "latest"


def serve_an_older_timestamp(federation: TrustFederation) -> None:
    old = (federation.metadata / "timestamp.json").read_bytes()
    federation.release("0.2.0")
    federation.catch_up("gamma")
    federation.write_metadata("timestamp.json", old)


def freeze_the_members_on_expired_metadata(federation: TrustFederation) -> None:
    federation.force(signers_now=federation.clock[0] - timedelta(days=5))
    # Whoever replays old metadata does not hold the key that would renew it.
    (federation.home.keys / "timestamp.key").unlink()


def mix_an_old_list_of_releases_into_a_new_snapshot(federation: TrustFederation) -> None:
    old = (federation.metadata / "2.stable.json").read_bytes()
    federation.release("0.2.0", signers=("acme", "beta"))
    federation.write_metadata("3.stable.json", old)


def change_one_byte_of_a_file(federation: TrustFederation) -> None:
    federation.release("0.2.0", files={**FILES, "model.safetensors": b"other" * 1000})
    for blob in (federation.home.repository / "targets" / "blobs").iterdir():
        content = bytearray(blob.read_bytes())
        content[-1] ^= 1
        blob.write_bytes(bytes(content))


def append_to_a_file(federation: TrustFederation) -> None:
    federation.release("0.2.0", files={**FILES, "model.safetensors": b"other" * 1000})
    for blob in (federation.home.repository / "targets" / "blobs").iterdir():
        blob.write_bytes(blob.read_bytes() + b"more")


def remove_a_file(federation: TrustFederation) -> None:
    federation.release("0.2.0", files={**FILES, "model.safetensors": b"other" * 1000})
    shutil.rmtree(federation.home.repository / "targets" / "blobs")


def publish_with_one_of_two_signatures(federation: TrustFederation) -> None:
    federation.force(stable=stable_with_a_stranger(federation, signers=[federation.approval_signer("acme")]))


def publish_with_one_signature_given_twice(federation: TrustFederation) -> None:
    stable = stable_with_a_stranger(federation, signers=[federation.approval_signer("acme")])
    (signature,) = stable.signatures.values()
    twin = copy.copy(signature)
    twin.keyid = federation.approval_signer("beta").public_key.keyid
    stable.signatures[twin.keyid] = twin
    federation.force(stable=stable)


def publish_with_every_key_of_the_coordinator(federation: TrustFederation) -> None:
    federation.force(
        stable=stable_with_a_stranger(federation, signers=all_keys(load_signers(federation.home)))
    )


def publish_with_the_key_of_a_removed_member(federation: TrustFederation) -> None:
    federation.registry.suspend("gamma")
    federation.catch_up("acme", "beta")
    draft = federation.trust.draft_trust(federation.active)
    federation.sign(draft, "acme", "beta")
    federation.trust.publish(draft.id)
    federation.registry.resume("gamma")  # still served, but approves no longer
    signers = [federation.approval_signer("beta"), federation.approval_signer("gamma")]
    federation.force(stable=stable_with_a_stranger(federation, signers=signers))


def replace_who_governs_with_too_few_keys(federation: TrustFederation) -> None:
    # The coordinator and one member: enough for none of the old root's thresholds.
    root = copy.deepcopy(federation.trust.repository.read().root)
    stranger = CryptoSigner.generate_ed25519()
    root.signed.version += 1
    for role in ("root", "targets"):
        root.signed.add_key(stranger.public_key, role)
    root.signatures.clear()
    for signer in (stranger, load_signers(federation.home).governance, federation.approval_signer("acme")):
        root.sign(signer, append=True)
    federation.force(root=root)


def choose_other_approvers_with_the_coordinators_key_alone(federation: TrustFederation) -> None:
    targets = copy.deepcopy(federation.trust.repository.read().targets)
    signers = load_signers(federation.home)
    stranger = named_key(Ed25519PrivateKey.generate().public_key(), name="acme")
    targets.signed = build_targets(
        signers.public_keys(),
        approvers=[stranger],
        threshold=1,
        version=targets.signed.version + 1,
        now=federation.clock[0],
    )
    targets.signatures.clear()
    targets.sign(signers.governance)
    federation.force(targets=targets)


def list_a_stable_release_among_the_candidates(federation: TrustFederation) -> None:
    candidate = copy.deepcopy(federation.trust.repository.read().candidate)
    candidate.signed.version += 1
    path = "stable/9.9.9.json"
    candidate.signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])
    candidate.signatures.clear()
    candidate.sign(load_signers(federation.home).candidate)
    federation.force(candidate=candidate)


def send_garbage_for_metadata(federation: TrustFederation) -> None:
    federation.write_metadata("timestamp.json", b"\x00" * 500)


def send_endless_metadata(federation: TrustFederation) -> None:
    federation.write_metadata("timestamp.json", b" " * 1_000_000)


def offer_a_withdrawn_release(federation: TrustFederation) -> None:
    federation.yank("0.1.0")


ATTACKS = (
    Attack("rollback to an older timestamp", serve_an_older_timestamp, RollbackError),
    Attack("freeze on expired metadata", freeze_the_members_on_expired_metadata, ExpiredError),
    Attack("mix and match of versions", mix_an_old_list_of_releases_into_a_new_snapshot, RollbackError),
    Attack("one changed byte", change_one_byte_of_a_file, TamperedError),
    Attack("a file made longer", append_to_a_file, TamperedError),
    Attack("a file withheld", remove_a_file, NotFoundError),
    Attack("one of two signatures", publish_with_one_of_two_signatures, ThresholdError),
    Attack("one signature under two names", publish_with_one_signature_given_twice, ThresholdError),
    Attack("all of the coordinator's keys stolen", publish_with_every_key_of_the_coordinator, ThresholdError),
    Attack("a removed member's key", publish_with_the_key_of_a_removed_member, ThresholdError),
    Attack("a new root by too few keys", replace_who_governs_with_too_few_keys, ThresholdError),
    Attack(
        "other approvers by one key", choose_other_approvers_with_the_coordinators_key_alone, ThresholdError
    ),
    Attack(
        "a candidate dressed as stable", list_a_stable_release_among_the_candidates, NotFoundError, "9.9.9"
    ),
    Attack("garbage for metadata", send_garbage_for_metadata, TamperedError),
    Attack("endless metadata", send_endless_metadata, TamperedError),
    Attack("a withdrawn release, by name", offer_a_withdrawn_release, ReleaseError, "0.1.0"),
)


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    """Three members; gamma pulled 0.1.0 and scores with it."""
    made = make_trust_federation(tmp_path)
    made.release("0.1.0")
    with made.serving() as address:
        store = made.store("gamma", address)
        store.use(store.pull().version)
    return made


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.what)
def test_an_attack_ends_in_the_error_that_names_it_and_scoring_goes_on(
    attack: Attack, federation: TrustFederation
) -> None:
    attack.act(federation)
    with federation.serving() as address:
        store = federation.store("gamma", address)
        with pytest.raises(RingfenceError) as caught:
            store.pull(version=attack.version)
    assert type(caught.value) is attack.expected
    assert caught.value.hint
    assert store.current().resolve().name == "0.1.0"
    assert (store.current() / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not list((federation.members["gamma"].releases / "staging").iterdir())


def test_a_member_that_was_attacked_pulls_as_soon_as_the_coordinator_is_honest_again(
    federation: TrustFederation,
) -> None:
    federation.release("0.2.0", files={**FILES, "model.safetensors": b"other" * 1000})
    blobs = sorted((federation.home.repository / "targets" / "blobs").iterdir())
    honest = [blob.read_bytes() for blob in blobs]
    for blob in blobs:
        blob.write_bytes(b"x" * blob.stat().st_size)
    with federation.serving() as address:
        store = federation.store("gamma", address)
        with pytest.raises(TamperedError):
            store.pull()
        for blob, content in zip(blobs, honest, strict=True):
            blob.write_bytes(content)
        assert store.pull().version == "0.2.0"


def test_a_stream_that_is_cut_twice_is_resumed_where_it_stopped(
    federation: TrustFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(range(256)) * 4096 * 8
    federation.release("0.2.0", files={**FILES, "model.safetensors": large})
    fetchers: list[GrpcFetcher] = []
    make = GrpcFetcher.__init__

    def remember(self: GrpcFetcher, *given: object, **named: object) -> None:
        make(self, *given, **named)  # type: ignore[arg-type]
        fetchers.append(self)

    monkeypatch.setattr(GrpcFetcher, "__init__", remember)
    with federation.serving() as address:
        proxy = CuttingProxy(address, cuts=2, after_bytes=3 << 20)
        try:
            installed = federation.store("gamma", proxy.address).pull()
        finally:
            proxy.close()
    assert (installed.folder / "model.safetensors").read_bytes() == large
    assert proxy.cut == 2
    assert sum(fetcher.resumed for fetcher in fetchers) >= 2
    assert not list((federation.members["gamma"].releases / "partial").iterdir())


def test_a_withdrawn_release_is_not_taken_into_use_and_the_next_one_is_latest(
    federation: TrustFederation,
) -> None:
    federation.release("0.2.0", files={**FILES, "README.md": b"next\n"})
    with federation.serving() as address:
        store = federation.store("gamma", address)
        store.pull()
    federation.yank("0.2.0")
    with federation.serving() as address:
        store = federation.store("gamma", address)
        assert store.pull().version == "0.1.0"
        with pytest.raises(ReleaseError, match="withdrawn: wrong thresholds"):
            store.use("0.2.0")


def test_expired_metadata_stops_updates_and_nothing_else(federation: TrustFederation) -> None:
    freeze_the_members_on_expired_metadata(federation)
    with federation.serving() as address:
        store = federation.store("gamma", address)
        with pytest.raises(ExpiredError):
            store.pull()
    assert store.verify("0.1.0").folder == store.current()
    assert store.use("0.1.0").version == "0.1.0"


def stable_with_a_stranger(federation: TrustFederation, *, signers: list[CryptoSigner]) -> Metadata:
    """Return the next list of releases with one that nobody approved."""
    stable = copy.deepcopy(federation.trust.repository.read().stable)
    stable.signed.version += 1
    path = "stable/0.9.0.json"
    stable.signed.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])
    stable.signatures.clear()
    for signer in signers:
        stable.sign(signer, append=True)
    return stable


def all_keys(signers: CoordinatorSigners) -> list[CryptoSigner]:
    return [signers.governance, signers.candidate, signers.snapshot, signers.timestamp]
