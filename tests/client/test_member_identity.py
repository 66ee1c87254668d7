"""A member's keys, and the welcome that it accepts or not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from trust_harness import TrustFederation, make_trust_federation, prepare_trust_federation

from ringfence.client.identity import accept_welcome, create_identity, read_identity
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import DataSettings, load_member_settings, save_member_settings
from ringfence.model.errors import ConfigError, PeerError, RingfenceError, ThresholdError
from ringfence.model.joining import WelcomeBundle, load_join_request, load_welcome_bundle
from ringfence.model.key_files import signing_key_from_base64
from ringfence.server.certificate_authority import create_certificate_authority
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.welcome import compose_welcome


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    return make_trust_federation(tmp_path)


def welcome_of(federation: TrustFederation, name: str) -> WelcomeBundle:
    return compose_welcome(
        federation.home,
        settings=federation.settings,
        member=federation.registry.get(name),
        now=federation.clock[0],
    )


def test_keys_are_made_here_readable_by_their_owner_alone_and_kept_when_asked_again(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "acme")
    first = create_identity(home, member="acme", request_file=tmp_path / "r.json", size_class=512)
    assert load_join_request(tmp_path / "r.json") == first
    assert "PRIVATE" not in (tmp_path / "r.json").read_text()
    for key in (home.key_file, home.approval_key_file):
        assert key.stat().st_mode & 0o777 == 0o600
    before = home.key_file.read_bytes(), home.approval_key_file.read_bytes()
    create_identity(home, member="acme", request_file=tmp_path / "r.json")
    assert (home.key_file.read_bytes(), home.approval_key_file.read_bytes()) == before


@pytest.mark.parametrize(
    ("member", "size_class"), [("Not A Name", 256), ("../x", 256), ("acme", 300), ("acme", 0)]
)
def test_a_slip_in_the_request_makes_no_key(member: str, size_class: int, tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "home")
    with pytest.raises(ConfigError):
        create_identity(home, member=member, request_file=tmp_path / "r.json", size_class=size_class)
    assert not home.root.exists()


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "acme")
    create_identity(home, member="acme", request_file=tmp_path / "r.json")
    home.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="read by others") as caught:
        create_identity(home, member="acme", request_file=tmp_path / "r.json")
    assert caught.value.hint.startswith("chmod 600")


def test_an_accepted_welcome_tells_the_member_who_it_is_and_what_to_trust(
    federation: TrustFederation,
) -> None:
    home = federation.members["acme"]
    settings = load_member_settings(home, environment={})
    assert (settings.federation, settings.member, settings.demonstration) == ("example", "acme", True)
    signing_key_from_base64(settings.plan_public_key)
    found = read_identity(home)
    assert found.identity.spiffe_id == "spiffe://example/member/acme"
    life = found.expires_at - federation.clock[0]
    assert timedelta(days=6, hours=23) < life <= timedelta(days=7)
    assert json.loads(home.root_file.read_bytes())["signed"]["version"] == 1


def test_a_later_welcome_keeps_the_members_own_settings(federation: TrustFederation) -> None:
    home = federation.members["acme"]
    settings = load_member_settings(home, environment={})
    mine = settings.model_copy(update={"data": DataSettings(files=("chat.jsonl",))})
    save_member_settings(home, settings=mine)
    federation.welcome("acme")
    assert load_member_settings(home, environment={}) == mine


def for_another_member(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    return welcome_of(federation, "beta")


def under_another_name(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    return welcome.model_copy(update={"member": "beta"})


def from_another_federation(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    return welcome.model_copy(update={"federation": "other"})


def with_another_authority(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    home = CoordinatorHome(federation.root / "other").create()
    create_certificate_authority(home, federation="example", now=federation.clock[0])
    return welcome.model_copy(update={"ca": home.ca_file.read_text()})


def with_garbage_for_a_certificate(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    return welcome.model_copy(update={"certificate": "hello"})


def with_another_root(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    other = make_trust_federation(federation.root / "elsewhere")
    root = base64.b64encode(other.trust.first_root()).decode()
    return welcome.model_copy(update={"trust_root": root})


def with_a_root_of_too_few_signatures(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    content = json.loads(welcome.trust_root_bytes())
    content["signatures"] = content["signatures"][:2]
    return welcome.model_copy(update={"trust_root": base64.b64encode(json.dumps(content).encode()).decode()})


def with_an_edited_root(federation: TrustFederation, welcome: WelcomeBundle) -> WelcomeBundle:
    content = json.loads(welcome.trust_root_bytes())
    content["signed"]["roles"]["root"]["threshold"] = 2
    return welcome.model_copy(update={"trust_root": base64.b64encode(json.dumps(content).encode()).decode()})


WELCOMES: tuple[
    tuple[Callable[[TrustFederation, WelcomeBundle], WelcomeBundle], type[RingfenceError]], ...
] = (
    (for_another_member, PeerError),
    (under_another_name, PeerError),
    (from_another_federation, PeerError),
    (with_another_authority, PeerError),
    (with_garbage_for_a_certificate, PeerError),
    (with_another_root, PeerError),
    (with_a_root_of_too_few_signatures, ThresholdError),
    (with_an_edited_root, ThresholdError),
)


@pytest.mark.parametrize(("spoil", "expected"), WELCOMES, ids=lambda value: value.__name__)
def test_a_welcome_that_does_not_fit_is_refused_and_changes_nothing(
    spoil: Callable[[TrustFederation, WelcomeBundle], WelcomeBundle],
    expected: type[RingfenceError],
    federation: TrustFederation,
) -> None:
    home = federation.members["acme"]
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    with pytest.raises(expected) as caught:
        accept_welcome(
            home, welcome=spoil(federation, welcome_of(federation, "acme")), now=federation.clock[0]
        )
    assert caught.value.hint
    assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == before


def test_a_welcome_whose_certificate_has_run_out_is_refused(federation: TrustFederation) -> None:
    welcome = welcome_of(federation, "acme")
    with pytest.raises(PeerError):
        accept_welcome(
            federation.members["acme"], welcome=welcome, now=federation.clock[0] + timedelta(days=8)
        )


def test_nobody_is_welcomed_before_there_is_a_root_of_trust_or_while_suspended(tmp_path: Path) -> None:
    made = prepare_trust_federation(tmp_path)
    with pytest.raises(ConfigError, match="no root of trust"):
        welcome_of(made, "acme")
    made.registry.suspend("acme")
    with pytest.raises(ConfigError, match="suspended"):
        welcome_of(made, "acme")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"x" * (2 << 20)])
def test_a_file_that_is_not_a_welcome_is_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "welcome.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"welcome\.json"):
        load_welcome_bundle(path)
