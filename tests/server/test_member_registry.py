"""One place says who is a member; the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust_harness import TrustFederation, prepare_trust_federation

from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.server.coordinator_database import open_database
from ringfence.server.members import ActiveMembers
from ringfence.server.tables import members


@pytest.fixture
def federation(tmp_path: Path, database_url: str) -> TrustFederation:
    return prepare_trust_federation(tmp_path, database_url=database_url)


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


def test_node_ids_of_64_bits_without_a_sign_survive(federation: TrustFederation) -> None:
    federation.registry.set_node_id("beta", node_id=2**64 - 1)
    assert federation.registry.get("beta").node_id == 2**64 - 1


def test_a_removed_row_is_no_member_any_longer(federation: TrustFederation) -> None:
    registry = federation.registry
    assert len(registry.all()) == 3
    with open_database(federation.home).transaction() as connection:
        connection.execute(members.delete().where(members.c.id == "beta"))
    assert [member.id for member in registry.all()] == ["acme", "gamma"]
    with pytest.raises(ConfigError, match="no member beta"):
        registry.get("beta")


def test_a_damaged_record_stops_the_coordinator_rather_than_serve_the_rest(
    federation: TrustFederation,
) -> None:
    with open_database(federation.home).transaction() as connection:
        connection.execute(members.update().where(members.c.id == "beta").values(size_class=-7))
    for ask in (
        federation.registry.all,
        lambda: federation.registry.get("beta"),
        lambda: federation.registry.find_by_spiffe_id("spiffe://example/member/beta"),
    ):
        with pytest.raises(ConfigError, match="record of the member beta is damaged"):
            ask()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "acme is a member already"),
        ({"id": "delta"}, "This key is acme's already"),
        ({"id": "delta", "certificate_public_key": "other"}, "This approval key is acme's already"),
    ],
)
def test_a_name_or_a_key_that_is_taken_is_refused_and_nothing_is_recorded(
    changed: dict[str, str], says: str, federation: TrustFederation
) -> None:
    before = federation.registry.all()
    with pytest.raises(ConfigError, match=says):
        federation.registry.admit(before[0].model_copy(update=changed))
    assert federation.registry.all() == before
