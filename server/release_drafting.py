"""Writing drafts: who may approve, a new release, a withdrawal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from ringfence.model.drafts import Draft, DraftDocument, DraftRole
from ringfence.model.errors import ConfigError, NotFoundError
from ringfence.model.release_manifest import ReleaseManifest, manifest_path
from ringfence.model.trust_chain import delegation
from ringfence.server.draft_signing import document_text
from ringfence.server.members import Member
from ringfence.server.publication import CoordinatorSigners
from ringfence.server.release_repository import RepositoryState
from ringfence.server.trust_roles import (
    build_channel,
    build_root,
    build_targets,
    governance_threshold,
    named_key,
    stable_threshold,
)


def trust_draft(
    signers: CoordinatorSigners,
    *,
    members: Sequence[Member],
    threshold: int | None,
    present: RepositoryState | None,
    now: datetime,
) -> Draft:
    """Return a draft of who governs and who may approve: the first one, or the next.

    It renews root, targets and stable at once, so that whatever the new approvers must have signed, they sign together.
    The coordinator signs its part of the governance here; that is never enough.

    Args:
        signers: the coordinator's keys.
        members: the active members, whose approval keys are taken.
        threshold: k of n for stable; None keeps the present one, or takes 2.
        present: what is published; None before the first root of trust.
        now: the present, UTC.

    Raises:
        ConfigError: no member is active, or the threshold cannot be met. The operator's to mend.
    """
    approvers = [named_key(member.approval_public_key, name=member.id) for member in members]
    if threshold is None and present is not None:
        threshold = min(delegation(present.targets.signed, role="stable").threshold, max(1, len(approvers)))
    needed = stable_threshold(len(approvers), wanted=threshold)
    keys = signers.public_keys()
    root = Metadata(
        build_root(
            keys,
            approvers=approvers,
            threshold=governance_threshold(len(approvers), stable=needed),
            version=_next(present.root if present else None),
            now=now,
        )
    )
    targets = Metadata(
        build_targets(
            keys,
            approvers=approvers,
            threshold=needed,
            version=_next(present.targets if present else None),
            now=now,
        )
    )
    stable = Metadata(
        build_channel(
            "stable",
            targets=present.stable.signed.targets if present else {},
            version=_next(present.stable if present else None),
            now=now,
        )
    )
    root.sign(signers.governance)
    targets.sign(signers.governance)
    names = ", ".join(member.id for member in members)
    return Draft(
        id=f"trust-{root.signed.version}",
        purpose=_short(f"{needed} of {names} approve stable releases"),
        created_at=now,
        documents=(_document("root", root), _document("targets", targets), _document("stable", stable)),
    )


def release_draft(manifest: ReleaseManifest, *, present: RepositoryState, now: datetime) -> Draft:
    """Return a draft that adds one release to stable and changes nothing else.

    Raises:
        ConfigError: this version was published before. The operator's to mend.
    """
    targets = dict(present.stable.signed.targets)
    if manifest.target_path in targets:
        raise ConfigError(
            f"Release {manifest.version} was published before; a version never changes.",
            hint="Choose the next version.",
        )
    targets.update({target.path: target for target in release_targets(manifest)})
    stable = build_channel("stable", targets=targets, version=_next(present.stable), now=now)
    return Draft(
        id=f"release-{manifest.version}",
        purpose=f"publish release {manifest.version}",
        created_at=now,
        documents=(_document("stable", Metadata(stable)),),
        manifest=manifest.canonical_json().decode("ascii"),
    )


def yank_draft(version: str, *, reason: str, present: RepositoryState, now: datetime) -> Draft:
    """Return a draft that withdraws one stable release and changes nothing else.

    Raises:
        NotFoundError: there is no such release.
        ConfigError: it is withdrawn already, or the reason is empty or too long. The operator's to mend.
    """
    path = manifest_path("stable", version=version)
    old = present.stable.signed.targets.get(path)
    if old is None:
        raise NotFoundError(
            f"There is no stable release {version}.", hint="List them: ringfence-coordinator release list"
        )
    if not reason.strip() or len(reason) > 200 or not reason.isprintable():
        raise ConfigError("The reason must be one line of 1 to 200 characters.", hint="Give a --reason.")
    notice = old.custom if isinstance(old.custom, dict) else {}
    if notice.get("yanked"):
        raise ConfigError(f"Release {version} is withdrawn already.", hint="There is nothing to do.")
    withdrawn = _target(
        path,
        length=old.length,
        sha256=old.hashes["sha256"],
        custom={**notice, "yanked": True, "reason": reason},
    )
    targets = {**present.stable.signed.targets, path: withdrawn}
    stable = build_channel("stable", targets=targets, version=_next(present.stable), now=now)
    return Draft(
        id=f"yank-{version}",
        purpose=_short(f"withdraw release {version}: {reason}"),
        created_at=now,
        documents=(_document("stable", Metadata(stable)),),
    )


def release_targets(manifest: ReleaseManifest) -> list[TargetFile]:
    """Return what TUF records of a release: its manifest first, then each distinct file."""
    listed = TargetFile.from_data(manifest.target_path, manifest.canonical_json(), ["sha256"])
    listed.unrecognized_fields["custom"] = {"version": manifest.version, "yanked": False}
    blobs = {
        manifest.blob_path(file): _target(
            manifest.blob_path(file), length=file.size_bytes, sha256=file.sha256
        )
        for file in manifest.files.values()
    }
    return [listed, *blobs.values()]


def _target(path: str, *, length: int, sha256: str, custom: dict[str, object] | None = None) -> TargetFile:
    fields = {} if custom is None else {"custom": custom}
    return TargetFile(length, {"sha256": sha256}, path, unrecognized_fields=fields)


def _document(role: DraftRole, metadata: Metadata[Root] | Metadata[Targets]) -> DraftDocument:
    return DraftDocument(role=role, metadata=document_text(metadata))


def _next(metadata: Metadata[Root] | Metadata[Targets] | None) -> int:
    return 1 if metadata is None else metadata.signed.version + 1


def _short(purpose: str) -> str:
    return purpose[:300]
