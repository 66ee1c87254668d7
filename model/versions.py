"""Versions of releases: SemVer on the meaning of the score, and the two channels that they come by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal, get_args

from ringfence.model.errors import ConfigError

Channel = Literal["stable", "candidate"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)

_SEMVER = re.compile(
    r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})"
    r"(?:-((?:0|[1-9][0-9]{0,8}|[0-9]*[a-z-][0-9a-z-]*)(?:\.(?:0|[1-9][0-9]{0,8}|[0-9]*[a-z-][0-9a-z-]*))*))?"
)
_LONGEST = 64


@total_ordering
@dataclass(frozen=True, slots=True)
class ReleaseVersion:
    """A version: major (thresholds void), minor (retrained), patch (packaging), and a candidate's pre-release part.

    Attributes:
        major: 0 or more.
        minor: 0 or more.
        patch: 0 or more.
        prerelease: identifiers after the hyphen, empty for a stable release.
    """

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()

    @property
    def channel(self) -> Channel:
        """The only channel that may carry this version, so that neither can pass for the other."""
        return "candidate" if self.prerelease else "stable"

    def __str__(self) -> str:
        core = f"{self.major}.{self.minor}.{self.patch}"
        return f"{core}-{'.'.join(self.prerelease)}" if self.prerelease else core

    def __lt__(self, other: ReleaseVersion) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        # SemVer 2.0.0, section 11: a pre-release comes before its release; numbers before words.
        parts = tuple(
            (False, int(part), "") if part.isdigit() else (True, 0, part) for part in self.prerelease
        )
        return (self.major, self.minor, self.patch, not self.prerelease, parts)


def parse_version(text: str) -> ReleaseVersion:
    """Read a version such as ``1.2.0`` or ``1.2.0-rc.1`` (lower case, no build part).

    Raises:
        ConfigError: this is not such a version. The writer's fault.
    """
    found = _SEMVER.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ConfigError(f"{text[:_LONGEST]!r} is not a version.", hint="Write it like 1.2.0 or 1.2.0-rc.1.")
    prerelease = tuple(found[4].split(".")) if found[4] else ()
    return ReleaseVersion(int(found[1]), int(found[2]), int(found[3]), prerelease)


def check_channel(version: ReleaseVersion, *, channel: Channel) -> None:
    """Refuse a candidate under a stable version, and the other way round.

    Raises:
        ConfigError: the version belongs to the other channel. The writer's fault.
    """
    if version.channel != channel:
        example = "0.2.0-rc.1" if channel == "candidate" else "0.2.0"
        raise ConfigError(
            f"{version} cannot be a version of the {channel} channel.", hint=f"Write it like {example}."
        )
