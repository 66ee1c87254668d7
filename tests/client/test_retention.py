"""``ringfence data expire``: what is old goes, what is young or unsent stays, and no charge is ever touched."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from ledger_homes import DAY_S, OPENED, charge_rounds, make_home, open_home_ledger

from ringfence.client.data_commands import application
from ringfence.client.erasure import forget_person
from ringfence.client.member_home import MemberHome
from ringfence.client.policy import Policy
from ringfence.client.policy_rules import RetentionRules
from ringfence.client.retention import apply_retention
from ringfence.client.row_cache import RowCache
from ringfence.client.row_file import FeatureRow
from ringfence.client.snapshot_folder import folder_in_use, new_snapshot_file
from ringfence.model.console import run_application
from ringfence.privacy.ledger_reader import LedgerReader

POLICY = Policy(retention=RetentionRules(cache_days=30, outbox_days=90))


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    home = make_home(tmp_path / "home")
    home.cache.mkdir(mode=0o700)
    return home


def add_cache(home: MemberHome, key: str, *, age_days: float, now: float = OPENED) -> None:
    for path in (home.cache / f"rows-{key}.safetensors", home.cache / f"manifest-{key}.json"):
        path.write_text(json.dumps({"rows": f"rows-{key}.safetensors", "participants": []}))
        os.utime(path, (now - age_days * DAY_S,) * 2)


def kept_rows(home: MemberHome) -> list[str]:
    return sorted(path.name for path in home.cache.glob("rows-*"))


def kept_answers(home: MemberHome) -> list[str]:
    with LedgerReader.open(home.ledger_file, anchor_path=home.ledger_anchor_file) as reader:
        return [item.key.split("/")[2] for item in reader.stored()]


def test_caches_past_their_time_go_and_younger_ones_stay(home: MemberHome) -> None:
    add_cache(home, "old", age_days=30.1)
    add_cache(home, "young", age_days=29.9)
    report = apply_retention(home, policy=POLICY, now=OPENED)
    assert (report.rows_removed, report.manifests_removed) == (1, 1)
    assert kept_rows(home) == ["rows-young.safetensors"]


def test_rows_go_by_the_time_at_which_each_was_made(home: MemberHome) -> None:
    cache, key = RowCache(home), "f" * 64
    features = np.zeros((1, 3), np.float32)
    with cache.lock(), cache.rows(key) as file:
        for name, age_days in ((b"old", 30.1), (b"young", 29.9)):
            row = FeatureRow(name, ("ab" * 32,), features)
            file.write([row], prefixes=(1.0,), now=OPENED - age_days * DAY_S)
    assert apply_retention(home, policy=POLICY, now=OPENED).rows_removed == 1
    with cache.lock(), cache.rows(key) as file:
        assert file.read(b"old", prefixes=(1.0,), dimension=3) is None
        assert file.read(b"young", prefixes=(1.0,), dimension=3) is not None
    assert apply_retention(home, policy=POLICY, now=OPENED + DAY_S).rows_removed == 1
    assert kept_rows(home) == [], "no file stays without a row in it"


def test_sent_answers_past_their_time_go_and_unsent_or_young_ones_stay(home: MemberHome) -> None:
    charge_rounds(home, "old", rounds=[1, 2], at=OPENED)
    charge_rounds(home, "unsent", rounds=[1], at=OPENED + 10, sent=False)
    charge_rounds(home, "young", rounds=[1], at=OPENED + 80 * DAY_S)
    with open_home_ledger(home) as ledger:
        before = ledger.state
    report = apply_retention(home, policy=POLICY, now=OPENED + 100 * DAY_S)
    assert (report.payloads_removed, report.payloads_waiting) == (2, 0)
    assert kept_answers(home) == ["unsent", "young"]
    with open_home_ledger(home) as ledger:
        assert ledger.state == before


def test_the_agent_does_it_with_the_ledger_it_has_open(home: MemberHome) -> None:
    charge_rounds(home, "old", rounds=[1])
    now = OPENED + 100 * DAY_S
    with open_home_ledger(home) as agents:
        report = apply_retention(home, policy=POLICY, now=now)
        assert (report.payloads_removed, report.payloads_waiting) == (0, 1), "the ledger is in use"
        report = apply_retention(home, policy=POLICY, now=now, owner=agents)
        assert (report.payloads_removed, report.payloads_waiting) == (1, 0)
    assert kept_answers(home) == []


def test_it_finishes_what_a_request_to_forget_left_to_the_agent(home: MemberHome) -> None:
    charge_rounds(home, "late", rounds=[1], sent=False)
    with open_home_ledger(home) as agents:
        forget_person(home, "otter", now=OPENED, even_if_unknown=True)
        assert kept_answers(home) == ["late"]
        report = apply_retention(home, policy=POLICY, now=OPENED, owner=agents)
    assert (report.answers_withdrawn, report.payloads_removed) == (1, 0)
    assert kept_answers(home) == []


def test_what_a_reading_that_was_killed_left_goes_unless_somebody_reads_now(home: MemberHome) -> None:
    with folder_in_use(home):
        left = new_snapshot_file(home)
        apply_retention(home, policy=POLICY, now=OPENED)
        assert left.exists()
    apply_retention(home, policy=POLICY, now=OPENED)
    assert not left.exists()


def test_without_a_ledger_only_caches_go(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    home.cache.mkdir()
    add_cache(home, "old", age_days=40)
    assert apply_retention(home, policy=POLICY, now=OPENED).rows_removed == 1


def test_the_command_uses_the_policys_times(home: MemberHome, capsys: pytest.CaptureFixture[str]) -> None:
    home.policy_file.write_text("[retention]\ncache_days = 3\noutbox_days = 0\n")
    home.policy_file.chmod(0o600)
    add_cache(home, "old", age_days=4, now=time.time())
    charge_rounds(home, "a", rounds=[1], at=time.time() - 3600)
    assert run_application(application, ["expire", "--home", str(home.root), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["rows_removed"], data["payloads_removed"], data["cache_days"]) == (1, 1, 3)
    assert run_application(application, ["expire", "--home", str(home.root)]) == 0
    assert "0 sent answers" in capsys.readouterr().out


def test_without_a_policy_nothing_is_guessed(home: MemberHome, capsys: pytest.CaptureFixture[str]) -> None:
    add_cache(home, "old", age_days=9999)
    assert run_application(application, ["expire", "--home", str(home.root)]) == 4
    assert "ringfence policy init" in capsys.readouterr().err
    assert kept_rows(home) == ["rows-old.safetensors"]
