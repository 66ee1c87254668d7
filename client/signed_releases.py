"""What the stored metadata proves, offline and whatever its expiry: every signature from the pinned root on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Root, TargetFile, Targets

from ringfence.client.member_home import MemberHome
from ringfence.model.errors import ConfigError, NotFoundError
from ringfence.model.trust_chain import (
    SignedRelease,
    TrustedState,
    check_role,
    follow_roots,
    parse_metadata,
    releases_of,
)
from ringfence.model.versions import Channel, ReleaseVersion


@dataclass(frozen=True, slots=True)
class SignedReleases:
    """Stored metadata, verified down to who may approve; each channel is verified when it is asked for.

    Attributes:
        root: who governs.
        targets: who may approve.
        folder: where the metadata lies.
    """

    root: Root
    targets: Targets
    folder: Path

    def channel(self, channel: Channel) -> Targets:
        """Return a channel's releases and files.

        Raises:
            NotFoundError: nothing of this channel was pulled yet.
            ThresholdError: too few of its keys signed it.
            TamperedError: it is not metadata.
        """
        try:
            content = (self.folder / f"{channel}.json").read_bytes()
        except OSError as error:
            raise NotFoundError(
                f"Nothing was pulled from {channel} yet.",
                hint=f"Pull first: ringfence model pull --channel {channel}",
            ) from error
        return check_role(self.targets, role=channel, metadata=parse_metadata(content, Targets))

    def releases(self, channel: Channel) -> tuple[SignedRelease, ...]:
        """Return a channel's releases, oldest version first; none if nothing of it was pulled yet."""
        try:
            return releases_of(channel, targets=self.channel(channel))
        except NotFoundError:
            return ()

    def find(self, version: ReleaseVersion) -> SignedRelease:
        """Return one release.

        Raises:
            NotFoundError: the signed metadata lists none of this version.
        """
        for release in self.releases(version.channel):
            if release.version == version:
                return release
        raise NotFoundError(
            f"There is no signed {version.channel} release {version}.", hint="List them: ringfence model list"
        )

    def file(self, path: str, *, channel: Channel) -> TargetFile | None:
        """Return TUF's record of a file in a channel."""
        return self.channel(channel).targets.get(path)

    def state(self) -> TrustedState:
        """Return what a new draft is compared with."""
        return TrustedState(root=self.root, targets=self.targets, stable=self.channel("stable"))


def load_signed_releases(home: MemberHome) -> SignedReleases:
    """Read the stored metadata and verify it from the pinned root on.

    Raises:
        ConfigError: this member has no root of trust yet. The operator's to mend.
        NotFoundError: nothing was pulled yet.
        ThresholdError: too few keys signed the root or the targets.
        TamperedError: a file is not metadata.
    """
    folder = metadata_folder(home)
    root = follow_roots(pinned_root(home), later=_later_roots(home, folder=folder))
    try:
        content = (folder / "targets.json").read_bytes()
    except OSError as error:
        raise NotFoundError("Nothing was pulled yet.", hint="Pull first: ringfence model pull") from error
    targets = check_role(root, role=Targets.type, metadata=parse_metadata(content, Targets))
    return SignedReleases(root, targets, folder)


def metadata_folder(home: MemberHome) -> Path:
    """Return where ``tuf.ngclient`` keeps the metadata that it verified."""
    return home.releases / "metadata"


def pinned_root(home: MemberHome) -> bytes:
    """Return the root of trust that this member was given when it joined.

    Raises:
        ConfigError: there is none. The operator's to mend.
    """
    try:
        return home.root_file.read_bytes()
    except OSError as error:
        raise ConfigError(
            "This member has no root of trust yet.",
            hint="The founding members agree on it first: ringfence approve list; a new member: ringfence join INVITATION",
        ) from error


def _later_roots(home: MemberHome, *, folder: Path) -> Iterator[bytes]:
    version = parse_metadata(pinned_root(home), Root).signed.version + 1
    while (path := folder / "root_history" / f"{version}.root.json").is_file():
        yield path.read_bytes()
        version += 1
