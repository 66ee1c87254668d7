"""What to do about a new release: a decision without network or disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ringfence.client.releases import ListedRelease
from ringfence.model.versions import ReleaseVersion, parse_version


@dataclass(frozen=True, slots=True)
class ReleaseChoice:
    """What shall be done.

    Attributes:
        action: "use": pull it and score with it; "hold": pull it and let a person decide; "nothing".
        version: which release; "" for nothing.
        reason: in one sentence, for the log and for ``ringfence status``, as it will be true once it is done.
    """

    action: Literal["use", "hold", "nothing"]
    version: str
    reason: str


def choose_release(
    releases: Sequence[ListedRelease],
    *,
    updates: Literal["use", "hold", "off"],
    taken: str | None = None,
) -> ReleaseChoice:
    """Return what a member's policy wants to be done about the releases that the signed metadata lists.

    Within the major version in use a release may be switched to: its scores mean the same. A new major version voids the
    member's thresholds, so a person takes it into use whatever the policy says. A release in use that was withdrawn is left
    for the newest that holds, also if that is an older one. Whoever went back by hand is not brought forward again.

    Args:
        releases: all that this member knows, newest metadata applied.
        updates: the policy's word.
        taken: the version that was last taken into use without a person.
    """
    if updates == "off":
        return ReleaseChoice("nothing", "", "The policy asks for no releases.")
    in_use = next((release for release in releases if release.in_use), None)
    warning = ""
    if in_use is not None and in_use.yanked:
        warning = f" Release {in_use.version} in use was withdrawn: {in_use.reason}"
    newest = _newest(releases)
    if newest is None:
        return ReleaseChoice("nothing", "", f"No stable release is published.{warning}")
    if in_use is not None and not warning and _version(newest) <= _version(in_use):
        return ReleaseChoice("nothing", "", f"Release {in_use.version} in use is the newest.")
    if updates == "hold":
        return ReleaseChoice("hold", newest.version, f"Release {newest.version} waits for a person.{warning}")
    if in_use is not None and _version(newest).major != _version(in_use).major:
        means = "its scores mean something new, and thresholds must be set again."
        return ReleaseChoice(
            "hold", newest.version, f"Release {newest.version} waits for a person: {means}{warning}"
        )
    if newest.version == taken and not warning:
        return ReleaseChoice(
            "hold", newest.version, f"Release {newest.version} waits: a person went back from it."
        )
    return ReleaseChoice("use", newest.version, f"Release {newest.version} is in use.{warning}")


def _newest(releases: Sequence[ListedRelease]) -> ListedRelease | None:
    offered = [release for release in releases if release.channel == "stable" and not release.yanked]
    return max(offered, key=_version, default=None)


def _version(release: ListedRelease) -> ReleaseVersion:
    return parse_version(release.version)
