"""What signing a draft would mean, and the rules that no draft may break: read before every countersignature.

A signer must not rely on the coordinator's summary. Everything here is read from the very bytes that are signed, and
compared with what this member trusted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from ringfence.model.drafts import Draft
from ringfence.model.errors import PolicyError
from ringfence.model.release_manifest import ReleaseManifest, blob_folder, parse_manifest
from ringfence.model.trust_chain import TrustedState, delegation, key_name, parse_metadata, releases_of

LEAST_GOVERNANCE = 2
_STABLE_PATHS = {"stable/*", "blobs/*"}
_CANDIDATE_PATHS = {"candidate/*", "candidate/blobs/*"}
_DO_NOT_SIGN = "Do not sign it. Tell the coordinator, and the other members."


@dataclass(frozen=True, slots=True)
class DraftReview:
    """A draft in plain words.

    Attributes:
        lines: what it changes, one sentence each.
        added: the release that it adds; None if it adds none.
    """

    lines: tuple[str, ...]
    added: ReleaseManifest | None


def review_draft(draft: Draft, *, trusted: TrustedState | None) -> DraftReview:
    """Return what a draft changes, after holding it against the rules.

    Args:
        draft: what the coordinator asks to sign.
        trusted: what this member trusts now; None in the first ceremony, when there is nothing yet.

    Raises:
        PolicyError: the draft breaks a rule: it would let the coordinator decide alone, changes or removes a published
            release, goes back in version, or is not what it says. The coordinator's fault.
        TamperedError: a document is not metadata.
    """
    documents = {document.role: document.metadata.encode() for document in draft.documents}
    if len(documents) != len(draft.documents):
        _refuse("It holds one role twice.")
    root = parse_metadata(documents["root"], Root) if "root" in documents else None
    targets = parse_metadata(documents["targets"], Targets) if "targets" in documents else None
    stable = parse_metadata(documents["stable"], Targets) if "stable" in documents else None
    lines: list[str] = []
    if root is not None:
        lines += _review_root(root, trusted=trusted.root if trusted else None)
    if targets is not None:
        governing = root.signed if root else trusted.root if trusted else None
        lines += _review_targets(targets, root=governing, trusted=trusted.targets if trusted else None)
    added = None
    if stable is not None:
        added, changes = _review_stable(stable, draft=draft, trusted=trusted.stable if trusted else None)
        lines += changes
    elif draft.manifest is not None:
        _refuse("It shows a manifest that nothing in it would sign.")
    return DraftReview(tuple(lines), added)


def _review_root(root: Metadata[Root], *, trusted: Root | None) -> list[str]:
    content = root.signed
    _check_version("root", content.version, before=trusted.version if trusted else 0)
    lines = []
    for role in ("root", "targets"):
        entitled = content.roles[role]
        if entitled.threshold < LEAST_GOVERNANCE or len(set(entitled.keyids)) < LEAST_GOVERNANCE:
            _refuse(f"One key alone could change {role}.")
        lines.append(f"{role}: {_who(content, entitled.keyids, entitled.threshold)} decide")
    if trusted is not None:
        for role in ("snapshot", "timestamp"):
            lines += _changed_daily_key(role, before=trusted, after=content)
    governing = set(content.roles["root"].keyids) | set(content.roles["targets"].keyids)
    if governing & (set(content.roles["snapshot"].keyids) | set(content.roles["timestamp"].keyids)):
        _refuse("A key of daily use would also govern.")
    return lines


def _review_targets(targets: Metadata[Targets], *, root: Root | None, trusted: Targets | None) -> list[str]:
    content = targets.signed
    _check_version("targets", content.version, before=trusted.version if trusted else 0)
    if content.targets:
        _refuse("It would publish files past the members' channel.")
    roles = (content.delegations.roles if content.delegations else None) or {}
    if set(roles) != {"stable", "candidate"}:
        _refuse("It delegates to other roles than stable and candidate.")
    stable, candidate = delegation(content, role="stable"), delegation(content, role="candidate")
    if set(stable.paths or ()) != _STABLE_PATHS or set(candidate.paths or ()) != _CANDIDATE_PATHS:
        _refuse("A channel would reach into another's files.")
    daily = set(candidate.keyids)
    if root is not None:
        daily |= set(root.roles["snapshot"].keyids) | set(root.roles["timestamp"].keyids)
    if daily & set(stable.keyids):
        _refuse("A key of the coordinator's could approve stable releases.")
    if not 1 <= stable.threshold <= len(set(stable.keyids)):
        _refuse("The threshold of stable cannot be met.")
    lines = [f"stable: {_who(content, stable.keyids, stable.threshold)} approve"]
    if trusted is not None:
        lines += _changed_daily_key("candidate", before=trusted, after=content)
        before = delegation(trusted, role="stable")
        for key_id in sorted(set(before.keyids) - set(stable.keyids)):
            lines.append(f"stable: {key_name(trusted, key_id=key_id)} approves no longer")
        for key_id in sorted(set(stable.keyids) - set(before.keyids)):
            lines.append(f"stable: {key_name(content, key_id=key_id)} is new, key {key_id[:16]}")
        if stable.threshold < before.threshold:
            lines.append(f"stable: the threshold FALLS from {before.threshold} to {stable.threshold}")
    return lines


def _changed_daily_key(role: str, *, before: Root | Targets, after: Root | Targets) -> list[str]:
    known = set(before.get_delegated_role(role).keyids)
    new = sorted(set(after.get_delegated_role(role).keyids) - known)
    return [f"{role}: the coordinator signs with another key from now on, {key_id[:16]}" for key_id in new]


def _review_stable(
    stable: Metadata[Targets], *, draft: Draft, trusted: Targets | None
) -> tuple[ReleaseManifest | None, list[str]]:
    content = stable.signed
    _check_version("stable", content.version, before=trusted.version if trusted else 0)
    before = dict(trusted.targets) if trusted else {}
    known = (
        {str(release.version): release for release in releases_of("stable", targets=trusted)}
        if trusted
        else {}
    )
    lines = []
    for path, target in before.items():
        now = content.targets.get(path)
        if now is None or (now.hashes, now.length) != (target.hashes, target.length):
            _refuse("It changes or removes what was published.")
    new = {path: target for path, target in content.targets.items() if path not in before}
    for release in releases_of("stable", targets=content):
        old = known.get(str(release.version))
        if old is not None and old.yanked and not release.yanked:
            _refuse(f"It would bring back release {release.version}, which was withdrawn.")
        if old is not None and release.yanked and not old.yanked:
            lines.append(f"stable: release {release.version} is WITHDRAWN: {release.reason}")
    added = _added_release(new, draft=draft)
    if added is not None:
        lines.append(f"stable: release {added.version} is added, {len(added.files)} files")
        lines += [f"  {file.sha256[:16]}  {name}" for name, file in sorted(added.files.items())]
    if not lines:
        lines.append(f"stable: the same releases, signed anew until {content.expires:%Y-%m-%d}")
    return added, lines


def _added_release(new: dict[str, TargetFile], *, draft: Draft) -> ReleaseManifest | None:
    if draft.manifest is None:
        if new:
            _refuse("It adds files and does not show the release that they belong to.")
        return None
    content = draft.manifest.encode()
    manifest = parse_manifest(content)
    listed = new.get(manifest.target_path)
    expected = TargetFile.from_data(manifest.target_path, content, ["sha256"])
    if (
        manifest.channel != "stable"
        or listed is None
        or (listed.hashes, listed.length)
        != (
            expected.hashes,
            expected.length,
        )
    ):
        _refuse("The manifest that it shows is not the one that would be signed.")
    files = {manifest.blob_path(file): file for file in manifest.files.values()}
    for path, target in new.items():
        file = files.get(path)
        if path != manifest.target_path and (
            file is None or (target.hashes, target.length) != ({"sha256": file.sha256}, file.size_bytes)
        ):
            _refuse("It adds a file that is not part of the release.")
    for path in new:
        if path != manifest.target_path and not path.startswith(f"{blob_folder('stable')}/"):
            _refuse("It adds a second release.")
    return manifest


def _check_version(role: str, version: int, *, before: int) -> None:
    if version != before + 1:
        _refuse(f"Version {version} of {role} does not follow version {before}, which this member knows.")


def _who(delegator: Root | Targets, key_ids: Sequence[str], threshold: int) -> str:
    names = ", ".join(sorted(key_name(delegator, key_id=key_id) for key_id in key_ids))
    return f"{threshold} of {names}"


def _refuse(reason: str) -> NoReturn:
    raise PolicyError(f"The draft breaks a rule. {reason}", hint=_DO_NOT_SIGN)
