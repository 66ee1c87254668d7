"""The first root of trust at members that joined before there was one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from enrolment_harness import Desk, open_desk

from ringfence.client.approvals import ApprovalClient, sign_draft
from ringfence.client.coordinator_connection import open_release_channel
from ringfence.client.founding import pin_first_root
from ringfence.client.releases import ReleaseStore
from ringfence.model.drafts import Draft
from ringfence.model.errors import ConfigError, PeerError, ReleaseError, TamperedError


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A coordinator with three founding members that have agreed on nothing yet."""
    with open_desk(tmp_path) as opened:
        for name in ("acme", "beta", "gamma"):
            opened.join(opened.invite(name), folder=name)
        yield opened


def sign_online(desk: Desk, draft: Draft, name: str) -> None:
    home = desk.folder(name)
    with open_release_channel(home) as channel:
        client = ApprovalClient(channel)
        client.submit(draft.id, signatures=sign_draft(home, draft=client.get_draft(draft.id)))


def pin(desk: Desk, name: str) -> bool:
    with open_release_channel(desk.folder(name)) as channel:
        return pin_first_root(desk.folder(name), channel=channel)


def agree(desk: Desk, *, signers: tuple[str, ...] = ("acme", "beta")) -> None:
    trust = desk.federation.trust
    draft = trust.draft_trust(desk.federation.active)
    for name in signers:
        sign_online(desk, draft, name)
    trust.publish(draft.id)


def test_founding_members_agree_online_and_pin_what_they_agreed_on(desk: Desk) -> None:
    assert not pin(desk, "acme")
    with pytest.raises(ConfigError, match="no root of trust"):
        ReleaseStore(desk.folder("acme")).refresh()
    agree(desk)
    first = desk.federation.trust.first_root()
    for name in ("acme", "beta", "gamma"):  # gamma did not sign, and stands in it
        assert pin(desk, name)
        assert desk.folder(name).root_file.read_bytes() == first
        ReleaseStore(desk.folder(name)).refresh()


def test_whoever_joins_later_has_the_root_pinned_by_the_invitation(desk: Desk) -> None:
    agree(desk)
    assert not desk.join(desk.invite("delta"), folder="delta").is_founding
    assert desk.folder("delta").root_file.read_bytes() == desk.federation.trust.first_root()
    # A root that the coordinator would rather have is not asked for any more.
    desk.federation.write_metadata("1.root.json", b"{}")
    assert pin(desk, "delta")


def test_another_root_than_the_one_that_was_signed_is_not_pinned(desk: Desk) -> None:
    """A coordinator that shows one root to the signers and publishes another is found by each signer."""
    trust = desk.federation.trust
    shown = trust.draft_trust(desk.federation.active, threshold=3)
    sign_online(desk, shown, "acme")
    published = trust.draft_trust(desk.federation.active, threshold=1, replace=True)
    for name in ("beta", "gamma"):
        sign_online(desk, published, name)
    trust.publish(published.id)
    with pytest.raises(TamperedError, match="another one than this member signed"):
        pin(desk, "acme")
    assert not desk.folder("acme").root_file.exists()
    assert pin(desk, "beta")


def test_a_root_without_this_members_key_is_not_pinned_and_a_new_invitation_helps(desk: Desk) -> None:
    desk.membership.suspend("gamma")
    agree(desk)
    desk.membership.resume("gamma")
    with pytest.raises(TamperedError, match="not in the published root") as caught:
        pin(desk, "gamma")
    assert "new invitation" in caught.value.hint
    desk.join(desk.invite("gamma", again=True), folder="gamma")
    assert pin(desk, "gamma")


@pytest.mark.parametrize("content", [b"{}", b"hello"])
def test_what_is_no_root_is_not_pinned(desk: Desk, content: bytes) -> None:
    agree(desk)
    desk.federation.write_metadata("1.root.json", content)
    with pytest.raises(ReleaseError):
        pin(desk, "acme")
    assert not desk.folder("acme").root_file.exists()


def test_a_damaged_memory_of_what_was_signed_is_not_taken_for_nothing(desk: Desk) -> None:
    agree(desk)
    desk.folder("acme").agreed_roots_file.write_text("[")
    with pytest.raises(ConfigError, match="damaged"):
        pin(desk, "acme")


def test_a_root_that_is_pinned_is_not_replaced_by_an_invitation(desk: Desk, tmp_path: Path) -> None:
    agree(desk)
    assert pin(desk, "acme")
    with open_desk(tmp_path / "other") as other:
        other.federation.members["acme"] = desk.folder("acme")
        invitation = other.invite("acme")
        with pytest.raises(PeerError, match="another root of trust"):
            other.join(invitation, folder="acme")
