"""What signed metadata proves, without network, disk or clock.

The same checks serve the coordinator before it publishes, a member offline, and a member that is asked to sign. Fresh
downloads go through ``tuf.ngclient``, which also checks expiry and versions against the past.

Source: The Update Framework specification 1.0.34, sections 5.3 (root), 5.6 (targets) and 5.6.7 (delegations).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from ringfence.model.errors import RollbackError, TamperedError, ThresholdError
from ringfence.model.versions import Channel, ReleaseVersion, parse_version

COORDINATOR = "coordinator"
_NAME_FIELD = "x-ringfence-name"
_TELL = "Do not use it; tell the coordinator, and the other members."
_REASON_LENGTH = 300

_Content = TypeVar("_Content", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True, slots=True)
class TrustedState:
    """Metadata whose signatures were checked from the pinned root on.

    Attributes:
        root: who governs.
        targets: who may approve.
        stable: the stable releases and their files.
    """

    root: Root
    targets: Targets
    stable: Targets


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """A release as signed metadata lists it.

    Attributes:
        version: SemVer.
        manifest: TUF's record of its manifest.
        yanked: withdrawn: never to be installed or taken into use again.
        reason: why it was withdrawn; empty otherwise.
    """

    version: ReleaseVersion
    manifest: TargetFile
    yanked: bool
    reason: str


def check_first_root(content: bytes) -> Metadata[Root]:
    """Return the root of trust, after checking that enough of the keys that it names signed it.

    Raises:
        TamperedError: it is not a TUF root.
        ThresholdError: too few of its keys signed it.
    """
    first = parse_metadata(content, Root)
    _require_signatures(first.signed, role=Root.type, signed=first)
    return first


def follow_roots(pinned: bytes, *, later: Iterable[bytes]) -> Root:
    """Return the newest root, each accepted by the keys of the one before it and by its own.

    Raises:
        TamperedError: one of them is not a TUF root.
        RollbackError: their versions do not follow each other.
        ThresholdError: one of them has too few signatures, old or new.
    """
    trusted = check_first_root(pinned).signed
    for content in later:
        trusted = check_next_root(trusted, following=parse_metadata(content, Root))
    return trusted


def check_next_root(trusted: Root, *, following: Metadata[Root]) -> Root:
    """Return the root that follows a trusted one.

    Raises:
        RollbackError: its version is not the next.
        ThresholdError: too few of the old keys, or of its own, signed it.
    """
    if following.signed.version != trusted.version + 1:
        raise RollbackError("The versions of the root of trust do not follow each other.", hint=_TELL)
    _require_signatures(trusted, role=Root.type, signed=following)
    _require_signatures(following.signed, role=Root.type, signed=following)
    return following.signed


def check_role(delegator: Root | Targets, *, role: str, metadata: Metadata[_Content]) -> _Content:
    """Return a role's content, after checking that enough of the keys that its delegator names signed it.

    Raises:
        ThresholdError: too few did, or the delegator knows no such role.
    """
    _require_signatures(delegator, role=role, signed=metadata)
    return metadata.signed


def parse_metadata(content: bytes, kind: type[_Content]) -> Metadata[_Content]:
    """Read one metadata file of the expected kind; nothing in it is trusted yet.

    Raises:
        TamperedError: it is not metadata, or of another kind.
    """
    try:
        parsed = Metadata[_Content].from_bytes(content)
    except (DeserializationError, RepositoryError) as error:
        raise TamperedError(f"The {kind.type} metadata is not in the agreed form.", hint=_TELL) from error
    if not isinstance(parsed.signed, kind):
        raise TamperedError(f"The {kind.type} metadata is of another kind.", hint=_TELL)
    return parsed


def releases_of(channel: Channel, *, targets: Targets) -> tuple[SignedRelease, ...]:
    """Return the releases that a channel's signed metadata lists, oldest version first.

    Raises:
        TamperedError: an entry is not in the agreed form.
    """
    prefix, suffix = f"{channel}/", ".json"
    found = []
    for path, target in targets.targets.items():
        if not path.startswith(prefix) or not path.endswith(suffix) or path.count("/") != 1:
            continue
        version = parse_version(path[len(prefix) : -len(suffix)])
        if version.channel != channel:
            raise TamperedError(f"{version} stands in the wrong channel.", hint=_TELL)
        notice = target.custom if isinstance(target.custom, dict) else {}
        reason = notice.get("reason")
        found.append(
            SignedRelease(
                version=version,
                manifest=target,
                # Anything but a plain False withdraws it: doubt is on the safe side.
                yanked=notice.get("yanked", False) is not False,
                reason=readable(reason) if isinstance(reason, str) else "",
            )
        )
    return tuple(sorted(found, key=lambda release: release.version))


def delegation(targets: Targets, *, role: str) -> DelegatedRole:
    """Return who may sign a channel.

    Raises:
        TamperedError: the metadata does not say.
    """
    found = (targets.delegations.roles or {}).get(role) if targets.delegations else None
    if found is None:
        raise TamperedError(f"The targets metadata does not say who signs {role}.", hint=_TELL)
    return found


def key_name(delegator: Root | Targets, *, key_id: str) -> str:
    """Return the name that the metadata gives to a key, or the start of its identifier."""
    try:
        name = delegator.get_key(key_id).unrecognized_fields.get(_NAME_FIELD)
    except ValueError:
        name = None
    return readable(name) if isinstance(name, str) else key_id[:12]


def named_key_fields(name: str) -> dict[str, str]:
    """Return the extra fields by which metadata names a key for people."""
    return {_NAME_FIELD: name}


def readable(text: str) -> str:
    """Return text of the other side so that it can be printed: one line, no control characters, at most 300 characters."""
    return "".join(character if character.isprintable() else " " for character in text)[:_REASON_LENGTH]


def _require_signatures(delegator: Root | Targets, *, role: str, signed: Metadata[_Content]) -> None:
    try:
        result = delegator.get_verification_result(role, signed.signed_bytes, signed.signatures)
    except ValueError as error:
        raise ThresholdError(f"Nobody is entitled to sign {role}.", hint=_TELL) from error
    if not result.verified:
        raise ThresholdError(
            f"{role} is signed by {len(result.signed)} of the {result.threshold} keys that it needs.",
            hint=_TELL,
        )
