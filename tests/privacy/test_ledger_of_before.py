"""A ledger made before a kind of entry existed takes that kind in when it is opened, and stays entry by entry what it was."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.model.errors import BudgetError
from ringfence.privacy import ledger_storage
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_chain import LedgerEntry
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_reader import LedgerReader
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.renyi_filter import SampledGaussian

CHILD = Path(__file__).with_name("ledger_child.py")
NOW = 1_700_000_000.0
MECHANISM = SampledGaussian(2, 1.0, 7000.0, 10)
TERMS = LedgerTerms("acme", limits=LedgerLimits(returned_head_required=False))

SCHEMA_OF_BEFORE = """
CREATE TABLE IF NOT EXISTS entry(
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('open', 'charge', 'evaluate', 'close', 'amend')),
    key TEXT UNIQUE NOT NULL,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS outbox(
    key TEXT PRIMARY KEY REFERENCES entry(key),
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sent(
    key TEXT PRIMARY KEY REFERENCES entry(key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS returned(
    once INTEGER PRIMARY KEY CHECK (once = 1)
) STRICT;
CREATE TRIGGER IF NOT EXISTS a_head_that_was_returned_stays_returned BEFORE DELETE ON returned
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entry_is_never_changed BEFORE UPDATE ON entry
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entry_is_never_removed BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entry_only_grows_at_its_end BEFORE INSERT ON entry
    WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM entry)
        OR EXISTS (SELECT 1 FROM entry WHERE key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS payload_is_never_changed BEFORE UPDATE ON outbox
    BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
CREATE TRIGGER IF NOT EXISTS payload_is_never_replaced BEFORE INSERT ON outbox
    WHEN EXISTS (SELECT 1 FROM outbox WHERE key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
CREATE TRIGGER IF NOT EXISTS what_was_sent_stays_sent BEFORE DELETE ON sent
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


def charge(number: int) -> Charge:
    key = release_key("r", round_number=number, attempt=1)
    return Charge(key, "a" * 64, "d" * 64, 3, MECHANISM, 7000.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ledger in the old form, of two charges, one of them sent, that is not open."""
    place = tmp_path / "member"
    place.mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_storage, "SCHEMA", SCHEMA_OF_BEFORE)
        with Ledger.create(place / "ledger.db", anchor_path=place / "anchor", terms=TERMS, now=NOW) as ledger:
            for number in (1, 2):
                ledger.charge(charge(number), b"payload %d" % number, now=NOW)
            ledger.mark_sent(charge(1).key)
    assert "personalise" not in table(place)
    return place


def table(folder: Path) -> str:
    """The definition of the table of entries."""
    database = sqlite3.connect(folder / "ledger.db")
    try:
        (found,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'entry'").fetchone()
    finally:
        database.close()
    return str(found)


def entries(folder: Path) -> list[LedgerEntry]:
    with LedgerReader.open(folder / "ledger.db", anchor_path=folder / "anchor") as reader:
        reader.verified_state()
        return list(reader.entries())


def open_ledger(folder: Path) -> Ledger:
    return Ledger.open(folder / "ledger.db", anchor_path=folder / "anchor", lineage="acme", now=NOW)


def test_takes_a_charge_of_the_new_kind_and_keeps_every_entry_and_payload(folder: Path) -> None:
    before = entries(folder)
    with open_ledger(folder) as ledger:
        assert list(ledger.entries()) == before
        assert ledger.unsent() == (charge(2).key,)
        assert [ledger.released(charge(number).key) for number in (1, 2)] == [b"payload 1", b"payload 2"]
        ledger.charge(charge(3), b"a head", now=NOW, kind="personalise")
        ledger.verify()
        assert ledger._storage._one("PRAGMA foreign_keys") == (1,)
    with open_ledger(folder) as ledger:  # the second time there is nothing to rebuild
        assert [entry.kind for entry in ledger.entries()] == ["open", "charge", "charge", "personalise"]
    assert entries(folder)[:3] == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = '{}' WHERE seq = 2",
        "DELETE FROM entry WHERE seq = 3",
        "INSERT INTO entry SELECT 9, kind, 'x', body, previous, hash FROM entry WHERE seq = 2",
        "INSERT INTO entry SELECT 4, 'loan', 'x', body, previous, hash FROM entry WHERE seq = 2",
        "INSERT INTO outbox VALUES ('nobody', x'00')",
    ],
)
def test_is_as_well_guarded_afterwards_as_a_new_one(folder: Path, statement: str) -> None:
    open_ledger(folder).close()
    database = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    database.execute("PRAGMA foreign_keys=ON")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(statement)
    database.close()


def test_that_is_damaged_is_refused_and_left_as_it_is(folder: Path) -> None:
    database = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    database.execute("DROP TRIGGER entry_is_never_changed")
    database.execute("UPDATE entry SET body = replace(body, '7000', '7001') WHERE seq = 2")
    database.close()
    with pytest.raises(BudgetError) as caught:
        open_ledger(folder)
    assert caught.value.code == "ledger_damaged"
    assert "personalise" not in table(folder)


def test_that_cannot_be_rebuilt_is_left_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = entries(folder)
    honest = ledger_storage.follow_all
    calls: list[int] = []

    def fail_the_second_time(*given, **more):
        calls.append(1)
        if len(calls) == 2:
            raise refused(LedgerRefusal.DAMAGED)
        return honest(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_storage, "follow_all", fail_the_second_time)
        with pytest.raises(BudgetError):
            open_ledger(folder)
    assert "personalise" not in table(folder)
    assert entries(folder) == before
    open_ledger(folder).close()
    assert "personalise" in table(folder)


def test_whose_entries_would_not_all_come_along_is_left_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    database.execute(
        "DELETE FROM outbox WHERE key = ?", (charge(2).key,)
    )  # nothing refers to the entry that is lost
    database.close()
    before = entries(folder)
    losing = ledger_storage.REBUILT_ENTRIES.replace("ORDER BY seq", "WHERE seq < 3 ORDER BY seq")
    with monkeypatch.context() as patch:
        patch.setattr(ledger_storage, "REBUILT_ENTRIES", losing)
        with pytest.raises(BudgetError) as caught:
            open_ledger(folder)
    assert caught.value.code == "ledger_damaged"
    assert entries(folder) == before


def test_that_is_killed_at_any_statement_of_its_rebuilding_loses_nothing(
    folder: Path, tmp_path: Path
) -> None:
    before = entries(folder)
    outcomes = set()
    for moment in range(6, 200):
        copy = tmp_path / f"killed-{moment}"
        shutil.copytree(folder, copy)
        child = subprocess.run(
            [sys.executable, str(CHILD), str(copy), "1", str(moment)], capture_output=True, timeout=60
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
        if b"opened" in child.stdout:
            break
        outcomes.add("personalise" in table(copy))
        assert entries(copy) == before
        with open_ledger(copy) as ledger:
            assert ledger.unsent() == (charge(2).key,)
            ledger.charge(charge(3), b"a head", now=NOW, kind="personalise")
    assert outcomes == {False, True}, "killed before and after the one commit"
