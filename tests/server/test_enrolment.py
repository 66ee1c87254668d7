"""Joining by an invitation, over real TLS, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import KINDS
from enrolment_harness import Desk, open_desk

from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.identity import read_identity
from ringfence.client.identity_client import IdentityClient


@pytest.fixture(params=KINDS)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path, kind=request.param) as opened:
        yield opened


def test_one_string_makes_a_company_a_member(desk: Desk) -> None:
    joined = desk.join(desk.invite("acme"), folder="acme", size_class=64)
    assert joined.is_founding
    home = desk.folder("acme")
    assert read_identity(home).identity.spiffe_id == "spiffe://example/member/acme"
    with open_release_channel(home) as channel:
        seen = IdentityClient(channel).who_am_i()
    assert (seen.member, seen.federation, seen.size_class, seen.is_in_fleet) == ("acme", "example", 64, False)
