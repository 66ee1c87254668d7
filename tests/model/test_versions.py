"""Versions of releases."""

from __future__ import annotations

import pytest

from ringfence.model.errors import ConfigError
from ringfence.model.versions import Channel, check_channel, parse_version

ASCENDING = (
    "0.1.0-rc.1",
    "0.1.0-rc.2",
    "0.1.0-rc.10",
    "0.1.0-rc.10.1",
    "0.1.0-rc.a",
    "0.1.0",
    "0.1.1",
    "0.2.0",
    "0.10.0-alpha",
    "0.10.0",
    "1.0.0",
)


def test_versions_are_ordered_as_semver_says() -> None:
    parsed = [parse_version(text) for text in ASCENDING]
    shuffled = parsed[5:] + parsed[:5]
    assert sorted(shuffled) == parsed
    assert [str(version) for version in parsed] == list(ASCENDING)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-rc..1", "1.2.3-01", "1.2.3+build", "v1.2.3", " 1.2.3",
     "1.2.3\n", "../1.2.3", "1.2.3-RC", "1.2.3-rc/../x", "1." + "2" * 40 + ".3", "1.2.3-" + "a" * 90],
)  # fmt: skip
def test_what_is_not_a_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "channel", "fits"),
    [
        ("1.0.0", "stable", True),
        ("1.0.0-rc.1", "candidate", True),
        ("1.0.0", "candidate", False),
        ("1.0.0-rc.1", "stable", False),
    ],
)
def test_a_candidate_cannot_pass_for_stable_nor_the_other_way_round(
    text: str, channel: Channel, fits: bool
) -> None:
    if fits:
        check_channel(parse_version(text), channel=channel)
    else:
        with pytest.raises(ConfigError):
            check_channel(parse_version(text), channel=channel)
