"""The coordinator keeps each member's newest ledger head, and only what that member signed; also when its key changes."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from enrolment_harness import Desk, open_desk
from trust_harness import FEDERATION, TrustFederation, make_trust_federation

from ringfence.client.member_ledger import open_member_ledger
from ringfence.model.errors import PeerError
from ringfence.model.key_files import load_signing_key, public_pem
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import TrainRequest, TrainUpdate
from ringfence.privacy.ledger_anchor import read_signed_head, read_unverified_head, sign_head
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.privacy.ledger_terms import LedgerTerms
from ringfence.server.candidate import release_receipts
from ringfence.server.coordinator_database import open_database
from ringfence.server.ledger_heads import LedgerHeads
from ringfence.server.tables import ledger_heads, members

LEDGER = "a" * 64
PLAN = Plan(
    name="run",
    federation=FEDERATION,
    training=TrainingTerms(feature_set_sha256="0" * 64),
    privacy=PrivacyTerms(noise_multiplier=50.0),
)


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


def test_a_member_with_a_new_identity_key_is_held_to_the_head_that_its_old_one_signed(
    federation: TrustFederation,
) -> None:
    database = open_database(federation.home)
    heads = LedgerHeads(database)
    old = load_signing_key(federation.members["gamma"].identity_key_file)
    heads.keep("gamma", signed(old, seq=3))
    key = Ed25519PrivateKey.generate()
    with database.transaction() as connection:
        row = members.update().where(members.c.id == "gamma")
        connection.execute(row.values(identity_public_key=public_pem(key.public_key())))
    assert read_unverified_head(heads.newest("gamma")) == LedgerHead(LEDGER, 3, f"{3:064x}")
    heads.keep("gamma", signed(key, seq=1))
    assert heads.newest("gamma") == signed(old, seq=3), "an older one is not kept, whoever signed it"
    heads.keep("gamma", signed(key, seq=3))
    assert heads.newest("gamma") == signed(key, seq=3), "the same one is kept under the present key"
    heads.keep("gamma", signed(key, seq=4))
    assert heads.newest("gamma") == signed(key, seq=4)
    with pytest.raises(PeerError):
        heads.keep("gamma", signed(old, seq=5))


def test_a_release_has_no_receipt_that_a_members_former_key_signed(federation: TrustFederation) -> None:
    """Whoever checks it knows the present key alone, and would take the member's true word for a forged one."""
    database = open_database(federation.home)
    heads = LedgerHeads(database)
    former, present = (Ed25519PrivateKey.generate() for _ in range(2))

    def has(key: Ed25519PrivateKey) -> None:
        with database.transaction() as connection:
            row = members.update().where(members.c.id == "gamma")
            connection.execute(row.values(identity_public_key=public_pem(key.public_key())))

    def receipts() -> list[tuple[str, str]]:
        found = release_receipts(["acme", "gamma"], heads=heads)
        for receipt in found:
            pem = federation.registry.get(receipt.member).identity_public_key
            key = load_pem_public_key(pem.encode())
            assert isinstance(key, Ed25519PublicKey)
            assert read_signed_head(base64.b64decode(receipt.signature), key=key).hash == receipt.head
        return [(receipt.member, receipt.head) for receipt in found]

    with database.transaction() as connection:
        connection.execute(ledger_heads.delete())
    acme = load_signing_key(federation.members["acme"].identity_key_file)
    heads.keep("acme", signed(acme, seq=1))
    has(former)
    heads.keep("gamma", signed(former, seq=3))
    assert receipts() == [("acme", f"{1:064x}"), ("gamma", f"{3:064x}")]
    has(present)
    assert receipts() == [("acme", f"{1:064x}")], "counted as missing"
    heads.keep("gamma", signed(present, seq=3))
    assert receipts() == [("acme", f"{1:064x}"), ("gamma", f"{3:064x}")]


def test_a_damaged_row_is_mended_by_the_members_next_answer(federation: TrustFederation) -> None:
    database = open_database(federation.home)
    key = load_signing_key(federation.members["beta"].identity_key_file)
    with database.transaction() as connection:
        connection.execute(ledger_heads.delete().where(ledger_heads.c.member == "beta"))
        connection.execute(ledger_heads.insert().values(member="beta", signed_head=b"signed"))
    heads = LedgerHeads(database)
    assert heads.vouched("beta") is None
    heads.keep("beta", signed(key, seq=1))
    assert heads.newest("beta") == signed(key, seq=1)


class Company:
    """A member whose agent answers; its coordinator keeps what it signs and returns it with the next question."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.home = desk.folder(name)
        self._name = name
        self._heads = LedgerHeads(open_database(desk.home))

    def answer(self, round_: int) -> int:
        """Answer one question, and return how many answers the ledger has charged."""
        request = TrainRequest(
            run="run-1",
            plan=PLAN.canonical_json(),
            signature=b"",
            round=round_,
            attempt=1,
            parameters=np.zeros(4),
        )
        update = TrainUpdate(
            run="run-1",
            plan_digest=PLAN.digest(),
            round=round_,
            attempt=1,
            update=np.zeros(4, dtype=np.int64),
        )
        with open_member_ledger(
            self.home,
            terms=LedgerTerms("conversations"),
            anchor_file=self.home.ledger_anchor_file,
            federation=FEDERATION,
            now=time.time,
        ) as ledger:
            ledger.confirm(self._heads.newest(self._name))
            sent = ledger.charge(request, plan=PLAN, update=update, dataset_digest="d" * 64)
            self._heads.keep(self._name, sent.ledger_head)
            return sum(entry.kind == "charge" for entry in ledger.entries())

    def lose_keys(self) -> None:
        shutil.rmtree(self.home.identity)

    def lose_ledger(self) -> None:
        shutil.rmtree(self.home.ledger_file.parent)
        self.home.ledger_anchor_file.unlink()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with open_desk(tmp_path_factory.mktemp("desk")) as opened:
        yield opened


def admit_again(desk: Desk, name: str) -> None:
    """Do what SECURITY.md says of a key that is lost or stolen."""
    desk.membership.suspend(name, reason="its key was stolen")
    desk.membership.remove(name, reason="its key was stolen")
    desk.join(desk.invite(name, again=True), folder=name)


def test_a_member_that_is_admitted_again_with_a_new_key_goes_on_with_its_ledger(desk: Desk) -> None:
    desk.join(desk.invite("rotated"), folder="rotated")
    company = Company(desk, "rotated")
    assert [company.answer(1), company.answer(2)] == [1, 2]
    before = desk.enrolment.members.get("rotated").identity_public_key
    company.lose_keys()
    admit_again(desk, "rotated")
    assert desk.enrolment.members.get("rotated").identity_public_key != before
    assert [company.answer(3), company.answer(4)] == [3, 4], "one ledger, with everything that was spent"


def test_a_member_that_lost_its_ledger_gets_no_fresh_budget_by_being_admitted_again(desk: Desk) -> None:
    desk.join(desk.invite("fresh"), folder="fresh")
    company = Company(desk, "fresh")
    assert company.answer(1) == 1
    company.lose_keys()
    company.lose_ledger()
    admit_again(desk, "fresh")
    for _ in range(2):
        with pytest.raises(PeerError, match="nor is it in its ledger"):
            company.answer(2)


def test_a_member_that_restored_an_old_ledger_is_refused_with_a_new_key_as_well(desk: Desk) -> None:
    desk.join(desk.invite("restored"), folder="restored")
    company = Company(desk, "restored")
    company.answer(1)
    backup = company.home.root / "backup"
    shutil.copytree(company.home.ledger_file.parent, backup / "ledger")
    shutil.copy(company.home.ledger_anchor_file, backup / "anchor")
    company.answer(2)
    company.lose_keys()
    company.lose_ledger()
    shutil.move(backup / "ledger", company.home.ledger_file.parent)
    shutil.move(backup / "anchor", company.home.ledger_anchor_file)
    admit_again(desk, "restored")
    with pytest.raises(PeerError, match="nor is it in its ledger"):
        company.answer(3)
