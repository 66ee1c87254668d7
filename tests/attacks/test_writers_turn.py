"""Whoever changes the coordinator's database is alone: what a member and a stranger can do to the others' turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import KINDS
from enrolment_harness import Desk, open_desk

from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.identity import make_request
from ringfence.client.identity_client import IdentityClient
from ringfence.model.errors import ConnectionFailedError, TooOftenError
from ringfence.server.coordinator_database import open_database
from ringfence.server.identity_service import RENEWALS_AT_ONCE
from ringfence.server.issued_certificates import IssuedCertificates


@pytest.fixture(params=KINDS)
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    with open_desk(tmp_path, kind=request.param) as opened:
        yield opened


def test_a_member_gets_a_few_certificates_an_hour_and_is_then_told_so(desk: Desk) -> None:
    for name in ("greedy", "other"):
        desk.join(desk.invite(name), folder=name)
    with open_release_channel(desk.folder("greedy")) as channel:
        client = IdentityClient(channel)
        for _ in range(int(RENEWALS_AT_ONCE)):
            client.renew()
        for _ in range(5):
            with pytest.raises(TooOftenError, match="only just now") as caught:
                client.renew()
            assert caught.value.retry_after_s >= 60
        assert client.who_am_i().member == "greedy"  # and everything else it may still ask
    issued = IssuedCertificates(open_database(desk.home))
    assert len(issued.serials("greedy")) == RENEWALS_AT_ONCE + 1
    assert desk.actions.count(("member.renew", "greedy")) == RENEWALS_AT_ONCE
    with open_release_channel(desk.folder("other")) as channel:
        IdentityClient(channel).renew()


def test_a_stranger_with_a_guessed_invitation_does_not_wait_for_the_writers_turn(desk: Desk) -> None:
    """So that it takes none either."""
    desk.join(desk.invite("acme"), folder="acme")
    request = make_request(desk.folder("acme"))
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with open_database(desk.home).transaction():
            taken.set()
            over.wait(120)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(60)
    try:
        with pytest.raises(ConnectionFailedError, match="does not know this invitation"):
            desk.enrolment.enrol(b"guessed" * 3, request)
    finally:
        over.set()
        holder.join(60)
