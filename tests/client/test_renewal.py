"""The certificate in its week: renewed at two thirds, tried again where that fails, and what is said once it ran out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from enrolment_harness import Desk, open_desk

from ringfence.client.agent import run_agent
from ringfence.client.identity import InstalledIdentity, make_request, read_identity
from ringfence.client.identity_client import renew_identity
from ringfence.client.renewal import Renewal, renewal_due_at, renewing
from ringfence.model.certificates import MemberIdentity
from ringfence.model.errors import ConfigError
from ringfence.server.certificate_authority import load_certificate_authority

START = datetime(2026, 3, 1, tzinfo=UTC)
IDENTITY = InstalledIdentity(MemberIdentity("example", "acme", "pem"), START, START + timedelta(days=7))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as opened:
        opened.join(opened.invite("acme"), folder="acme")
        yield opened


def issue_at(desk: Desk, moment: datetime) -> None:
    """Give acme the certificate that it would have got then."""
    home = desk.folder("acme")
    authority = load_certificate_authority(desk.home, federation="example")
    chain = authority.issue_member_certificate(make_request(home).csr.encode(), member="acme", now=moment)
    home.certificate_file.write_bytes(chain)


def test_a_certificate_is_due_at_two_thirds_of_its_life_and_never_in_its_last_quarter() -> None:
    assert renewal_due_at(IDENTITY, jitter=0.0) == START + timedelta(days=7) * 2 / 3
    assert renewal_due_at(IDENTITY, jitter=0.999) < START + timedelta(days=7) * 3 / 4


def test_it_is_renewed_when_it_is_due_and_not_before(desk: Desk) -> None:
    home = desk.folder("acme")
    clock = [datetime.now(UTC)]
    renewal = Renewal(
        home, renew=lambda: renew_identity(home, now=datetime.now(UTC)), now=lambda: clock[0], jitter=0.5
    )
    before = home.certificate_file.read_bytes()
    assert renewal.step() > 0
    assert home.certificate_file.read_bytes() == before
    clock[0] += timedelta(days=5)
    renewal.step()
    renewed = home.certificate_file.read_bytes()
    assert renewed != before
    assert ("member.renew", "acme") in desk.actions
    assert [path.name for path in home.identity.iterdir() if path.name.startswith(".")] == []


def test_a_renewal_that_fails_is_tried_again_a_little_later_each_time(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    home = desk.folder("acme")
    desk.membership.suspend("acme")
    renewal = Renewal(
        home,
        renew=lambda: renew_identity(home, now=datetime.now(UTC)),
        now=lambda: datetime.now(UTC) + timedelta(days=5),
        jitter=0.0,
    )
    before = home.certificate_file.read_bytes()
    waits = [renewal.step() for _ in range(3)]
    assert waits == sorted(set(waits))
    assert home.certificate_file.read_bytes() == before
    assert "not renewed" in caplog.text
    desk.membership.resume("acme")
    renewal.step()
    assert home.certificate_file.read_bytes() != before


def test_it_is_renewed_in_the_background_while_other_work_goes_on(desk: Desk) -> None:
    home = desk.folder("acme")
    before = home.certificate_file.read_bytes()
    deadline = time.monotonic() + 120
    with renewing(home, now=lambda: datetime.now(UTC) + timedelta(days=6)):
        while home.certificate_file.read_bytes() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert read_identity(home).identity.member == "acme"


def test_an_agent_whose_certificate_ran_out_says_what_both_sides_do_and_goes_on_when_they_did(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    home = desk.folder("acme")
    issue_at(desk, datetime.now(UTC) - timedelta(days=7, hours=12))
    caplog.set_level(logging.INFO, logger="ringfence.agent")
    stop = threading.Event()
    agent = threading.Thread(target=run_agent, args=(home,), kwargs={"stop": stop}, daemon=True)
    agent.start()
    try:
        _wait_for(caplog, "member invite acme --again")
        desk.join(desk.invite("acme", again=True), folder="acme")
        # Past the certificate now, up to the gateway, which nobody serves here.
        _wait_for(caplog, "does not answer")
    finally:
        stop.set()
        agent.join(60)
    assert not agent.is_alive()


def test_a_member_that_left_has_nothing_to_connect_with(desk: Desk) -> None:
    home = desk.folder("acme")
    home.certificate_file.unlink()
    with pytest.raises(ConfigError, match="missing") as caught:
        run_agent(home, stop=threading.Event())
    assert "ringfence join" in caught.value.hint


def _wait_for(caplog: pytest.LogCaptureFixture, words: str) -> None:
    deadline = time.monotonic() + 120
    while words not in caplog.text:
        assert time.monotonic() < deadline, f"{words} not in: {caplog.text}"
        time.sleep(0.05)
