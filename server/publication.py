"""The next state of the repository: composed, checked as every client will check it, and turned into files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from ringfence.model.errors import ExpiredError, ReleaseError, RollbackError
from ringfence.model.trust_chain import COORDINATOR, check_next_root, check_role
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.release_repository import RepositoryState
from ringfence.server.signing_keys import (
    ROTATED_WITH_MEMBERS,
    KeyName,
    newest_keys,
    next_key_file,
    take_next_key,
)
from ringfence.server.trust_roles import CoordinatorKeys, build_channel, expires, named_key

_ROLES = ("root", "targets", "stable", "candidate", "snapshot", "timestamp")
_DRAFT_AGAIN = "Draft it again."


@dataclass(frozen=True, slots=True)
class CoordinatorSigners:
    """The coordinator's private keys of the release repository.

    Attributes:
        governance: one of the keys of root and targets.
        candidate: vouches for candidates.
        snapshot: says which versions belong together.
        timestamp: says that the snapshot is the newest.
    """

    governance: CryptoSigner
    candidate: CryptoSigner
    snapshot: CryptoSigner
    timestamp: CryptoSigner

    def public_keys(self) -> CoordinatorKeys:
        """Return the public halves."""
        return CoordinatorKeys(
            governance=self.governance.public_key,
            candidate=self.candidate.public_key,
            snapshot=self.snapshot.public_key,
            timestamp=self.timestamp.public_key,
        )


def load_signers(
    home: CoordinatorHome, *, root: Root | None = None, targets: Targets | None = None
) -> CoordinatorSigners:
    """Read the coordinator's keys of the release repository.

    Args:
        home: the coordinator's folder.
        root: under which they sign: of two keys of one role, the one that it names. None for the newest, which the next root
            is to name.
        targets: the same for candidates.

    Raises:
        ConfigError: a key is missing, damaged or readable by others. The operator's to mend.
    """
    delegators: Mapping[KeyName, Root | Targets | None] = {
        "candidate": targets,
        "snapshot": root,
        "timestamp": root,
    }

    def signer(name: KeyName) -> CryptoSigner:
        found = [_signer(key, name=COORDINATOR) for key in newest_keys(home, name=name)]
        delegator = delegators.get(name)
        if delegator is None:
            return found[0]
        entitled = delegator.get_delegated_role(name).keyids
        # None that is entitled: the check before publishing says so, in words.
        return next((one for one in found if one.public_key.keyid in entitled), found[-1])

    return CoordinatorSigners(
        governance=signer("governance"),
        candidate=signer("candidate"),
        snapshot=signer("snapshot"),
        timestamp=signer("timestamp"),
    )


def unentitled_keys(signers: CoordinatorSigners, *, present: RepositoryState) -> tuple[KeyName, ...]:
    """Return the names of the keys that the published state does not name: nobody would believe what they sign."""
    root, targets = present.root.signed, present.targets.signed
    pairs: tuple[tuple[KeyName, CryptoSigner, Root | Targets], ...] = (
        ("candidate", signers.candidate, targets),
        ("snapshot", signers.snapshot, root),
        ("timestamp", signers.timestamp, root),
    )
    return tuple(
        name
        for name, signer, delegator in pairs
        if signer.public_key.keyid not in delegator.get_delegated_role(name).keyids
    )


def settle_keys(home: CoordinatorHome, *, published: RepositoryState) -> tuple[KeyName, ...]:
    """Let keys that waited, and that the published state names, take the place of those before; return their names.

    A crash before this changes nothing: whoever signs takes the key that the state names.
    """
    settled = []
    for name in ROTATED_WITH_MEMBERS:
        if not next_key_file(home, name=name).exists():
            continue
        delegator = published.targets.signed if name == "candidate" else published.root.signed
        waiting = _signer(newest_keys(home, name=name)[0], name=COORDINATOR)
        if waiting.public_key.keyid in delegator.get_delegated_role(name).keyids:
            take_next_key(home, name=name)
            settled.append(name)
    return tuple(settled)


def first_state(
    signers: CoordinatorSigners,
    *,
    root: Metadata[Root],
    targets: Metadata[Targets],
    stable: Metadata[Targets],
    now: datetime,
) -> RepositoryState:
    """Return the first state: the members' first signatures, and no release yet."""
    candidate = sign_candidate({}, signers=signers, version=1, now=now)
    snapshot = _snapshot(signers, targets=targets, stable=stable, candidate=candidate, version=1, now=now)
    timestamp = _timestamp(signers, snapshot=snapshot, version=1, now=now)
    return RepositoryState(root, targets, stable, candidate, snapshot, timestamp)


def next_state(
    signers: CoordinatorSigners,
    *,
    present: RepositoryState,
    root: Metadata[Root] | None = None,
    targets: Metadata[Targets] | None = None,
    stable: Metadata[Targets] | None = None,
    candidate: Metadata[Targets] | None = None,
    now: datetime,
) -> RepositoryState:
    """Return the state after replacing some roles, under a new snapshot and timestamp.

    Where new targets name another key for candidates, what is a candidate now is signed anew by it.
    """
    if targets is not None and candidate is None and not _is_signed_under(targets.signed, present.candidate):
        signed = present.candidate.signed
        candidate = sign_candidate(signed.targets, signers=signers, version=signed.version + 1, now=now)
    changed = replace(
        present,
        root=root or present.root,
        targets=targets or present.targets,
        stable=stable or present.stable,
        candidate=candidate or present.candidate,
    )
    snapshot = _snapshot(
        signers,
        targets=changed.targets,
        stable=changed.stable,
        candidate=changed.candidate,
        version=present.snapshot.signed.version + 1,
        now=now,
    )
    timestamp = _timestamp(signers, snapshot=snapshot, version=present.timestamp.signed.version + 1, now=now)
    return replace(changed, snapshot=snapshot, timestamp=timestamp)


def renewed_timestamp(
    signers: CoordinatorSigners, *, present: RepositoryState, now: datetime, versions: int = 1
) -> RepositoryState:
    """Return the same state under a new timestamp, so that clients know that nothing newer exists.

    Args:
        signers: the coordinator's keys.
        present: the state that is published now.
        now: the present, UTC.
        versions: how many versions later; more than one after a restore, when clients may have seen later ones.
    """
    timestamp = _timestamp(
        signers, snapshot=present.snapshot, version=present.timestamp.signed.version + versions, now=now
    )
    return replace(present, timestamp=timestamp)


def sign_candidate(
    targets: Mapping[str, TargetFile], *, signers: CoordinatorSigners, version: int, now: datetime
) -> Metadata[Targets]:
    """Return the candidate channel, signed by the coordinator alone."""
    metadata = Metadata(build_channel("candidate", targets=targets, version=version, now=now))
    metadata.sign(signers.candidate)
    return metadata


def check_state(
    following: RepositoryState,
    *,
    present: RepositoryState | None,
    holds: Callable[[TargetFile], bool],
    now: datetime,
) -> None:
    """Check a state as every client will, before anybody sees it.

    Args:
        following: the state to be published.
        present: the state that is published now; None before the first.
        holds: whether a listed file is in place.
        now: the present, UTC.

    Raises:
        ThresholdError: a role has too few signatures under the new state's own delegations.
        RollbackError: a version does not follow the present one.
        ExpiredError: a role has expired already.
        ReleaseError: a listed file is not in place.
    """
    if present is None:
        root = check_role(following.root.signed, role="root", metadata=following.root)
    elif following.root.signed_bytes == present.root.signed_bytes:
        root = present.root.signed
    else:
        root = check_next_root(present.root.signed, following=following.root)
    targets = check_role(root, role="targets", metadata=following.targets)
    stable = check_role(targets, role="stable", metadata=following.stable)
    candidate = check_role(targets, role="candidate", metadata=following.candidate)
    snapshot = check_role(root, role="snapshot", metadata=following.snapshot)
    timestamp = check_role(root, role="timestamp", metadata=following.timestamp)
    for role in _ROLES:
        before = getattr(present, role) if present else None
        after = getattr(following, role)
        if before is not None and before.signed_bytes == after.signed_bytes:
            continue
        version = before.signed.version if before else 0
        if after.signed.version != version + 1:
            raise RollbackError(
                f"Version {after.signed.version} of {role} does not follow version {version}.",
                hint=_DRAFT_AGAIN,
            )
        if after.signed.is_expired(now):
            raise ExpiredError(f"The draft's {role} has expired.", hint=_DRAFT_AGAIN)
    listed = {"targets.json": targets, "stable.json": stable, "candidate.json": candidate}
    if any(snapshot.meta[name].version != content.version for name, content in listed.items()):
        raise ReleaseError("The snapshot lists other versions than the state holds.", hint=_DRAFT_AGAIN)
    if timestamp.snapshot_meta.version != snapshot.version:
        raise ReleaseError("The timestamp names another snapshot.", hint=_DRAFT_AGAIN)
    for content in (stable, candidate):
        for target in content.targets.values():
            if not holds(target):
                raise ReleaseError(f"{target.path} is listed but not in place.", hint=_DRAFT_AGAIN)


def files_of(state: RepositoryState, *, present: RepositoryState | None) -> dict[str, bytes]:
    """Return the metadata files that a state adds to the present one, timestamp included."""
    files = {}
    for role in _ROLES[:-1]:
        metadata = getattr(state, role)
        if present is None or metadata.signed_bytes != getattr(present, role).signed_bytes:
            files[f"{metadata.signed.version}.{role}.json"] = metadata.to_bytes()
    files["timestamp.json"] = state.timestamp.to_bytes()
    return files


def _snapshot(
    signers: CoordinatorSigners,
    *,
    targets: Metadata[Targets],
    stable: Metadata[Targets],
    candidate: Metadata[Targets],
    version: int,
    now: datetime,
) -> Metadata[Snapshot]:
    meta = {
        "targets.json": MetaFile(targets.signed.version),
        "stable.json": MetaFile(stable.signed.version),
        "candidate.json": MetaFile(candidate.signed.version),
    }
    metadata = Metadata(Snapshot(version=version, expires=expires("snapshot", now=now), meta=meta))
    metadata.sign(signers.snapshot)
    return metadata


def _timestamp(
    signers: CoordinatorSigners, *, snapshot: Metadata[Snapshot], version: int, now: datetime
) -> Metadata[Timestamp]:
    content = Timestamp(
        version=version,
        expires=expires("timestamp", now=now),
        snapshot_meta=MetaFile(snapshot.signed.version),
    )
    metadata = Metadata(content)
    metadata.sign(signers.timestamp)
    return metadata


def _is_signed_under(targets: Targets, candidate: Metadata[Targets]) -> bool:
    return targets.get_verification_result("candidate", candidate.signed_bytes, candidate.signatures).verified


def _signer(key: Ed25519PrivateKey, *, name: str) -> CryptoSigner:
    return CryptoSigner(key, named_key(key.public_key(), name=name))
