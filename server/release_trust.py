"""The federation's release repository as the coordinator works with it.

Members decide what is stable: the coordinator drafts, collects signatures, and publishes what reached its threshold. It
publishes candidates alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import DelegatedRole, Metadata, Role, Root, TargetFile, Targets

from ringfence.model.drafts import Draft, DraftSummary, RoleSignature
from ringfence.model.errors import ConfigError, NotFoundError, PeerError, PolicyError
from ringfence.model.release_manifest import (
    ReleaseManifest,
    blob_folder,
    describe_folder,
    manifest_path,
    parse_manifest,
)
from ringfence.model.trust_chain import SignedRelease, delegation, key_name, releases_of
from ringfence.model.versions import Channel, parse_version
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.draft_signing import content_of, require_complete, summarise, with_signatures
from ringfence.server.draft_store import DraftStore
from ringfence.server.members import Member
from ringfence.server.publication import (
    CoordinatorSigners,
    check_state,
    files_of,
    first_state,
    load_signers,
    next_state,
    renewed_timestamp,
    settle_keys,
    sign_candidate,
)
from ringfence.server.release_drafting import release_draft, release_targets, trust_draft, yank_draft
from ringfence.server.release_repository import ReleaseRepository, RepositoryState
from ringfence.server.trust_roles import LIFETIMES, named_key

DEFAULT_NAME = "ringfence-detector"


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role, as published.

    Attributes:
        role: its name.
        version: of its newest metadata.
        threshold: signatures that it needs.
        keys: names of the keys that may sign it.
        expires_at: UTC.
    """

    role: str
    version: int
    threshold: int
    keys: tuple[str, ...]
    expires_at: datetime


class ReleaseTrust:
    """Drafts, signatures and publications of one coordinator.

    Every change holds the repository's lock, so that commands and the running service can work side by side.

    Args:
        home: the coordinator's folder.
        now: returns the present, UTC.
    """

    def __init__(self, home: CoordinatorHome, *, now: Callable[[], datetime]) -> None:
        self._home = home
        self._now = now
        self.repository = ReleaseRepository(home.repository)
        self._drafts = DraftStore(home.drafts)

    # Drafting.

    def draft_trust(
        self, members: Sequence[Member], *, threshold: int | None = None, replace: bool = False
    ) -> Draft:
        """Draft who governs and who may approve: the active members' approval keys, k of n.

        Args:
            members: the active members.
            threshold: k; None keeps the present one, or takes 2 (1 in a federation of one).
            replace: discard an open draft.

        Raises:
            ConfigError: no member is active, the threshold cannot be met, or another draft is open.
        """
        with self.repository.lock():
            return self._open(
                trust_draft(
                    load_signers(self._home),
                    members=members,
                    threshold=threshold,
                    present=self._present(),
                    now=self._now(),
                ),
                replace=replace,
            )

    def draft_release(
        self, source: Path | str, *, version: str, name: str = DEFAULT_NAME, replace: bool = False
    ) -> Draft:
        """Draft a stable release for the members to countersign.

        Args:
            source: folder of the release, or the version of a published candidate whose very files are taken.
            version: SemVer, without a pre-release part.
            name: of the detector.
            replace: discard an open draft.

        Raises:
            ConfigError: the folder or version is not usable, or another draft is open.
            NotFoundError: there is no such candidate.
        """
        parse_version(version)
        with self.repository.lock():
            present = self.repository.read()
            if isinstance(source, Path):
                manifest = describe_folder(source, name=name, version=version, channel="stable")
                locate: Callable[[str], Path] = lambda file_name: source / file_name  # noqa: E731
            else:
                candidate = self._manifest("candidate", version=source, present=present)
                manifest = ReleaseManifest(
                    name=name, version=version, channel="stable", files=candidate.files
                )
                locate = self._candidate_file(candidate, present=present)
            draft = release_draft(manifest, present=present, now=self._now())
            self._place(manifest, locate=locate)
            return self._open(draft, replace=replace)

    def draft_yank(self, version: str, *, reason: str, replace: bool = False) -> Draft:
        """Draft the withdrawal of a stable release.

        Raises:
            NotFoundError: there is no such release.
            ConfigError: it is withdrawn already, the reason is not usable, or another draft is open.
        """
        with self.repository.lock():
            draft = yank_draft(version, reason=reason, present=self.repository.read(), now=self._now())
            return self._open(draft, replace=replace)

    def drafts(self) -> tuple[DraftSummary, ...]:
        """Return the open drafts and how far they have come."""
        present = self._present()
        return tuple(summarise(draft, state=present) for draft in self._drafts.all())

    def get_draft(self, draft_id: str) -> Draft:
        """Return one draft.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._drafts.get(draft_id)

    def draft_file(self, draft_id: str) -> Path:
        """Return where a draft lies, to hand it to a member as a file."""
        return self._drafts.path(draft_id)

    # Signatures.

    def accept_signatures(
        self,
        draft_id: str,
        *,
        signatures: Sequence[RoleSignature],
        members: Sequence[Member],
        signer: Member | None = None,
    ) -> DraftSummary:
        """Verify a member's signatures and add them to a draft.

        Args:
            draft_id: the draft.
            signatures: one or more, all by one member.
            members: the active members.
            signer: the member that sent them, where the connection says so; None for a file that was handed over.

        Raises:
            NotFoundError: there is no such draft.
            PolicyError: they are not by this member's registered approval key, or by no active member's. The signer's fault.
            PeerError: one of them is not entitled or does not verify. The signer's fault.
        """
        allowed = {
            named_key(member.approval_public_key, name=member.id).keyid
            for member in members
            if signer is None or member.id == signer.id
        }
        for signature in signatures:
            # Also a right signature counts only from its owner: a stolen key is of no use without the certificate.
            if signature.key_id not in allowed:
                raise PolicyError(
                    "This signature is not by the approval key that its sender registered.",
                    hint="Each member signs with its own key, from its own machine.",
                )
        if len({signature.key_id for signature in signatures}) > 1:
            raise PeerError("These signatures are by more than one key.", hint="Send each member's apart.")
        with self.repository.lock():
            present = self._present()
            draft = with_signatures(self._drafts.get(draft_id), signatures=signatures, state=present)
            self._drafts.save(draft)
            return summarise(draft, state=present)

    # Publishing.

    def publish(self, draft_id: str) -> RepositoryState:
        """Publish a draft that reached its thresholds, and return the new state.

        A crash at any point leaves the old state or the new one; running it again is safe.

        Raises:
            NotFoundError: there is no such draft.
            ThresholdError: too few keys signed.
            RollbackError: something else was published since it was drafted.
        """
        with self.repository.lock():
            present = self._present()
            draft = self._drafts.get(draft_id)
            content = content_of(draft)
            if present is not None and _is_published(
                content.root, content.targets, content.stable, present=present
            ):
                settle_keys(self._home, published=present)
                self._drafts.remove(draft_id)  # a crash came between the switch and this line
                return present
            require_complete(summarise(draft, state=present))
            root = content.root or (present.root if present else None)
            targets = content.targets or (present.targets if present else None)
            signers = load_signers(
                self._home,
                root=root.signed if root else None,
                targets=targets.signed if targets else None,
            )
            if present is not None:
                following = next_state(
                    signers,
                    present=present,
                    root=content.root,
                    targets=content.targets,
                    stable=content.stable,
                    now=self._now(),
                )
            elif content.root is not None and content.targets is not None and content.stable is not None:
                following = first_state(
                    signers,
                    root=content.root,
                    targets=content.targets,
                    stable=content.stable,
                    now=self._now(),
                )
            else:
                raise ConfigError(
                    "The first draft must hold root, targets and stable.", hint="Draft it again."
                )
            self._switch(following, present=present)
            settle_keys(self._home, published=following)
            self._drafts.remove(draft_id)
            return following

    def publish_candidate(self, folder: Path, *, version: str, name: str = DEFAULT_NAME) -> ReleaseManifest:
        """Publish a release for the members to evaluate, on the coordinator's word alone, and return its manifest.

        Args:
            folder: the release's files.
            version: SemVer with a pre-release part, such as ``0.2.0-rc.1``.
            name: of the detector.

        Raises:
            ConfigError: the folder or version is not usable, or the version was published before.
        """
        manifest = describe_folder(folder, name=name, version=version, channel="candidate")
        with self.repository.lock():
            present = self.repository.read()
            targets = dict(present.candidate.signed.targets)
            if manifest.target_path in targets:
                raise ConfigError(
                    f"Candidate {version} was published before; a version never changes.",
                    hint="Choose the next version.",
                )
            self._place(manifest, locate=folder.joinpath)
            targets.update({target.path: target for target in release_targets(manifest)})
            signers = self._signers(present)
            candidate = sign_candidate(
                targets, signers=signers, version=present.candidate.signed.version + 1, now=self._now()
            )
            self._switch(
                next_state(signers, present=present, candidate=candidate, now=self._now()), present=present
            )
        return manifest

    def refresh_timestamp(self) -> bool:
        """Sign a new timestamp once half of the present one's life is over; return whether it was time."""
        with self.repository.lock():
            present = self.repository.read()
            now = self._now()
            if present.timestamp.signed.expires - now > LIFETIMES["timestamp"] / 2:
                return False
            self._switch(renewed_timestamp(self._signers(present), present=present, now=now), present=present)
            settle_keys(self._home, published=present)  # where a crash came before it
            return True

    # Reading.

    def releases(self, channel: Channel) -> tuple[SignedRelease, ...]:
        """Return a channel's releases, oldest version first."""
        present = self.repository.read()
        return releases_of(
            channel, targets=(present.stable if channel == "stable" else present.candidate).signed
        )

    def first_root(self) -> bytes:
        """Return version 1 of the root of trust, which welcomes pin.

        Raises:
            ConfigError: there is none yet. The operator's to mend.
        """
        self.repository.read()
        return self.repository.root_versions()[0]

    def status(self) -> tuple[RoleStatus, ...]:
        """Return every role as published: version, threshold, keys and expiry."""
        present = self.repository.read()
        root, targets = present.root.signed, present.targets.signed
        rows = []
        for role in ("root", "targets", "stable", "candidate", "snapshot", "timestamp"):
            delegator: Root | Targets = targets if role in ("stable", "candidate") else root
            entitled: Role | DelegatedRole = delegator.get_delegated_role(role)
            content = getattr(present, role).signed
            rows.append(
                RoleStatus(
                    role=role,
                    version=content.version,
                    threshold=entitled.threshold,
                    keys=tuple(key_name(delegator, key_id=key_id) for key_id in entitled.keyids),
                    expires_at=content.expires,
                )
            )
        return tuple(rows)

    def approvers(self) -> tuple[str, ...]:
        """Return the names of the keys that may countersign a stable release."""
        targets = self.repository.read().targets.signed
        return tuple(key_name(targets, key_id=key_id) for key_id in delegation(targets, role="stable").keyids)

    def _signers(self, present: RepositoryState) -> CoordinatorSigners:
        return load_signers(self._home, root=present.root.signed, targets=present.targets.signed)

    def _present(self) -> RepositoryState | None:
        return self.repository.read() if self.repository.exists else None

    def _open(self, draft: Draft, *, replace: bool) -> Draft:
        # Two open drafts would carry the same next version, and signatures under the loser would be lost.
        others = self._drafts.all()
        if others and not replace:
            raise ConfigError(
                f"The draft {others[0].id} is still open.",
                hint="Publish it first, or discard it with --replace.",
            )
        for other in others:
            self._drafts.remove(other.id)
        self._drafts.save(draft)
        return draft

    def _switch(self, following: RepositoryState, *, present: RepositoryState | None) -> None:
        check_state(following, present=present, holds=self.repository.holds, now=self._now())
        self.repository.switch(files_of(following, present=present))

    def _place(self, manifest: ReleaseManifest, *, locate: Callable[[str], Path]) -> None:
        listed, *_ = targets = release_targets(manifest)
        by_path = {target.path: target for target in targets}
        self.repository.add_artifact(listed, source=manifest.canonical_json())
        for file_name, file in manifest.files.items():
            self.repository.add_artifact(by_path[manifest.blob_path(file)], source=locate(file_name))

    def _manifest(self, channel: Channel, *, version: str, present: RepositoryState) -> ReleaseManifest:
        path = manifest_path(channel, version=version)
        listed = (present.stable if channel == "stable" else present.candidate).signed.targets.get(path)
        found = self.repository.artifact_file(listed.get_prefixed_paths()[0]) if listed else None
        if found is None:
            raise NotFoundError(
                f"There is no {channel} {version}.", hint="List them: ringfence-coordinator release list"
            )
        return parse_manifest(found.read_bytes())

    def _candidate_file(
        self, manifest: ReleaseManifest, *, present: RepositoryState
    ) -> Callable[[str], Path]:
        listed = present.candidate.signed.targets

        def locate(file_name: str) -> Path:
            target: TargetFile = listed[f"{blob_folder('candidate')}/{manifest.files[file_name].sha256}"]
            found = self.repository.artifact_file(target.get_prefixed_paths()[0])
            if found is None:
                raise NotFoundError(
                    f"{file_name} of the candidate is missing.", hint="Restore it from a backup."
                )
            return found

        return locate


def _is_published(
    root: Metadata[Root] | None,
    targets: Metadata[Targets] | None,
    stable: Metadata[Targets] | None,
    *,
    present: RepositoryState,
) -> bool:
    pairs = ((root, present.root), (targets, present.targets), (stable, present.stable))
    return all(
        drafted is None or drafted.signed_bytes == published.signed_bytes for drafted, published in pairs
    )
