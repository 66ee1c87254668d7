"""The roles of a federation's release repository: who may sign what, with how many keys, for how long.

| role | keys | threshold | expiry |
|---|---|---|---|
| root, targets | the coordinator's governance key and the members' approval keys | k + 1 | 1 year, 6 months |
| stable | one approval key a member, never the coordinator's | k of n | 90 days |
| candidate | the coordinator's | 1 | 30 days |
| snapshot, timestamp | the coordinator's | 1 | 90 days, 48 hours |

"The coordinator and k members" follows for a stable release: clients believe `stable` only in the version that the
coordinator's snapshot lists. Governance takes one key more than a release, so that nobody who could not publish a release
can choose who may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, TargetFile, Targets

from ringfence.model.errors import ConfigError
from ringfence.model.trust_chain import named_key_fields

LIFETIMES: Mapping[str, timedelta] = {
    "root": timedelta(days=365),
    "targets": timedelta(days=182),
    "stable": timedelta(days=90),
    "candidate": timedelta(days=30),
    "snapshot": timedelta(days=90),
    "timestamp": timedelta(hours=48),
}
STABLE_PATHS = ("stable/*", "blobs/*")
CANDIDATE_PATHS = ("candidate/*", "candidate/blobs/*")


@dataclass(frozen=True, slots=True)
class CoordinatorKeys:
    """The public halves of the coordinator's keys.

    Attributes:
        governance: one of the keys of root and targets.
        candidate: vouches for candidates.
        snapshot: says which versions belong together.
        timestamp: says that the snapshot is the newest.
    """

    governance: Key
    candidate: Key
    snapshot: Key
    timestamp: Key


def expires(role: str, *, now: datetime) -> datetime:
    """Return when metadata of a role that is signed now expires, UTC, in whole seconds."""
    return now.replace(microsecond=0) + LIFETIMES[role]


def named_key(public_key: Ed25519PublicKey | str, *, name: str) -> SSlibKey:
    """Return a public key (or its SubjectPublicKeyInfo PEM) as TUF knows it, with a name for people."""
    if isinstance(public_key, str):
        loaded = serialization.load_pem_public_key(public_key.encode())
    else:
        loaded = public_key
    key = SSlibKey.from_crypto(loaded)
    key.unrecognized_fields.update(named_key_fields(name))
    return key


def stable_threshold(members: int, *, wanted: int | None) -> int:
    """Return k of n: what was wanted, else 2, or 1 in a federation of one member.

    Raises:
        ConfigError: no member is active, or k is not within 1 and n. The operator's to mend.
    """
    if members == 0:
        raise ConfigError(
            "No active member can countersign.",
            hint="Let one join first: ringfence-coordinator member invite NAME",
        )
    threshold = min(2, members) if wanted is None else wanted
    if not 1 <= threshold <= members:
        raise ConfigError(
            f"The threshold must lie between 1 and the number of active members, {members}.",
            hint="Choose another --threshold.",
        )
    return threshold


def governance_threshold(members: int, *, stable: int) -> int:
    """Return how many of the coordinator's and the members' keys govern: k + 1, where that leaves a key to lose.

    The coordinator and k members are always enough, and one key never is. With two members it is 2 of 3 instead of all
    three: a lost key must not lock the federation out of its own root.

    Args:
        members: how many approval keys there are, n of k of n.
        stable: k.
    """
    return max(2, min(stable + 1, members))


def build_root(
    keys: CoordinatorKeys, *, approvers: Sequence[Key], threshold: int, version: int, now: datetime
) -> Root:
    """Return the root of trust: governance by the coordinator's key and the members' approval keys.

    Args:
        keys: the coordinator's.
        approvers: one approval key a member, with its name; at least one.
        threshold: of these keys together, from `governance_threshold`.
        version: 1 for the first, then one more each time.
        now: the present, UTC.
    """
    governance = [keys.governance, *approvers]
    identifiers = [key.keyid for key in governance]
    return Root(
        version=version,
        expires=expires("root", now=now),
        keys={key.keyid: key for key in [*governance, keys.snapshot, keys.timestamp]},
        roles={
            "root": Role(list(identifiers), threshold),
            "targets": Role(list(identifiers), threshold),
            "snapshot": Role([keys.snapshot.keyid], 1),
            "timestamp": Role([keys.timestamp.keyid], 1),
        },
        consistent_snapshot=True,
    )


def build_targets(
    keys: CoordinatorKeys, *, approvers: Sequence[Key], threshold: int, version: int, now: datetime
) -> Targets:
    """Return who may approve: the members' keys for stable, the coordinator's for candidates.

    Args:
        keys: the coordinator's.
        approvers: one approval key a member, with its name.
        threshold: k of `approvers`.
        version: 1 for the first, then one more each time.
        now: the present, UTC.
    """
    roles = {
        # Terminating: what stable does not list under its paths is not looked for anywhere else.
        "stable": DelegatedRole(
            "stable", [key.keyid for key in approvers], threshold, True, paths=list(STABLE_PATHS)
        ),
        "candidate": DelegatedRole("candidate", [keys.candidate.keyid], 1, True, paths=list(CANDIDATE_PATHS)),
    }
    delegations = Delegations(keys={key.keyid: key for key in [*approvers, keys.candidate]}, roles=roles)
    return Targets(version=version, expires=expires("targets", now=now), delegations=delegations)


def build_channel(role: str, *, targets: Mapping[str, TargetFile], version: int, now: datetime) -> Targets:
    """Return a channel's list of releases and files.

    Args:
        role: "stable" or "candidate".
        targets: path -> size, hash and notice.
        version: 1 for the first, then one more each time.
        now: the present, UTC.
    """
    return Targets(version=version, expires=expires(role, now=now), targets=dict(targets))
