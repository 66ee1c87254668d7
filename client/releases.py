"""Releases at the member: pull, verify, take into use.

```
releases/
  metadata/                what tuf.ngclient verified
  partial/                 unfinished downloads
  staging/                 releases that are not complete yet
  installed/0.1.0/         a release's files, and beside them 0.1.0.json, its signed manifest
  current -> installed/0.1.0
  before                   the version that was in use before it, to go back to
```

Expired metadata stops updates and nothing else: what is installed can be verified, taken into use and scored with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.member_home import MemberHome
from ringfence.client.release_download import ReleaseSession, expected_manifest
from ringfence.client.signed_releases import SignedReleases, load_signed_releases
from ringfence.model.atomic_file import exclusive, replace_link, write_atomically
from ringfence.model.errors import NotFoundError, PolicyError, ReleaseError, TamperedError
from ringfence.model.release_manifest import ReleaseManifest, check_folder, hash_file
from ringfence.model.versions import CHANNELS, Channel, ReleaseVersion, check_channel, parse_version

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class InstalledRelease:
    """A release whose files lie here.

    Attributes:
        version: SemVer.
        channel: who vouches for it.
        folder: its files.
    """

    version: str
    channel: Channel
    folder: Path


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release as this member knows it.

    Attributes:
        version: SemVer.
        channel: who vouches for it.
        installed: whether its files lie here.
        in_use: whether scoring takes it.
        yanked: withdrawn.
        reason: why; empty otherwise.
    """

    version: str
    channel: Channel
    installed: bool
    in_use: bool
    yanked: bool
    reason: str


class ReleaseStore:
    """The member's releases.

    Args:
        home: the member's folder.
        open_channel: connects to the coordinator; by default with the member's own settings and certificate.
    """

    def __init__(self, home: MemberHome, *, open_channel: Callable[[], grpc.Channel] | None = None) -> None:
        self._home = home
        self._open_channel = open_channel or (lambda: open_release_channel(home))

    def refresh(self, channel: Channel = "stable") -> SignedReleases:
        """Fetch and verify the newest metadata of a channel, without any release.

        Raises:
            ReleaseError: the metadata cannot be trusted, or has expired; see `house_errors`.
            ConnectionFailedError: the coordinator cannot be reached, or does not serve this identity.
        """
        with self._session() as session:
            session.update(channel)
            return load_signed_releases(self._home)

    def pull(self, channel: Channel = "stable", version: str = LATEST) -> InstalledRelease:
        """Download a release, verify every file against signed metadata, and install it; what is in use stays so.

        Args:
            channel: "stable" (countersigned by members) or "candidate" (the coordinator's word alone).
            version: SemVer, or "latest": the highest that was not withdrawn.

        Raises:
            ReleaseError: the release cannot be trusted, was withdrawn or does not exist; see `house_errors`.
            ConnectionFailedError: the coordinator cannot be reached, or does not serve this identity.
            ConfigError: the version is not one of this channel. The operator's to mend.
        """
        wanted = None if version == LATEST else parse_version(version)
        if wanted is not None:
            check_channel(wanted, channel=channel)
        with self._session() as session:
            session.update(channel)
            signed = load_signed_releases(self._home)
            chosen = _latest(signed, channel=channel) if wanted is None else wanted
            release = signed.find(chosen)
            if release.yanked:
                raise ReleaseError(
                    f"Release {chosen} was withdrawn: {release.reason}", hint="Pull another version."
                )
            installed = self._installed(chosen)
            if installed is not None:
                try:
                    self._check(chosen, signed=signed)
                except TamperedError:
                    pass  # the copy here is damaged: a fresh one replaces it
                else:
                    return installed
            session.install(chosen)
        return self._require_installed(chosen)

    def verify(self, version: str) -> InstalledRelease:
        """Check every file of an installed release against the stored, signed metadata. Needs no connection.

        Raises:
            TamperedError: a file is missing, changed or added.
            ThresholdError: the stored metadata is not signed by enough keys.
            NotFoundError: this version is not installed, or no signed metadata lists it.
        """
        chosen = parse_version(version)
        installed = self._require_installed(chosen)
        self._check(chosen, signed=load_signed_releases(self._home))
        return installed

    def use(self, version: str, *, allow_candidate: bool = False) -> InstalledRelease:
        """Verify an installed release and let scoring take it from now on; the switch is one step.

        Args:
            version: SemVer.
            allow_candidate: take a release that only the coordinator vouches for.

        Raises:
            PolicyError: it is a candidate, and candidates were not allowed.
            ReleaseError: it was withdrawn, is not installed, or does not verify.
        """
        chosen = parse_version(version)
        if chosen.channel == "candidate" and not allow_candidate:
            raise PolicyError(
                f"{chosen} is a candidate: no member has countersigned it.",
                hint="Use a stable release, or say --allow-candidate for a trial.",
            )
        with exclusive(self._lock_file()):
            installed = self.verify(version)
            release = load_signed_releases(self._home).find(chosen)
            if release.yanked:
                raise ReleaseError(
                    f"Release {chosen} was withdrawn: {release.reason}",
                    hint="Use another: ringfence model list",
                )
            in_use = self._in_use()
            if in_use is not None and in_use != chosen:
                write_atomically(self._before_file, str(in_use).encode())
            replace_link(self._link, target=f"installed/{chosen}")
        return installed

    def rollback(self, *, allow_candidate: bool = False) -> InstalledRelease:
        """Verify the release that was in use before the present one, and let scoring take it again.

        Done twice, it comes back to where it was. The signed metadata never goes back: a release that was withdrawn stays so.

        Args:
            allow_candidate: go back to a release that only the coordinator vouches for.

        Raises:
            NotFoundError: no other release was in use before.
            PolicyError: it is a candidate, and candidates were not allowed.
            ReleaseError: it was withdrawn, is not installed any more, or does not verify.
        """
        before = self.used_before()
        if before is None:
            raise NotFoundError(
                "No other release was in use here before.",
                hint="List them, and take one into use: ringfence model list, then: ringfence model use VERSION",
            )
        return self.use(before, allow_candidate=allow_candidate)

    def used_before(self) -> str | None:
        """Return the version that was in use before the present one, or None."""
        try:
            before = parse_version(self._before_file.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return None
        return None if before == self._in_use() else str(before)

    def list(self) -> tuple[ListedRelease, ...]:
        """Return every release that is installed here or listed by the stored metadata, oldest version first.

        Raises:
            ThresholdError: the stored metadata is not signed by enough keys.
        """
        in_use = self._in_use()
        found: dict[ReleaseVersion, ListedRelease] = {}
        try:
            signed: SignedReleases | None = load_signed_releases(self._home)
        except NotFoundError:
            signed = None
        for channel in CHANNELS:
            for release in signed.releases(channel) if signed else ():
                found[release.version] = ListedRelease(
                    version=str(release.version),
                    channel=channel,
                    installed=self._installed(release.version) is not None,
                    in_use=release.version == in_use,
                    yanked=release.yanked,
                    reason=release.reason,
                )
        return tuple(found[version] for version in sorted(found))

    def manifest(self, version: str) -> ReleaseManifest:
        """Return the manifest of an installed release, as it was signed.

        Raises:
            NotFoundError: it is not installed.
            TamperedError: the manifest here differs from what was signed.
        """
        chosen = parse_version(version)
        self._require_installed(chosen)
        return self._signed_manifest(chosen, signed=load_signed_releases(self._home))

    def in_use(self) -> str | None:
        """Return the version that scoring takes, or None."""
        version = self._in_use()
        return None if version is None else str(version)

    def current(self) -> Path:
        """Return the folder of the release in use. It was verified when it was taken into use; `verified_current` does so again.

        Raises:
            NotFoundError: none is in use yet.
        """
        version = self._in_use()
        if version is None:
            raise NotFoundError(
                "No release is in use yet.", hint="Pull one and use it: ringfence model pull --use"
            )
        return self._require_installed(version).folder

    def verified_current(self) -> Path:
        """Return the folder of the release in use, every file of which is what was signed. Needs no connection.

        Raises:
            NotFoundError: none is in use yet.
            TamperedError: a file is missing, changed or added since it was taken into use.
            ThresholdError: the stored metadata is not signed by enough keys.
        """
        return self.verify(self.current().name).folder

    @property
    def _link(self) -> Path:
        return self._home.releases / "current"

    @property
    def _before_file(self) -> Path:
        return self._home.releases / "before"

    def _lock_file(self) -> Path:
        self._home.releases.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._home.releases / ".lock"

    def _session(self) -> ReleaseSession:
        return ReleaseSession(self._home, open_channel=self._open_channel, lock_file=self._lock_file())

    def _in_use(self) -> ReleaseVersion | None:
        return parse_version(Path(os.readlink(self._link)).name) if self._link.is_symlink() else None

    def _installed(self, version: ReleaseVersion) -> InstalledRelease | None:
        folder = self._home.releases / "installed" / str(version)
        return InstalledRelease(str(version), version.channel, folder) if folder.is_dir() else None

    def _require_installed(self, version: ReleaseVersion) -> InstalledRelease:
        installed = self._installed(version)
        if installed is None:
            raise NotFoundError(
                f"Release {version} is not installed.",
                hint=f"Pull it: ringfence model pull --channel {version.channel} --version {version}",
            )
        return installed

    def _check(self, version: ReleaseVersion, *, signed: SignedReleases) -> None:
        manifest = self._signed_manifest(version, signed=signed)
        for file in manifest.files.values():
            listed = signed.file(manifest.blob_path(file), channel=version.channel)
            if listed is None or (listed.hashes.get("sha256"), listed.length) != (
                file.sha256,
                file.size_bytes,
            ):
                raise TamperedError(f"A file of release {version} is not signed.", hint="Do not use it.")
        check_folder(self._require_installed(version).folder, manifest=manifest)

    def _signed_manifest(self, version: ReleaseVersion, *, signed: SignedReleases) -> ReleaseManifest:
        path = self._home.releases / "installed" / f"{version}.json"
        listed = signed.find(version).manifest
        try:
            found = hash_file(path)
            content = path.read_bytes()
        except OSError as error:
            raise TamperedError(
                f"The manifest of release {version} is missing.",
                hint="Do not use this copy; pull the release again.",
            ) from error
        if (found.sha256, found.size_bytes) != (listed.hashes.get("sha256"), listed.length):
            raise TamperedError(
                f"The manifest of release {version} differs from what was signed.",
                hint="Do not use this copy; pull the release again.",
            )
        return expected_manifest(content, version=version)


def _latest(signed: SignedReleases, *, channel: Channel) -> ReleaseVersion:
    versions = [release.version for release in signed.releases(channel) if not release.yanked]
    if not versions:
        raise NotFoundError(
            f"There is no {channel} release to pull.", hint="Ask the coordinator when the next one is due."
        )
    return max(versions)
