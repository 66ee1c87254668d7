"""One place says who is a member."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trust_harness import TrustFederation, prepare_trust_federation

from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.server.members import ActiveMembers, MemberRegistry


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    return prepare_trust_federation(tmp_path)


def test_a_member_is_found_by_its_key_whatever_the_line_breaks_and_by_its_identity(
    federation: TrustFederation,
) -> None:
    registry = federation.registry
    acme = registry.get("acme")
    key = acme.certificate_public_key
    for spelling in (key, key.replace("\n", "\r\n"), key.strip()):
        assert registry.find_by_public_key(spelling.encode()) == acme
    assert registry.find_by_spiffe_id("spiffe://example/member/acme") == acme
    assert registry.find_by_spiffe_id("spiffe://example/member/delta") is None
    assert registry.find_by_public_key(acme.approval_public_key.encode()) is None


def test_a_suspension_by_another_process_holds_at_once_and_only_for_that_member(
    federation: TrustFederation,
) -> None:
    here, elsewhere = ActiveMembers(federation.registry), federation.registry
    acme = here.by_spiffe_id("spiffe://example/member/acme")
    elsewhere.suspend("acme")
    for ask in (
        lambda: here.by_spiffe_id(acme.spiffe_id),
        lambda: here.by_public_key(acme.certificate_public_key.encode()),
        lambda: here.by_spiffe_id("spiffe://example/member/unknown"),
    ):
        with pytest.raises(ConnectionFailedError, match="does not serve this identity"):
            ask()
    assert [member.id for member in here.all()] == ["beta", "gamma"]
    elsewhere.resume("acme")
    assert here.by_spiffe_id(acme.spiffe_id) == acme


def test_a_node_id_and_a_new_certificate_are_recorded_without_touching_the_rest(
    federation: TrustFederation,
) -> None:
    before = federation.registry.get("beta")
    changed = federation.registry.set_node_id("beta", node_id=12)
    assert federation.registry.get("beta") == changed == before.model_copy(update={"node_id": 12})
    assert federation.registry.renew("beta", certificate="new").certificate == "new"


def test_a_removed_file_is_no_member_any_longer(federation: TrustFederation) -> None:
    registry = federation.registry
    assert len(registry.all()) == 3
    (federation.home.members / "beta.json").unlink()
    assert [member.id for member in registry.all()] == ["acme", "gamma"]
    with pytest.raises(ConfigError, match="no member beta"):
        registry.get("beta")


@pytest.mark.parametrize("spoil", ["{", "{}", "other name"])
def test_a_damaged_record_stops_the_coordinator_rather_than_admit_anybody(
    spoil: str, federation: TrustFederation
) -> None:
    path = federation.home.members / "beta.json"
    if spoil == "other name":
        path.write_text(json.dumps({**json.loads(path.read_text()), "id": "acme"}))
    else:
        path.write_text(spoil)
    with pytest.raises(ConfigError):
        MemberRegistry(federation.home.members).find_by_spiffe_id("spiffe://example/member/acme")


def test_records_are_readable_by_the_coordinator_alone(federation: TrustFederation) -> None:
    for path in federation.home.members.glob("*.json"):
        assert path.stat().st_mode & 0o777 == 0o600
