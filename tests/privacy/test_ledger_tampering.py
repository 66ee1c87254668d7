"""Ledgers that were restored, reset, forged or deprived of their memory: each is refused, and named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.model.errors import BudgetError
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_amendment import sign_amendment
from ringfence.privacy.ledger_chain import LedgerHead, next_entry
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.renyi_filter import SampledGaussian

NOW = 1_800_000_000.0
OFFICER = Ed25519PrivateKey.generate()
RUN = SampledGaussian(2, 1.0, 100.0, 300)
TERMS = LedgerTerms("acme", limits=LedgerLimits(noise_floor=50.0, returned_head_required=False))


def charge(number: int, **changes) -> Charge:
    values = {
        "key": release_key("r", round_number=number, attempt=1),
        "plan_digest": "a" * 64,
        "dataset_digest": "d" * 64,
        "cohort": 3,
        "mechanism": RUN,
        "own_noise_multiplier": 100.0,
    }
    return Charge(**{**values, **changes})


def open_ledger(folder: Path, *, lineage: str = "acme", now: float = NOW) -> Ledger:
    return Ledger.open(folder / "ledger.db", anchor_path=folder / "anchor", lineage=lineage, now=now)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a ledger of three charges that is not open."""
    place = tmp_path / "member"
    place.mkdir(mode=0o700)
    with Ledger.create(place / "ledger.db", anchor_path=place / "anchor", terms=TERMS, now=NOW) as ledger:
        for number in range(3):
            ledger.charge(charge(number), b"payload %d" % number, now=NOW + number)
    return place


def code_of(action) -> str:
    with pytest.raises(BudgetError) as caught:
        action()
    assert caught.value.hint
    return caught.value.code


class TestARestoredBackup:
    def backup(self, folder: Path, tmp_path: Path, *, charges_after: int = 1) -> tuple[Path, LedgerHead]:
        copy = tmp_path / "backup"
        shutil.copytree(folder, copy)
        with open_ledger(folder) as ledger:
            for number in range(10, 10 + charges_after):
                ledger.charge(charge(number), b"later", now=NOW + 20)
                ledger.mark_sent(charge(number).key)
            head = ledger.head
        return copy, head

    def test_of_the_ledger_alone_is_refused_by_the_second_place(self, folder, tmp_path):
        copy, _ = self.backup(folder, tmp_path)
        shutil.copy(copy / "ledger.db", folder / "ledger.db")
        for journal in folder.glob("ledger.db-*"):
            journal.unlink()
        assert code_of(lambda: open_ledger(folder, now=NOW + 30)) == "ledger_behind"

    @pytest.mark.parametrize("charges_after", [1, 2, 3])
    def test_of_both_is_refused_by_the_head_that_the_coordinator_returns(
        self, folder, tmp_path, charges_after
    ):
        copy, head = self.backup(folder, tmp_path, charges_after=charges_after)
        with open_ledger(copy, now=NOW + 30) as ledger:
            assert code_of(lambda: ledger.confirm(head)) == "ledger_behind"

    def test_that_was_used_before_the_head_came_back_is_refused_as_well(self, folder, tmp_path):
        copy, head = self.backup(folder, tmp_path)
        with open_ledger(copy, now=NOW + 30) as ledger:
            ledger.charge(charge(50), b"forked history", now=NOW + 30)
            assert ledger.head.seq == head.seq
            assert code_of(lambda: ledger.confirm(head)) == "ledger_behind"

    def test_of_nothing_at_all_is_refused_by_the_head_that_the_coordinator_returns(self, folder, tmp_path):
        with open_ledger(folder) as ledger:
            head = ledger.head
        fresh = tmp_path / "fresh"
        fresh.mkdir(mode=0o700)
        with Ledger.create(fresh / "ledger.db", anchor_path=fresh / "anchor", terms=TERMS, now=NOW) as ledger:
            assert code_of(lambda: ledger.confirm(head)) == "ledger_behind"

    def test_cannot_be_made_by_creating_a_new_ledger_beside_the_old_anchor(self, folder):
        def create():
            return Ledger.create(folder / "ledger.db", anchor_path=folder / "anchor", terms=TERMS, now=NOW)

        assert code_of(create) == "ledger_exists"
        for file in folder.glob("ledger.db*"):
            file.unlink()
        assert code_of(create) == "ledger_exists"
        assert code_of(lambda: open_ledger(folder)) in ("ledger_behind", "ledger_damaged")

    def test_cannot_be_made_by_creating_a_new_ledger_over_one_with_entries(self, folder, tmp_path):
        def create_again():
            return Ledger.create(folder / "ledger.db", anchor_path=tmp_path / "new", terms=TERMS, now=NOW)

        assert code_of(create_again) == "ledger_exists"
        with open_ledger(folder) as ledger:
            assert ledger.head.seq == 4

    def test_and_a_replayed_old_head_do_no_harm_to_a_sound_ledger(self, folder):
        with open_ledger(folder) as ledger:
            old = LedgerHead(ledger.head.ledger, 2, list(ledger.entries())[1].hash)
            ledger.confirm(old)
            ledger.charge(charge(9), b"x", now=NOW + 9)


class TestTheReturnedHead:
    @pytest.fixture
    def strict(self, tmp_path) -> Path:
        terms = replace(
            TERMS,
            limits=replace(TERMS.limits, returned_head_required=True),
            data_protection_key=OFFICER.public_key().public_bytes_raw().hex(),
        )
        with Ledger.create(
            tmp_path / "ledger.db", anchor_path=tmp_path / "anchor", terms=terms, now=NOW
        ) as ledger:
            assert code_of(lambda: ledger.charge(charge(1), b"x", now=NOW)) == "ledger_not_confirmed"
            ledger.confirm(None)  # the first join: the coordinator knows no head, and nothing was ever sent
            ledger.charge(charge(1), b"x", now=NOW)
            ledger.mark_sent(charge(1).key)
        return tmp_path

    def test_is_asked_for_after_each_start(self, strict):
        with open_ledger(strict) as ledger:
            assert code_of(lambda: ledger.charge(charge(2), b"x", now=NOW)) == "ledger_not_confirmed"
            assert ledger.charge(charge(1), b"y", now=NOW) == b"x"
            ledger.confirm(ledger.head)
            ledger.charge(charge(2), b"x", now=NOW)

    def test_cannot_be_withheld_once_it_was_returned(self, strict):
        with open_ledger(strict) as ledger:
            ledger.confirm(ledger.head)
        with open_ledger(strict) as ledger:
            assert code_of(lambda: ledger.confirm(None)) == "ledger_not_confirmed"
            assert code_of(lambda: ledger.charge(charge(2), b"x", now=NOW)) == "ledger_not_confirmed"

    def test_that_never_came_back_is_not_waited_for_because_the_first_answer_may_have_been_lost(self, strict):
        """Killed after it marked its first answer as sent, and before a byte of it left."""
        with open_ledger(strict) as ledger:
            ledger.confirm(None)
            ledger.charge(charge(2), b"x", now=NOW)

    def test_is_not_asked_for_again_by_an_older_question_while_the_ledger_is_held(self, strict):
        with open_ledger(strict) as ledger:
            ledger.confirm(ledger.head)
            ledger.confirm(None)
            ledger.charge(charge(2), b"x", now=NOW)

    def test_that_was_lost_is_done_without_once_the_officer_vouches_for_this_one_and_until_one_is_returned(
        self, strict
    ):
        with open_ledger(strict) as ledger:
            ledger.confirm(ledger.head)
        with open_ledger(strict) as ledger:
            present = ledger.state.terms
            ledger.amend(present, signature=sign_amendment(ledger.head, present, key=OFFICER), now=NOW)
        for number in (2, 3):  # an answer may be lost on its way, as at first
            with open_ledger(strict) as ledger:
                ledger.confirm(None)
                ledger.charge(charge(number), b"x", now=NOW)
        with open_ledger(strict) as ledger:
            ledger.confirm(ledger.head)
        with open_ledger(strict) as ledger:
            assert code_of(lambda: ledger.confirm(None)) == "ledger_not_confirmed"
            ledger.confirm(ledger.head)  # the one that was returned is asked for, not only any later one

    def test_that_was_lost_is_not_done_without_because_the_terms_were_amended(self, strict):
        with open_ledger(strict) as ledger:
            ledger.confirm(ledger.head)
        with open_ledger(strict) as ledger:
            wider = replace(ledger.state.terms, fallback_epsilon=9.0)
            ledger.amend(wider, signature=sign_amendment(ledger.head, wider, key=OFFICER), now=NOW)
            assert code_of(lambda: ledger.confirm(None)) == "ledger_not_confirmed"

    def test_that_is_older_than_the_officers_word_still_has_to_stand_in_the_chain(self, strict):
        with open_ledger(strict) as ledger:
            present = ledger.state.terms
            ledger.amend(present, signature=sign_amendment(ledger.head, present, key=OFFICER), now=NOW)
            other = replace(ledger.head, hash="0" * 64)
            assert code_of(lambda: ledger.confirm(other)) == "ledger_behind"

    def test_that_is_missing_is_explained_by_who_could_vouch_for_it(self, strict, tmp_path_factory):
        with open_ledger(strict) as ledger, pytest.raises(BudgetError) as caught:
            ledger.charge(charge(2), b"x", now=NOW)
        assert "budget amend --same-terms" in caught.value.hint
        alone = tmp_path_factory.mktemp("alone")
        terms = replace(ledger.state.terms, data_protection_key="")
        with (
            Ledger.create(alone / "l.db", anchor_path=alone / "a", terms=terms, now=NOW) as unnamed,
            pytest.raises(BudgetError) as caught,
        ):
            unnamed.charge(charge(2), b"x", now=NOW)
        assert "budget amend" not in caught.value.hint
        assert "names no data-protection key" in caught.value.hint

    def test_of_another_chain_is_never_noted_as_returned(self, strict):
        with open_ledger(strict) as ledger:
            other = replace(ledger.head, hash="0" * 64)
            assert code_of(lambda: ledger.confirm(other)) == "ledger_behind"
        with open_ledger(strict) as ledger:
            ledger.confirm(None)


class TestTheSecondPlace:
    def test_that_is_missing_is_refused(self, folder):
        (folder / "anchor").unlink()
        assert code_of(lambda: open_ledger(folder)) == "ledger_no_anchor"

    @pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"garbage" * 2000, b"{}"])
    def test_that_was_emptied_or_overwritten_is_refused(self, folder, content):
        (folder / "anchor").write_bytes(content)
        assert code_of(lambda: open_ledger(folder)) == "ledger_no_anchor"

    @pytest.mark.parametrize("slot", [0, 1])
    def test_with_one_torn_slot_still_works_and_catches_up(self, folder, slot):
        content = bytearray((folder / "anchor").read_bytes())
        content[slot * 4096 : slot * 4096 + 100] = b"\xff" * 100
        (folder / "anchor").write_bytes(content)
        with open_ledger(folder) as ledger:
            ledger.charge(charge(9), b"x", now=NOW + 9)
        open_ledger(folder).close()

    def test_of_another_ledger_is_refused(self, folder, tmp_path):
        with Ledger.create(
            tmp_path / "other.db", anchor_path=tmp_path / "other-anchor", terms=TERMS, now=NOW
        ):
            pass
        shutil.copy(tmp_path / "other-anchor", folder / "anchor")
        assert code_of(lambda: open_ledger(folder)) == "ledger_behind"

    def test_that_everybody_may_write_to_is_refused(self, folder):
        (folder / "anchor").chmod(0o666)
        assert code_of(lambda: open_ledger(folder)) == "ledger_permissions"


class TestAForgedChain:
    @pytest.mark.parametrize(
        "forgery",
        [
            "UPDATE entry SET body = replace(body, '\"steps\":300', '\"steps\":200') WHERE seq = 3",
            "UPDATE entry SET body = '{}' WHERE seq = 3",
            "UPDATE entry SET body = 'not json' WHERE seq = 4",
            "UPDATE entry SET kind = 'close' WHERE seq = 4",
            "UPDATE entry SET key = 'other' WHERE seq = 3",
            "UPDATE entry SET hash = previous WHERE seq = 4",
            "DELETE FROM entry WHERE seq = 2",
            "DELETE FROM entry WHERE seq = 4",
            "DELETE FROM entry",
            "UPDATE entry SET seq = seq + 100",
            "UPDATE entry SET body = replace(body, '8.0', '80.0') WHERE seq = 1",
        ],
    )
    def test_is_refused_when_opening(self, folder, forgery):
        forge(folder, forgery)
        assert code_of(lambda: open_ledger(folder)) in ("ledger_damaged", "ledger_behind")

    @pytest.mark.parametrize(
        "forgery",
        [
            "UPDATE entry SET body = '{}' WHERE seq = 2",
            "DELETE FROM entry WHERE seq = 2",
            "INSERT OR REPLACE INTO entry SELECT 2, kind, key || 'x', body, previous, hash FROM entry WHERE seq = 2",
            "INSERT OR REPLACE INTO entry SELECT 5, kind, key, body, previous, hash FROM entry WHERE seq = 2",
            "INSERT INTO entry SELECT 7, kind, key || 'x', body, previous, hash FROM entry WHERE seq = 2",
            "UPDATE outbox SET payload = x'00'",
            "DELETE FROM sent",
        ],
    )
    def test_cannot_be_made_by_mistake_because_the_tables_refuse(self, folder, forgery):
        with open_ledger(folder) as ledger:
            ledger.mark_sent(charge(0).key)
        connection = sqlite3.connect(folder / "ledger.db")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(forgery)
        connection.close()

    def test_of_a_stored_payload_is_refused_when_it_would_be_sent(self, folder):
        forge(folder, "UPDATE outbox SET payload = x'00'")
        with open_ledger(folder) as ledger:
            assert code_of(lambda: ledger.released(charge(1).key)) == "ledger_damaged"
            assert code_of(lambda: ledger.charge(charge(1), b"x", now=NOW + 9)) == "ledger_damaged"

    def test_made_while_the_ledger_is_open_is_refused_at_the_next_charge(self, folder):
        with open_ledger(folder) as ledger:
            forge(folder, "DELETE FROM entry WHERE seq = 4")
            assert code_of(lambda: ledger.charge(charge(9), b"x", now=NOW + 9)) == "ledger_damaged"

    def test_that_is_no_database_is_refused(self, folder):
        for journal in folder.glob("ledger.db-*"):
            journal.unlink()
        (folder / "ledger.db").write_bytes(b"no database at all" * 1000)
        assert code_of(lambda: open_ledger(folder)) == "ledger_damaged"


def forge(folder: Path, statement: str) -> None:
    """Do what somebody with the file in hands can do: drop the triggers, then change what they like."""
    connection = sqlite3.connect(folder / "ledger.db")
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA ignore_check_constraints=ON")
    connection.execute(statement)
    connection.commit()
    connection.close()


class TestAChainThatWasRecomputed:
    """Somebody with the file in hands can recompute every hash. Rules of the chain and heads kept elsewhere still tell."""

    def recompute(self, folder: Path, change) -> None:
        connection = sqlite3.connect(folder / "ledger.db")
        rows = connection.execute("SELECT seq, kind, key, body FROM entry ORDER BY seq").fetchall()
        connection.close()
        head, entries = None, []
        for seq, kind, key, body in rows:
            entry = next_entry(head, kind=kind, key=key, body=change(seq, json.loads(body)))
            head = LedgerHead(entries[0].hash if entries else entry.hash, entry.seq, entry.hash)
            entries.append(entry)
        forge(folder, "DELETE FROM entry")
        connection = sqlite3.connect(folder / "ledger.db")
        connection.executemany(
            "INSERT INTO entry(seq, kind, key, body, previous, hash) VALUES (?, ?, ?, ?, ?, ?)",
            [(entry.seq, entry.kind, entry.key, entry.body, entry.previous, entry.hash) for entry in entries],
        )
        connection.commit()
        connection.close()

    def test_with_smaller_costs_is_refused_by_the_second_place(self, folder):
        def cheaper(seq, body):
            if seq > 1:
                body.update(
                    headline_units=1, fallback_units=1, headline_total=seq - 1, fallback_total=seq - 1
                )
            return body

        self.recompute(folder, cheaper)
        assert code_of(lambda: open_ledger(folder)) == "ledger_behind"

    def test_with_totals_that_do_not_add_up_is_refused_even_without_the_second_place(self, folder):
        def forgetful(seq, body):
            if seq == 3:
                body.update(headline_total=body["headline_total"] - 1)
            return body

        self.recompute(folder, forgetful)
        assert code_of(lambda: open_ledger(folder)) == "ledger_damaged"

    def test_with_negative_costs_is_refused(self, folder):
        def refund(seq, body):
            if seq == 4:
                body.update(headline_units=-body["headline_units"])
            return body

        self.recompute(folder, refund)
        assert code_of(lambda: open_ledger(folder)) == "ledger_damaged"

    @pytest.mark.parametrize(
        "change",
        [{"order": 2.5}, {"delta": 2.0}, {"lineage": 7}, {"extra": 1}, {"limits": {}}, {"limits": 3}],
    )
    def test_with_terms_of_another_form_is_refused(self, folder, change):
        def other_terms(seq, body):
            if seq == 1:
                body["terms"].update(change)
            return body

        self.recompute(folder, other_terms)
        assert code_of(lambda: open_ledger(folder)) in ("ledger_damaged", "ledger_behind")
