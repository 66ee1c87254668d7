"""The terms of a ledger change by the officer's signature, made on another machine; and a ledger ends when its owner says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledger_homes import (
    DAY_S,
    OPENED,
    PLAN,
    ROUND,
    TERMS,
    charge_rounds,
    make_home,
    open_home_ledger,
)

from ringfence.client.budget_commands import application
from ringfence.client.member_home import MemberHome
from ringfence.model.console import run_application
from ringfence.model.errors import BudgetError
from ringfence.privacy.ledger_charge import Charge

WIDER = "[budget]\nlifetime_epsilon = 12.0\nlifetime_epsilon_fallback = 14.0\n[limits]\nminimum_cohort = 3\n"


class Desk:
    """A member and its officer, each with a folder of its own; only files go between them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.officer = folder / "officer"
        self.officer.mkdir(mode=0o700)
        self.key = self.officer / "officer.key"
        public = str(self.data("officer-key", str(self.key))["data_protection_key"])
        self.home = make_home(folder / "member", terms=replace(TERMS, data_protection_key=public))
        self.write_policy(WIDER)
        self.request, self.signed = folder / "amendment.json", self.officer / "signed.json"

    def write_policy(self, text: str) -> None:
        self.home.policy_file.write_text(text)
        self.home.policy_file.chmod(0o600)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        self._capsys.readouterr()
        code = run_application(application, [*arguments, "--json"])
        written = self._capsys.readouterr()
        return code, json.loads(written.out), written.err

    def data(self, *arguments: str) -> dict[str, Any]:
        code, envelope, said = self.run(*arguments)
        assert code == 0, said
        return dict(envelope["data"])

    def refusal(self, *arguments: str) -> str:
        code, envelope, said = self.run(*arguments)
        assert code != 0
        assert envelope["hint"]
        assert envelope["hint"] in said
        return str(envelope["error_code"])

    def member(self, *arguments: str) -> tuple[str, ...]:
        return (*arguments, "--home", str(self.home.root))

    def ask(self, *arguments: str) -> dict[str, Any]:
        return self.data(*self.member("amend", "--out", str(self.request), *arguments))

    def sign(self, *, key: Path | None = None) -> tuple[str, ...]:
        return ("sign", str(self.request), "--key", str(key or self.key), "--out", str(self.signed), "--yes")

    def apply(self) -> tuple[str, ...]:
        return self.member("amend", "--apply", str(self.signed))


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def rounds_that_fit(home: MemberHome, run: str) -> int:
    with pytest.raises(BudgetError, match="exceed the data set's lifetime") as caught:
        charge_rounds(home, run, rounds=range(1, 1000))
    assert "ringfence budget amend" in caught.value.hint
    with open_home_ledger(home) as ledger:
        return ledger.head.seq - 1


def test_a_budget_that_is_used_up_goes_on_after_the_officer_signed_for_more_and_not_before(
    desk: Desk,
) -> None:
    first = rounds_that_fit(desk.home, "spring")
    asked = desk.ask()
    assert asked["changes"] == [
        "headline_epsilon: 8.0 -> 12.0",
        "fallback_epsilon: 10.0 -> 14.0",
        "limits.steps: 1000 -> 50",
        "limits.minimum_cohort: 2 -> 3",
        "limits.returned_head_required: False -> True",
    ]
    desk.signed.write_bytes(desk.request.read_bytes())
    assert desk.refusal(*desk.apply()) == "ledger_bad_amendment", "an unsigned request changes nothing"
    said = desk.run(*desk.sign())[2]
    assert "headline_epsilon: 8.0 -> 12.0" in said, "the officer sees what is signed"
    assert desk.data(*desk.apply())["seq"] == first + 2
    shown = desk.data(*desk.member("show"))
    assert (shown["headline"]["lifetime_epsilon"], shown["fallback"]["lifetime_epsilon"]) == (12.0, 14.0)
    assert shown["headline"]["used_share"] > 0.5, "what was spent stays spent"
    with open_home_ledger(desk.home) as ledger:
        ledger.confirm(None)
        assert ledger.state.terms.limits.minimum_cohort == 3
        charge = Charge("more", PLAN, "d" * 64, 3, ROUND, ROUND.noise_multiplier)
        assert ledger.charge(charge, b"more", now=OPENED + DAY_S) == b"more"


def test_a_signed_amendment_holds_once_and_at_its_place_alone(desk: Desk) -> None:
    desk.ask()
    desk.data(*desk.sign())
    charge_rounds(desk.home, "spring", rounds=[1])
    assert desk.refusal(*desk.apply()) == "ledger_bad_amendment"
    desk.ask()
    desk.data(*desk.sign())
    desk.data(*desk.apply())
    assert desk.refusal(*desk.apply()) == "ledger_bad_amendment"


def test_a_request_that_was_changed_after_it_was_signed_is_refused(desk: Desk) -> None:
    desk.ask()
    desk.data(*desk.sign())
    changed = json.loads(desk.signed.read_text())
    changed["wanted"]["headline_epsilon"] = 13.0
    desk.signed.write_text(json.dumps(changed))
    assert desk.refusal(*desk.apply()) == "ledger_bad_amendment"


def test_another_officers_key_signs_nothing(desk: Desk) -> None:
    desk.ask()
    other = desk.officer / "other.key"
    assert desk.data("officer-key", str(other))["made"]
    assert desk.refusal(*desk.sign(key=other)) == "bad_config"
    assert not desk.signed.exists()


@pytest.mark.parametrize("change", [{"delta": 1e-5}, {"lineage": "other"}, {"order": 3}])
def test_the_officer_is_kept_from_signing_what_stays_for_life(desk: Desk, change: dict[str, object]) -> None:
    desk.ask()
    request = json.loads(desk.request.read_text())
    request["wanted"].update(change)
    desk.request.write_text(json.dumps(request))
    assert desk.refusal(*desk.sign()) == "bad_config"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 1, "ledger": "x"}',
        "[" * 5000,
        json.dumps(
            {
                "ledger": "0" * 64,
                "seq": 1,
                "hash": "0" * 64,
                "spent": 0,
                "present": {},
                "wanted": {"delta": "x"},
            }
        ),
    ],
)
def test_a_file_that_is_no_amendment_is_refused(desk: Desk, content: str) -> None:
    desk.request.write_text(content)
    desk.signed.write_text(content)
    assert desk.refusal(*desk.sign()) == "bad_config"
    assert desk.refusal(*desk.apply()) == "bad_config"


def test_a_request_for_nothing_is_refused_unless_the_officer_shall_vouch_for_the_head(desk: Desk) -> None:
    desk.write_policy(
        "[budget]\nlifetime_epsilon = 8.0\nlifetime_epsilon_fallback = 10.0\n[limits]\nminimum_cohort = 2\n"
    )
    with open_home_ledger(desk.home) as ledger:
        ledger.confirm(ledger.head)
    desk.write_policy("")  # whatever the policy says now, the terms stay
    asked = desk.ask("--same-terms")
    assert asked["changes"] == []
    desk.data(*desk.sign())
    with open_home_ledger(desk.home) as ledger, pytest.raises(BudgetError):
        ledger.confirm(None)
    desk.data(*desk.apply())
    with open_home_ledger(desk.home) as ledger:
        ledger.confirm(None)
        assert ledger.state.terms.headline_epsilon == 8.0


def test_a_second_place_that_is_lost_is_made_anew_for_the_newest_ledger_alone(
    desk: Desk, tmp_path: Path
) -> None:
    charge_rounds(desk.home, "spring", rounds=[1])
    backup = tmp_path / "backup"
    shutil.copytree(desk.home.ledger_file.parent, backup)
    charge_rounds(desk.home, "spring", rounds=[2])
    anchor = desk.home.ledger_anchor_file
    desk.ask("--same-terms")
    desk.data(*desk.sign())
    anchor.unlink()
    assert desk.refusal(*desk.apply()) == "ledger_no_anchor", "nobody has vouched for a ledger without one"
    assert desk.refusal(*desk.member("amend", "--out", str(desk.request))) == "ledger_no_anchor"
    assert not anchor.exists()
    desk.ask("--same-terms")
    assert "second place is lost" in desk.run(*desk.sign())[2]
    newest = desk.home.ledger_file.parent
    newest.rename(tmp_path / "newest")
    shutil.copytree(backup, newest)
    assert desk.refusal(*desk.apply()) == "ledger_bad_amendment", "a restored ledger was not vouched for"
    assert not anchor.exists()
    shutil.rmtree(newest)
    (tmp_path / "newest").rename(newest)
    desk.data(*desk.apply())
    assert desk.run(*desk.member("verify"))[0] == 0
    with open_home_ledger(desk.home) as ledger:
        assert [entry.kind for entry in ledger.entries()] == ["open", "charge", "charge", "amend"]
    assert desk.refusal(*desk.apply()) == "ledger_bad_amendment"


def test_a_policy_that_changed_nothing_asks_for_nothing(desk: Desk) -> None:
    desk.ask()
    desk.data(*desk.sign())
    desk.data(*desk.apply())
    assert desk.refusal(*desk.member("amend", "--out", str(desk.request))) == "bad_config"


def test_a_ledger_without_an_officer_says_so_instead_of_writing_a_request(desk: Desk, tmp_path: Path) -> None:
    alone = make_home(tmp_path / "alone")
    alone.policy_file.write_text(WIDER)
    alone.policy_file.chmod(0o600)
    arguments = ("amend", "--out", str(desk.request), "--home", str(alone.root))
    assert desk.refusal(*arguments) == "ledger_no_officer"
    assert not desk.request.exists()


def test_nothing_changes_while_the_agent_holds_the_ledger(desk: Desk) -> None:
    desk.ask()
    desk.data(*desk.sign())
    with open_home_ledger(desk.home) as agent:
        before = agent.state
        assert desk.refusal(*desk.apply()) == "ledger_locked"
        assert desk.refusal(*desk.member("close", "--yes")) == "ledger_locked"
        assert agent.verify() == before


def test_the_officers_key_is_made_once_and_shown_again(desk: Desk) -> None:
    before = desk.key.read_bytes()
    again = desk.data("officer-key", str(desk.key))
    assert not again["made"]
    assert desk.key.read_bytes() == before
    with open_home_ledger(desk.home) as ledger:
        assert ledger.state.terms.data_protection_key == again["data_protection_key"]
    assert desk.key.stat().st_mode & 0o777 == 0o600


def test_a_ledger_is_closed_only_when_somebody_says_so_and_then_for_good(desk: Desk) -> None:
    charge_rounds(desk.home, "spring", rounds=[1])
    assert desk.refusal(*desk.member("close")) == "bad_config", "nobody is there to confirm"
    charge_rounds(desk.home, "spring", rounds=[2])
    assert desk.data(*desk.member("close", "--yes"))["closed"]
    assert desk.data(*desk.member("show"))["runs_left"] == 0
    with pytest.raises(BudgetError, match="closed for good"):
        charge_rounds(desk.home, "spring", rounds=[3], at=OPENED + 400 * DAY_S)
    assert desk.refusal(*desk.member("close", "--yes")) == "ledger_closed"
    assert desk.refusal(*desk.member("amend", "--out", str(desk.request))) == "ledger_closed"
