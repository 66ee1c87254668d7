"""The agent's ledger: made once, reopened for life, refused in doubt, and one answer for one question."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import MemberLedger, open_member_ledger
from ringfence.model.errors import BudgetError, ConfigError, PeerError
from ringfence.model.key_files import make_signing_key
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import TrainRequest, TrainUpdate
from ringfence.privacy.ledger_anchor import AnchorFile, read_signed_head
from ringfence.privacy.ledger_storage import LedgerStorage
from ringfence.privacy.ledger_terms import LedgerTerms

TERMS = LedgerTerms("conversations")
PLAN = Plan(
    name="run",
    federation="north",
    training=TrainingTerms(feature_set_sha256="0" * 64),
    privacy=PrivacyTerms(noise_multiplier=50.0),
)
NOW = 1_790_000_000.0


def opened(home: MemberHome, *, now: float = NOW) -> MemberLedger:
    return open_member_ledger(
        home, terms=TERMS, anchor_file=home.ledger_anchor_file, federation="north", now=lambda: now
    )


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    made = MemberHome(tmp_path / "acme").create()
    make_signing_key(made.identity_key_file)
    return made


def question(round_: int = 1, *, value: float = 0.0) -> TrainRequest:
    return TrainRequest(
        run="run-1",
        plan=PLAN.canonical_json(),
        signature=b"",
        round=round_,
        attempt=1,
        parameters=np.full(4, value),
    )


def answer(round_: int = 1, *, value: int = 7) -> TrainUpdate:
    return TrainUpdate(
        run="run-1",
        plan_digest=PLAN.digest(),
        round=round_,
        attempt=1,
        update=np.full(4, value, dtype=np.int64),
    )


def charge(ledger: MemberLedger, round_: int = 1, *, value: int = 7) -> TrainUpdate:
    ledger.confirm(b"")
    return ledger.charge(
        question(round_), plan=PLAN, update=answer(round_, value=value), dataset_digest="d" * 64
    )


def test_a_question_is_answered_once_and_repeated_with_the_same_numbers(home: MemberHome) -> None:
    with opened(home) as ledger:
        first = charge(ledger)
        again = charge(ledger, value=8)
        assert (again.update == first.update).all(), "new noise must not leave for the same question"
        known = ledger.released(question())
        assert known is not None
        assert (known.update == first.update).all()
        assert sum(entry.kind == "charge" for entry in ledger.entries()) == 1


def test_the_same_attempt_with_another_model_is_refused(home: MemberHome) -> None:
    with opened(home) as ledger:
        charge(ledger)
        with pytest.raises(PeerError, match="another question"):
            ledger.released(question(value=1.0))


def test_the_head_that_comes_back_must_be_of_this_ledger(home: MemberHome) -> None:
    with opened(home) as ledger:
        head = charge(ledger).ledger_head
        ledger.confirm(head)
    shutil.rmtree(home.ledger_file.parent)
    shutil.rmtree(home.ledger_anchor_file.parent)
    # Ledger and second place both gone: only the coordinator's copy can tell.
    with opened(home) as fresh, pytest.raises(BudgetError, match="behind"):
        fresh.confirm(head)


def forged(**changes: object) -> bytes:
    """Return a head in the agreed form that this member never signed."""
    content = {"ledger": "a" * 64, "seq": 1, "hash": "b" * 64, **changes}
    return b"s" * 64 + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "head",
    [
        forged(),
        forged(seq=0),
        forged(seq=2**70),
        forged(seq=-1),
        b"s" * 64,
        b"s" * 200,
        b"s" * 64 + b"[" * 3000,
        b"short",
    ],
)
def test_a_head_that_nobody_here_signed_and_that_is_not_in_the_chain_is_refused(
    home: MemberHome, head: bytes
) -> None:
    with opened(home) as ledger:
        with pytest.raises(PeerError):
            ledger.confirm(head)
        with pytest.raises(BudgetError, match="has not returned"):
            ledger.charge(question(), plan=PLAN, update=answer(), dataset_digest="d" * 64)


def test_a_member_with_a_new_identity_key_goes_on_with_its_ledger_and_signs_anew(home: MemberHome) -> None:
    with opened(home) as ledger:
        ledger.confirm(charge(ledger, 1).ledger_head)
    with opened(home) as ledger:
        former = ledger.released(question(1))
        assert former is not None
    home.identity_key_file.unlink()
    new = make_signing_key(home.identity_key_file).public_key()
    with opened(home) as ledger:
        with pytest.raises(BudgetError, match="has not returned"):
            ledger.confirm(b"")
        ledger.confirm(former.ledger_head)
        signed = ledger.charge(question(2), plan=PLAN, update=answer(2), dataset_digest="d" * 64).ledger_head
        assert read_signed_head(signed, key=new).seq == 3
        assert sum(entry.kind == "charge" for entry in ledger.entries()) == 2


def test_a_member_that_lost_its_ledger_with_its_key_gets_no_second_budget(home: MemberHome) -> None:
    with opened(home) as ledger:
        head = charge(ledger, 1).ledger_head
    shutil.rmtree(home.ledger_file.parent)
    shutil.rmtree(home.ledger_anchor_file.parent)
    home.identity_key_file.unlink()
    make_signing_key(home.identity_key_file)
    with opened(home) as fresh:
        with pytest.raises(PeerError, match="nor is it in its ledger"):
            fresh.confirm(head)
        with pytest.raises(BudgetError):
            fresh.charge(question(2), plan=PLAN, update=answer(2), dataset_digest="d" * 64)


def test_a_clock_that_was_far_ahead_when_the_ledger_was_made_locks_nothing(home: MemberHome) -> None:
    opened(home, now=NOW + 50 * 365 * 86_400).__exit__(None, None, None)
    with opened(home) as ledger:
        ledger.confirm(b"")
        ledger.check(question(), PLAN)
        charge(ledger)


def test_the_second_places_folder_is_never_made_on_another_disk_that_is_not_mounted(
    home: MemberHome, tmp_path: Path
) -> None:
    for place in (tmp_path / "disk" / "anchor", home.root / ".." / "disk" / "anchor"):
        with pytest.raises(ConfigError, match="second place"):
            open_member_ledger(home, terms=TERMS, anchor_file=place, federation="north", now=lambda: NOW)
        assert not (tmp_path / "disk").exists()


def test_a_restored_backup_is_refused_although_its_chain_is_whole(home: MemberHome, tmp_path: Path) -> None:
    with opened(home) as ledger:
        charge(ledger, 1)
    backup = tmp_path / "backup"
    shutil.copytree(home.ledger_file.parent, backup)
    with opened(home) as ledger:
        charge(ledger, 2)
    shutil.rmtree(home.ledger_file.parent)
    shutil.copytree(backup, home.ledger_file.parent)
    with pytest.raises(BudgetError, match="behind"):
        opened(home)


def _nothing(home: MemberHome) -> None:
    pass


def _empty_file(home: MemberHome) -> None:
    LedgerStorage.create(home.ledger_file).close()


def _empty_file_and_anchor(home: MemberHome) -> None:
    LedgerStorage.create(home.ledger_file).close()
    AnchorFile.create(home.ledger_anchor_file).close()


@pytest.mark.parametrize("left", [_nothing, _empty_file, _empty_file_and_anchor])
def test_a_crash_while_the_ledger_is_made_leaves_something_that_can_be_finished(
    home: MemberHome, left: Callable[[MemberHome], None]
) -> None:
    for folder in (home.ledger_file.parent, home.ledger_anchor_file.parent):
        folder.mkdir(mode=0o700)
    left(home)
    with opened(home) as ledger:
        charge(ledger)
    with opened(home) as ledger:
        assert ledger.released(question()) is not None


@pytest.mark.parametrize("lost", ["ledger", "anchor"])
def test_a_ledger_that_lost_a_half_is_refused_and_not_made_anew(home: MemberHome, lost: str) -> None:
    with opened(home) as ledger:
        charge(ledger, 1)
        charge(ledger, 2)
    shutil.rmtree(home.ledger_file.parent if lost == "ledger" else home.ledger_anchor_file.parent)
    with pytest.raises(BudgetError):
        opened(home)


def test_two_agents_on_one_ledger_are_refused(home: MemberHome) -> None:
    with opened(home), pytest.raises(BudgetError, match="Another process"):
        opened(home)


def test_a_plan_that_the_budget_does_not_hold_is_refused_before_anything_is_computed(
    home: MemberHome,
) -> None:
    # Noise far below what a lifetime of 8 allows for the steps of one round.
    loud = PLAN.model_copy(update={"privacy": replace_noise(1.0)})
    with opened(home) as ledger:
        ledger.confirm(b"")
        with pytest.raises(BudgetError, match="lifetime"):
            ledger.check(replace(question(), plan=loud.canonical_json()), loud)
        assert ledger.entries().__next__().kind == "open"


def replace_noise(noise: float) -> PrivacyTerms:
    return PLAN.privacy.model_copy(update={"noise_multiplier": noise})
