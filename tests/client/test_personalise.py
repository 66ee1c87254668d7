"""A head of the member's own: trained in private, charged before it is used, from a reserved part of the budget, kept if better."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_homes import DAY_S, OPENED, make_home, open_home_ledger

from ringfence.client import personal_head, personalisation, personalise_command
from ringfence.client.erasure import forget_person
from ringfence.client.local_data import TrainingRows
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import (
    DataSettings,
    MemberSettings,
    load_member_settings,
    save_member_settings,
)
from ringfence.client.model_commands import application
from ringfence.client.personal_head import Comparison, PersonalHead, keep, personalised, put_aside
from ringfence.client.personalisation import mechanism_within
from ringfence.client.policy import Policy, default_policy
from ringfence.client.policy_check import Spending, refusals_of, spending_of
from ringfence.client.policy_text import save_policy
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.row_cache import RowCache
from ringfence.demo.company_data import benign_chat
from ringfence.model.console import run_application
from ringfence.model.detector import Detector
from ringfence.model.errors import BudgetError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.simulation import simulate_companies
from ringfence.privacy.bounding import (
    participant_pseudonym,
)
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_chain import LedgerEntry
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import budget_in_units, cost_in_units, reserved_units
from ringfence.privacy.renyi_filter import SampledGaussian

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def policy(share: float) -> Policy:
    default = default_policy(federation="north")
    return default.model_copy(
        update={"budget": default.budget.model_copy(update={"personalisation_share": share})}
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ringfence-detector-0.0.0")
    features = load_feature_set()
    Detector(features, features.warm_start).save(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every positive conversation of a simulated company and some others, between people who each talk once."""
    company = simulate_companies(
        benign_chat(), companies=1, conversations_per_company=900, test_conversations=0, seed=11
    )[0]
    path = tmp_path_factory.mktemp("data") / "labelled.jsonl"
    positives = [item for item in company.train if item.label == 1]
    others = [item for item in company.train if item.label == 0][: 2 * len(positives)]
    with path.open("w") as file:
        for item in positives + others:
            messages = [{"author": f"{item.id} {m.author}", "text": m.text} for m in item.messages]
            file.write(json.dumps({"id": item.id, "label": item.label, "messages": messages}) + "\n")
    return path


@pytest.fixture
def home(tmp_path: Path, release: Path, labelled: Path) -> MemberHome:
    made = make_home(tmp_path / "home", terms=policy(0.0).ledger_terms("conversations"))
    save_member_settings(
        made,
        settings=MemberSettings(
            federation="north",
            member="acme",
            fleet_address="a:1",
            release_address="b:2",
            plan_public_key="",
            data=DataSettings(files=(str(labelled),)),
        ),
    )
    save_policy(made, policy=policy(0.5))
    (made.root / "release").symlink_to(release)
    return made


def run(home: MemberHome, *arguments: object) -> int:
    where = ["--home", str(home.root), "--model", str(home.root / "release")]
    return run_application(application, ["personalise", *where, *(str(argument) for argument in arguments)])


def charges(home: MemberHome) -> list[LedgerEntry]:
    with open_home_ledger(home) as ledger:
        return [entry for entry in ledger.entries() if entry.kind == "personalise"]


def test_a_head_is_charged_from_the_reserve_kept_at_home_and_used_only_if_it_ranks_better(
    home: MemberHome, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(home, "--epsilon", 2, "--json") == 0
    data = json.loads(capsys.readouterr().out)["data"]
    (entry,) = charges(home)
    expected = mechanism_within(policy(0.5), epsilon=2.0)
    assert (entry.values["steps"], entry.values["headline_noise"]) == (
        expected.steps,
        expected.noise_multiplier,
    )
    assert home.personal_head_file.stat().st_mode & 0o777 == 0o600
    compared = data["compared"]
    assert compared["positives"] >= 10
    assert data["in_use"] == (compared["personal"] > compared["release"])
    released = Detector.load(release)
    own = personalised(released, home)
    assert (own.digest() != released.digest()) == data["in_use"]
    assert run(home, "--reset") == 0
    assert personalised(released, home) is released
    assert len(charges(home)) == 1, "what was spent stays spent"


def test_nothing_is_trained_where_the_policy_reserves_nothing(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(home, policy=policy(0.0), replace=True)
    assert run(home) == 1
    said = capsys.readouterr().err
    assert "[budget] personalisation_share = 0.0" in said
    assert charges(home) == []
    assert not home.personal_head_file.exists()


def test_a_reserve_that_does_not_suffice_names_the_epsilon_that_it_holds(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(home, "--epsilon", 6) == 1
    said = capsys.readouterr().err
    assert "allows an epsilon of" in said
    allowed = float(said.partition("allows an epsilon of ")[2].split()[0])
    assert 0 < allowed < 6
    assert charges(home) == []
    assert run(home, "--epsilon", allowed) == 0
    assert run(home, "--epsilon", allowed) == 1, "the reserve is used up"
    assert len(charges(home)) == 1


def test_a_head_whose_charge_was_written_and_no_more_is_kept_the_next_time_at_no_further_cost(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(_: MemberHome) -> None:
        raise KeyboardInterrupt

    honest = personal_head.keep
    monkeypatch.setattr(personal_head, "keep", cut_off)
    assert run(home) == 130
    assert len(charges(home)) == 1
    assert not home.personal_head_file.exists()
    monkeypatch.setattr(personal_head, "keep", honest)
    assert run(home) == 0
    assert len(charges(home)) == 1
    assert home.personal_head_file.exists()


def test_a_head_that_was_never_charged_is_never_used(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    honest = personalise_command._charge
    monkeypatch.setattr(personalise_command, "_charge", cut_off)
    assert run(home) == 130
    assert charges(home) == []
    assert not home.personal_head_file.exists()
    monkeypatch.setattr(personalise_command, "_charge", honest)
    assert run(home) == 0
    assert len(charges(home)) == 1
    kept = PersonalHead.model_validate_json(home.personal_head_file.read_bytes())
    assert charges(home)[0].key.endswith(kept.digest()[:32])


def close(home: MemberHome) -> None:
    with open_home_ledger(home) as ledger:
        ledger.close_for_good(now=OPENED)


def exhaust(home: MemberHome) -> None:
    with open_home_ledger(home) as ledger:
        ledger.confirm(None)
        for noise in (20.0, 60.0):
            mechanism = SampledGaussian(2, 1.0, noise, 50)
            for number in range(1000):
                key = release_key("north/spring", round_number=number, attempt=int(noise))
                try:
                    ledger.charge(Charge(key, "b" * 64, "c" * 64, 3, mechanism, noise), b"x", now=OPENED)
                except BudgetError:
                    break


def set_the_clock_ahead(home: MemberHome) -> None:
    with open_home_ledger(home) as ledger:
        ledger.confirm(None)
        mechanism = SampledGaussian(2, 1.0, 100.0, 1)
        charge = Charge("run/north/spring/evaluation", "b" * 64, "c" * 64, 3, mechanism, 100.0)
        ledger.charge(charge, b"x", now=time.time() + 9000 * DAY_S)


@pytest.mark.parametrize(
    ("happens", "code"),
    [(close, "ledger_closed"), (exhaust, "ledger_exhausted"), (set_the_clock_ahead, "ledger_clock")],
)
def test_nothing_is_trained_that_the_ledger_would_not_charge(
    home: MemberHome,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    happens: Callable[[MemberHome], None],
    code: str,
) -> None:
    happens(home)
    trained: list[object] = []
    monkeypatch.setattr(personalisation, "train_privately", lambda *_, **__: trained.append(1))
    monkeypatch.setattr(personalise_command, "_rows", lambda *_: trained.append(1))
    assert run(home, "--json") == 1
    assert json.loads(capsys.readouterr().out)["error_code"] == code
    assert trained == []
    assert heads(home) == []


def heads(home: MemberHome) -> list[str]:
    """What lies on disk of heads of the member's own."""
    return sorted(path.name for path in home.root.glob("personal-head*"))


def test_a_head_that_the_ledger_refuses_after_all_does_not_stay_on_disk(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def refuse(*_: object, **__: object) -> bytes:
        seen.append(heads(home))
        raise refused(LedgerRefusal.DISK)

    monkeypatch.setattr(Ledger, "charge", refuse)
    assert run(home) == 1
    assert seen == [["personal-head.uncharged"]]
    assert heads(home) == []


def test_a_head_whose_charge_stands_though_its_second_place_does_not_is_kept_the_next_time(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Ledger.charge

    def charge(ledger: Ledger, *given: Any, **more: Any) -> bytes:
        honest(ledger, *given, **more)
        raise refused(LedgerRefusal.DISK)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "charge", charge)
        assert run(home) == 1
    assert heads(home) == ["personal-head.uncharged"]
    assert run(home) == 0
    assert len(charges(home)) == 1
    assert heads(home) == ["personal-head.json"]


def somebody(home: MemberHome) -> str:
    """Somebody of the member's source."""
    (path,) = load_member_settings(home).data.files
    first = json.loads(Path(path).read_text().splitlines()[0])
    return str(first["messages"][0]["author"])


def test_somebody_who_is_forgotten_while_a_head_is_trained_is_not_in_the_head_that_is_kept(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person = somebody(home)
    trained: list[bool] = []
    honest = personalisation.by_people

    def as_training_starts(rows: TrainingRows, *, secret: bytes) -> personalisation.Parts:
        called = participant_pseudonym(Pseudonyms(secret).person(person).hex(), secret=secret)
        trained.append(any(called in row.participants for row in rows.manifest.kept))
        if len(trained) == 1:
            forget_person(home, person, now=time.time())
        return honest(rows, secret=secret)

    monkeypatch.setattr(personalisation, "by_people", as_training_starts)
    assert run(home) == 0
    assert trained == [True, False]
    assert "forgotten meanwhile" in capsys.readouterr().err
    (charge,) = charges(home)
    with RowCache(home).lock():
        secret = home.contribution_key_file.read_bytes()
        assert charge.values["dataset"] in RowCache(home).datasets(secret=secret)


def test_nobody_is_forgotten_between_the_last_look_and_the_charge(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[bool] = []
    honest = personalise_command._charge

    def charge(*given: Any, **more: Any) -> None:
        handle = os.open(home.cache / ".lock", os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked.append(False)
        except BlockingIOError:
            locked.append(True)
        finally:
            os.close(handle)
        honest(*given, **more)

    monkeypatch.setattr(personalise_command, "_charge", charge)
    assert run(home) == 0
    assert locked == [True]


def test_a_head_that_was_cut_off_before_it_was_in_place_does_not_outlast_a_request_to_be_forgotten(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(_: MemberHome) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(personal_head, "keep", cut_off)
        assert run(home) == 130
    assert heads(home) == ["personal-head.uncharged"]
    forget_person(home, somebody(home), now=time.time())
    assert heads(home) == []
    assert run(home) == 0
    assert len(charges(home)) == 2, "what was spent stays spent"


def test_an_agent_that_has_the_ledger_keeps_it(home: MemberHome, capsys: pytest.CaptureFixture[str]) -> None:
    with open_home_ledger(home):
        assert run(home) == 1
    assert "fix:" in capsys.readouterr().err


class TestTheHead:
    def head(self, release: Path, **changes: object) -> PersonalHead:
        detector = Detector.load(release)
        values = {
            "release_sha256": detector.digest(),
            "parameters": tuple((2 * detector.parameters).tolist()),
            "made_at": NOW,
            "contribution_bound": 2,
            "noise_multiplier": 60.0,
            "steps": 50,
            "epsilon": 1.0,
            "delta": 1e-6,
            "compared": Comparison(conversations=50, positives=12, release=0.5, personal=0.6),
        }
        return PersonalHead.model_validate({**values, **changes})

    def test_that_ranks_better_scores_in_the_releases_place(self, home: MemberHome, release: Path) -> None:
        released = Detector.load(release)
        put_aside(home, self.head(release))
        assert personalised(released, home) is released, "not before it is in place"
        keep(home)
        found = personalised(released, home)
        assert np.array_equal(found.parameters, 2 * released.parameters)
        assert found.calibration == released.calibration

    @pytest.mark.parametrize("personal", [0.5, 0.4], ids=["a tie", "worse"])
    def test_that_ranks_no_better_does_not(self, home: MemberHome, release: Path, personal: float) -> None:
        compared = Comparison(conversations=50, positives=12, release=0.5, personal=personal)
        put_aside(home, self.head(release, compared=compared))
        keep(home)
        released = Detector.load(release)
        assert personalised(released, home) is released

    def test_of_another_release_does_not(self, home: MemberHome, release: Path) -> None:
        put_aside(home, self.head(release))
        keep(home)
        newer = replace(Detector.load(release), parameters=3 * Detector.load(release).parameters)
        assert personalised(newer, home) is newer


class TestTheReserve:
    def plan(self) -> Plan:
        return Plan(
            name="spring",
            federation="north",
            training=TrainingTerms(feature_set_sha256="a" * 64),
            privacy=PrivacyTerms(noise_multiplier=78.0),
            cohort=CohortTerms(minimum=3),
        )

    def refused(self, rules: Policy, spent: Spending) -> bool:
        return any(
            "lifetime_epsilon" in line
            for line in refusals_of(self.plan(), policy=rules, now=None, spent=spent)
        )

    def test_runs_leave_it_alone_and_what_was_taken_from_it_is_not_counted_twice(self) -> None:
        terms = policy(0.5).ledger_terms("x")
        budget, order = budget_in_units(terms.headline), terms.order
        half = reserved_units(terms.headline, share=0.5)
        nearly = Spending(order, other_headline_units=budget - half - 1000)
        assert self.refused(policy(0.5), nearly)
        assert not self.refused(policy(0.0), nearly)
        # The same total, but half of it from the reserve: the other half of the budget is free for runs.
        own = Spending(
            order,
            other_headline_units=half,
            personal_headline_units=half,
            other_fallback_units=half,
            personal_fallback_units=half,
        )
        assert not self.refused(policy(0.5), own)

    def test_the_tally_tells_it_apart(self, home: MemberHome) -> None:
        assert run(home, "--epsilon", 1) == 0
        with open_home_ledger(home, now=OPENED) as ledger:
            spent = spending_of(ledger.entries(), order=ledger.state.terms.order, plan_digest="b" * 64)
            cost = cost_in_units(ledger.state.terms.headline, mechanism_within(policy(0.5), epsilon=1.0))
        assert spent.personal_headline_units == spent.other_headline_units == cost
        assert (spent.answers, spent.evaluations) == (0, 0)
