"""A member's keys, and the certificate and trust that it installs or not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from trust_harness import TrustFederation, make_trust_federation

from ringfence.client.identity import install_identity, make_request, read_identity
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import DataSettings, load_member_settings, save_member_settings
from ringfence.model.errors import ConfigError, PeerError, RingfenceError, ThresholdError
from ringfence.model.joining import TrustBundle
from ringfence.model.key_files import signing_key_from_base64
from ringfence.server.certificate_authority import create_certificate_authority, load_certificate_authority
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.trust_bundle import compose_bundle


@dataclass(frozen=True)
class Welcome:
    """What a member would install: what its invitation pinned, and what was issued."""

    bundle: TrustBundle
    certificate: str

    def with_bundle(self, **changes: object) -> Welcome:
        return replace(self, bundle=self.bundle.model_copy(update=changes))


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    return make_trust_federation(tmp_path)


def welcome_of(federation: TrustFederation, name: str) -> Welcome:
    bundle = compose_bundle(federation.home, settings=federation.settings, now=federation.clock[0])
    return Welcome(bundle, federation.registry.get(name).certificate)


def test_keys_are_made_here_readable_by_their_owner_alone_and_kept_when_asked_again(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "acme")
    first = make_request(home, size_class=512)
    assert "PRIVATE" not in home.request_file.read_text()
    for key in (home.key_file, home.approval_key_file, home.identity_key_file):
        assert key.stat().st_mode & 0o777 == 0o600
    before = home.key_file.read_bytes(), home.approval_key_file.read_bytes()
    assert make_request(home, size_class=512) == first
    other = make_request(home, size_class=256)
    assert other.csr != first.csr
    assert (home.key_file.read_bytes(), home.approval_key_file.read_bytes()) == before


def test_a_damaged_request_is_made_anew(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "acme")
    first = make_request(home)
    home.request_file.write_text("hello")
    again = make_request(home)
    assert (again.csr != first.csr, again.approval_public_key) == (True, first.approval_public_key)


@pytest.mark.parametrize("size_class", [300, 0, -1])
def test_a_slip_in_the_request_makes_no_key(size_class: int, tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "home")
    with pytest.raises(ConfigError):
        make_request(home, size_class=size_class)
    assert not home.root.exists()


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "acme")
    make_request(home)
    home.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="read by others") as caught:
        make_request(home)
    assert caught.value.hint.startswith("chmod 600")


def test_what_is_installed_tells_the_member_who_it_is_and_what_to_trust(
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


def test_joining_again_keeps_the_members_own_settings(federation: TrustFederation) -> None:
    home = federation.members["acme"]
    settings = load_member_settings(home, environment={})
    mine = settings.model_copy(update={"data": DataSettings(files=("chat.jsonl",))})
    save_member_settings(home, settings=mine)
    federation.welcome("acme")
    assert load_member_settings(home, environment={}) == mine


def for_another_member(federation: TrustFederation, welcome: Welcome) -> Welcome:
    return welcome_of(federation, "beta")


def under_another_name(federation: TrustFederation, welcome: Welcome) -> Welcome:
    authority = load_certificate_authority(federation.home, federation="example")
    request = make_request(federation.members["acme"])
    chain = authority.issue_member_certificate(request.csr.encode(), member="beta", now=federation.clock[0])
    return replace(welcome, certificate=chain.decode())


def from_another_federation(federation: TrustFederation, welcome: Welcome) -> Welcome:
    return welcome.with_bundle(federation="other")


def with_another_authority(federation: TrustFederation, welcome: Welcome) -> Welcome:
    home = CoordinatorHome(federation.root / "other").create()
    create_certificate_authority(home, federation="example", now=federation.clock[0])
    return welcome.with_bundle(ca=home.ca_file.read_text())


def with_another_authority_that_issued_the_certificate(
    federation: TrustFederation, welcome: Welcome
) -> Welcome:
    home = CoordinatorHome(federation.root / "other").create()
    authority = create_certificate_authority(home, federation="example", now=federation.clock[0])
    csr = make_request(federation.members["acme"]).csr.encode()
    chain = authority.issue_member_certificate(csr, member="acme", now=federation.clock[0])
    return replace(welcome.with_bundle(ca=home.ca_file.read_text()), certificate=chain.decode())


def with_garbage_for_a_certificate(federation: TrustFederation, welcome: Welcome) -> Welcome:
    return replace(welcome, certificate="hello")


def with_another_root(federation: TrustFederation, welcome: Welcome) -> Welcome:
    other = make_trust_federation(federation.root / "elsewhere")
    return welcome.with_bundle(trust_root=base64.b64encode(other.trust.first_root()).decode())


def with_a_root_that_is_not_base64(federation: TrustFederation, welcome: Welcome) -> Welcome:
    return welcome.with_bundle(trust_root="?")


def with_a_root_of_too_few_signatures(federation: TrustFederation, welcome: Welcome) -> Welcome:
    content = root_of(welcome)
    content["signatures"] = content["signatures"][:2]
    return welcome.with_bundle(trust_root=base64.b64encode(json.dumps(content).encode()).decode())


def with_an_edited_root(federation: TrustFederation, welcome: Welcome) -> Welcome:
    content = root_of(welcome)
    content["signed"]["roles"]["root"]["threshold"] = 2
    return welcome.with_bundle(trust_root=base64.b64encode(json.dumps(content).encode()).decode())


def root_of(welcome: Welcome) -> dict[str, Any]:
    return json.loads(welcome.bundle.trust_root_bytes() or b"")


WELCOMES: tuple[tuple[Callable[[TrustFederation, Welcome], Welcome], type[RingfenceError]], ...] = (
    (for_another_member, PeerError),
    (under_another_name, ConfigError),
    (from_another_federation, PeerError),
    (with_another_authority, PeerError),
    (with_another_authority_that_issued_the_certificate, PeerError),
    (with_garbage_for_a_certificate, PeerError),
    (with_another_root, PeerError),
    (with_a_root_that_is_not_base64, PeerError),
    (with_a_root_of_too_few_signatures, ThresholdError),
    (with_an_edited_root, ThresholdError),
)


@pytest.mark.parametrize(("spoil", "expected"), WELCOMES, ids=lambda value: value.__name__)
def test_a_welcome_that_does_not_fit_is_refused_and_changes_nothing(
    spoil: Callable[[TrustFederation, Welcome], Welcome],
    expected: type[RingfenceError],
    federation: TrustFederation,
) -> None:
    home = federation.members["acme"]
    make_request(home)
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    welcome = spoil(federation, welcome_of(federation, "acme"))
    with pytest.raises(expected) as caught:
        install_identity(
            home, bundle=welcome.bundle, certificate=welcome.certificate, now=federation.clock[0]
        )
    assert caught.value.hint
    assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("apart", [timedelta(days=8), -timedelta(hours=1)])
def test_a_certificate_that_is_not_valid_now_is_refused(
    federation: TrustFederation, apart: timedelta
) -> None:
    welcome = welcome_of(federation, "acme")
    with pytest.raises(PeerError):
        install_identity(
            federation.members["acme"],
            bundle=welcome.bundle,
            certificate=welcome.certificate,
            now=federation.clock[0] + apart,
        )
