"""Between releases as values and ReleaseService's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ringfence.model.errors import PeerError
from ringfence.model.trust_chain import SignedRelease, readable
from ringfence.model.versions import Channel
from ringfence.model.wire import release_service_pb2 as wire

_TO_WIRE: Mapping[Channel, wire.Channel.ValueType] = {
    "stable": wire.CHANNEL_STABLE,
    "candidate": wire.CHANNEL_CANDIDATE,
}
_FROM_WIRE = {number: channel for channel, number in _TO_WIRE.items()}


@dataclass(frozen=True, slots=True)
class OfferedRelease:
    """A release that the coordinator says it offers; only signed metadata proves it.

    Attributes:
        channel: who vouches for it.
        version: SemVer.
        yanked: withdrawn.
        reason: why; empty otherwise.
    """

    channel: Channel
    version: str
    yanked: bool
    reason: str


def list_releases_response(releases: Mapping[Channel, Sequence[SignedRelease]]) -> wire.ListReleasesResponse:
    """Return the message that lists releases."""
    return wire.ListReleasesResponse(
        releases=[
            wire.ReleaseSummary(
                channel=_TO_WIRE[channel],
                version=str(release.version),
                yanked=release.yanked,
                reason=release.reason,
            )
            for channel, found in releases.items()
            for release in found
        ]
    )


def offered_releases(response: wire.ListReleasesResponse) -> tuple[OfferedRelease, ...]:
    """Return the releases that a message lists.

    Raises:
        PeerError: a channel is not one of ours. The coordinator's fault.
    """
    found = []
    for summary in response.releases:
        if summary.channel not in _FROM_WIRE:
            raise PeerError("The coordinator lists an unknown channel.", hint="Check that both versions fit.")
        found.append(
            OfferedRelease(
                channel=_FROM_WIRE[summary.channel],
                version=readable(summary.version),
                yanked=summary.yanked,
                reason=readable(summary.reason),
            )
        )
    return tuple(found)
