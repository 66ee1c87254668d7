"""The coordinator keeps each member's newest ledger head, and only what that member signed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trust_harness import TrustFederation, make_trust_federation

from ringfence.model.errors import PeerError
from ringfence.model.key_files import load_signing_key
from ringfence.privacy.ledger_anchor import sign_head
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.server.coordinator_database import open_database
from ringfence.server.ledger_heads import LedgerHeads
from ringfence.server.tables import members

LEDGER = "a" * 64


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> TrustFederation:
    return make_trust_federation(tmp_path_factory.mktemp("federation"))


def signed(key: Ed25519PrivateKey, *, seq: int, ledger: str = LEDGER) -> bytes:
    return sign_head(LedgerHead(ledger=ledger, seq=seq, hash=f"{seq:064x}"), key=key)


def test_the_newest_head_is_kept_whatever_the_order_of_arrival(federation: TrustFederation) -> None:
    key = load_signing_key(federation.members["acme"].identity_key_file)
    heads = LedgerHeads(open_database(federation.home))
    for seq, kept in ((3, 3), (2, 3), (3, 3), (5, 5)):
        heads.keep("acme", signed(key, seq=seq))
        assert heads.newest("acme") == signed(key, seq=kept)
    other = signed(key, seq=1, ledger="b" * 64)
    heads.keep("acme", other)  # a new ledger of the same member
    assert heads.newest("acme") == other
    assert heads.newest("beta") == b""


def test_a_head_that_another_signed_is_refused_and_changes_nothing(federation: TrustFederation) -> None:
    own = load_signing_key(federation.members["beta"].identity_key_file)
    heads = LedgerHeads(open_database(federation.home))
    heads.keep("beta", signed(own, seq=3))
    for key in (Ed25519PrivateKey.generate(), load_signing_key(federation.members["acme"].identity_key_file)):
        with pytest.raises(PeerError):
            heads.keep("beta", signed(key, seq=9))
    for garbage in (b"", b"x" * 64, b"x" * 200):
        with pytest.raises(PeerError):
            heads.keep("beta", garbage)
    assert heads.newest("beta") == signed(own, seq=3)


def test_a_member_with_a_new_identity_key_is_not_held_to_the_signature_of_its_old_one(
    federation: TrustFederation,
) -> None:
    database = open_database(federation.home)
    heads = LedgerHeads(database)
    heads.keep("gamma", signed(load_signing_key(federation.members["gamma"].identity_key_file), seq=3))
    key = Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with database.transaction() as connection:
        row = members.update().where(members.c.id == "gamma")
        connection.execute(row.values(identity_public_key=pem.decode()))
    heads.keep("gamma", signed(key, seq=1))
    assert heads.newest("gamma") == signed(key, seq=1)
