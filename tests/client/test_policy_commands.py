"""``ringfence policy``: what a person reads before deciding, and what a script reads after."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ringfence.client.command_line import application
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings, save_member_settings
from ringfence.client.plan_approvals import NotApprovedError, PlanApprovals
from ringfence.client.policy import Policy, load_policy
from ringfence.client.policy_check import Spending, refusals_of
from ringfence.model.console import run_application
from ringfence.model.plan import load_plan
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_charge import Charge
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.run_cost import run_cost

PLAN = """\
name = "spring"
federation = "chat"
[training]
feature_set_sha256 = "{features}"
rounds = {rounds}
[privacy]
noise_multiplier = {noise}
[cohort]
minimum = 3
"""


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return MemberHome(tmp_path / "member").create()


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    return written(tmp_path / "plan.toml")


def written(path: Path, *, noise: float = 78.0, rounds: int = 30) -> Path:
    path.write_text(PLAN.format(features="a" * 64, noise=noise, rounds=rounds))
    return path


def policy(home: MemberHome, *arguments: str) -> int:
    return run_application(application, ["policy", *arguments, "--home", str(home.root)])


def data_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert envelope["status"] == "ok"
    data: dict[str, Any] = envelope["data"]
    return data


def asked(home: MemberHome, plan_file: Path) -> str:
    """Have the agent be asked about a plan; return the digest."""
    plan = load_plan(plan_file)
    with pytest.raises(NotApprovedError):
        PlanApprovals(home).require(plan, now=datetime.now(UTC))
    return plan.digest()


def test_init_writes_a_policy_once_and_show_reads_it(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy(home, "init", "--federation", "chat") == 0
    assert policy(home, "init") == 4
    assert "--force" in capsys.readouterr().err
    assert policy(home, "show") == 0
    shown = capsys.readouterr().out
    assert "launched by  chat; approval manual" in shown
    assert len(shown.splitlines()) <= 25
    assert policy(home, "show", "--json") == 0
    assert data_of(capsys)["policy"] == load_policy(home).model_dump(mode="json")
    assert policy(home, "init", "--force", "--json") == 0
    assert data_of(capsys)["policy"]["launch"]["launched_by"] == []


def test_init_takes_the_federation_that_was_joined(home: MemberHome) -> None:
    settings = MemberSettings(
        federation="joined",
        member="acme",
        fleet_address="127.0.0.1:1",
        release_address="127.0.0.1:2",
        demonstration=True,
        plan_public_key="-",
    )
    save_member_settings(home, settings=settings)
    assert policy(home, "init") == 0
    assert load_policy(home).launch.launched_by == ("joined",)
    assert load_policy(home).launch.demonstration


def test_check_shows_the_promise_and_permits(
    home: MemberHome, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    capsys.readouterr()
    assert policy(home, "check", str(plan_file)) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 25
    for part in (
        "the coordinator alone",
        "one other member alone",
        "the coordinator together with no member",
        "the coordinator and every other member together",
        "a person on 1 platform",
        "a person on 2 platforms",
        "a person on 3 platforms",
        "one conversation",
        "a lifetime budget of 8 allows 10 such runs",
        "within the policy; when it comes, a person decides",
    ):
        assert part in shown
    assert policy(home, "check", str(plan_file), "--epsilon", "3", "--json") == 0
    data = data_of(capsys)
    assert data["permitted"] is True
    assert (data["runs_in_lifetime"], data["runs_left"]) == (10, 10)
    assert data["needed_noise"] == [{"epsilon": 3.0, "noise_multiplier": pytest.approx(53.48, rel=1e-3)}]
    assert data["statement"]["epsilon"] == pytest.approx(1.979, rel=1e-3)


def test_check_refuses_with_the_line_of_the_policy(
    home: MemberHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    noisy = written(tmp_path / "noisy.toml", noise=20.0)
    line = 1 + home.policy_file.read_text().splitlines().index("run_epsilon = 2.5")
    capsys.readouterr()
    assert policy(home, "check", str(noisy)) == 1
    said = capsys.readouterr()
    assert "one conversation" in said.out, "the table is shown all the same"
    assert f"policy.toml, line {line}, [budget] run_epsilon = 2.5: the plan's is 9" in said.err
    assert policy(home, "check", str(noisy), "--json") == 1
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["error_code"] == "refused_by_policy"
    assert f"line {line}, [budget] run_epsilon" in envelope["message"]


def test_check_counts_what_the_ledger_holds_while_somebody_else_uses_it(
    home: MemberHome, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    rules = load_policy(home)
    for folder in (home.ledger_file.parent, home.ledger_anchor_file.parent):
        folder.mkdir(mode=0o700)
    now = datetime.now(UTC).timestamp()
    ledger = Ledger.create(
        home.ledger_file, anchor_path=home.ledger_anchor_file, terms=rules.ledger_terms("d"), now=now
    )
    with ledger:
        ledger.confirm(None)
        for number in range(28):  # nearly all of the budget of ten runs and a half, for another plan
            charge = Charge(
                key=f"run/x/round/{number}/attempt/1",
                plan_digest="b" * 64,
                dataset_digest="c" * 64,
                cohort=3,
                mechanism=SampledGaussian(2, 1.0, 78.0 / 10**0.5, 10),
                own_noise_multiplier=78.0 / 10**0.5,
            )
            ledger.charge(charge, b"noised", now=now)
        capsys.readouterr()
        assert policy(home, "check", str(plan_file), "--json") == 0
        assert data_of(capsys)["runs_left"] == 1
        smaller = written(home.root / "smaller.toml", noise=64.0)
        assert policy(home, "check", str(smaller)) == 1
        assert "lifetime_epsilon = 8.0" in capsys.readouterr().err
        # A lifetime that was narrowed after the ledger opened is named too, whatever order the ledger has.
        narrowed = home.policy_file.read_text().replace("lifetime_epsilon = 8.0", "lifetime_epsilon = 1.0")
        home.policy_file.write_text(narrowed)
        assert policy(home, "check", str(plan_file)) == 1
        assert "lifetime_epsilon = 1.0" in capsys.readouterr().err


def reserve(home: MemberHome, share: float) -> Policy:
    """Have the policy keep a share of the lifetime budget for heads of the member's own."""
    text, keep = home.policy_file.read_text(), "personalisation_share = "
    home.policy_file.write_text(re.sub(f"(?m)^{keep}.*$", f"{keep}{share}", text))
    return load_policy(home)


def test_the_runs_that_fit_leave_what_is_reserved_alone(
    home: MemberHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    plan_file = written(tmp_path / "quiet.toml", noise=100.0)
    capsys.readouterr()
    assert policy(home, "check", str(plan_file), "--json") == 0
    without = data_of(capsys)
    assert (without["runs_in_lifetime"], without["runs_left"]) == (17, 17)
    rules = reserve(home, 0.5)
    assert policy(home, "check", str(plan_file), "--json") == 0
    data = data_of(capsys)
    assert (data["runs_in_lifetime"], data["runs_left"]) == (8, 8)
    assert policy(home, "decline", asked(home, plan_file), "--yes") == 0
    assert "allows 8 such runs" in capsys.readouterr().err
    assert policy(home, "check", str(plan_file)) == 0
    assert "allows 8 such runs, as the ledger counts, beside 50% of it that are reserved" in (
        capsys.readouterr().out
    )
    # The policy itself allows the eighth such run and refuses the ninth.
    terms, plan = rules.ledger_terms("d"), load_plan(plan_file)
    cost = run_cost(plan, headline=terms.headline, fallback=terms.fallback).headline_units
    for before, refused in ((7, False), (8, True)):
        spent = Spending(terms.order, other_headline_units=before * cost, other_fallback_units=before * cost)
        assert bool(refusals_of(plan, policy=rules, now=None, spent=spent)) == refused


def test_what_was_taken_from_the_reserve_is_counted_once(
    home: MemberHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    rules = reserve(home, 0.5)
    plan_file = written(tmp_path / "quiet.toml", noise=100.0)
    for folder in (home.ledger_file.parent, home.ledger_anchor_file.parent):
        folder.mkdir(mode=0o700)
    now = datetime.now(UTC).timestamp()
    part_of_a_run = SampledGaussian(2, 1.0, 100.0, 50)
    with Ledger.create(
        home.ledger_file, anchor_path=home.ledger_anchor_file, terms=rules.ledger_terms("d"), now=now
    ) as ledger:
        for number in range(6):
            own = Charge(f"personalise/{number}", "b" * 64, "c" * 64, 1, part_of_a_run, 100.0)
            ledger.charge(own, b"a head", now=now, kind="personalise")
    capsys.readouterr()
    assert policy(home, "check", str(plan_file), "--json") == 0
    assert data_of(capsys)["runs_left"] == 8, "a run's worth of the reserve is spent, and still not the runs'"


def test_a_person_sees_the_promise_before_approving(
    home: MemberHome, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    capsys.readouterr()
    assert policy(home, "pending") == 0
    assert "No plan waits" in capsys.readouterr().out
    digest = asked(home, plan_file)
    assert policy(home, "pending", "--json") == 0
    assert [item["digest"] for item in data_of(capsys)["plans"]] == [digest]
    assert policy(home, "approve", digest[:12]) == 4, "nobody is at the keyboard"
    said = capsys.readouterr().err
    assert "allows 10 such runs, as the ledger counts\n" in said
    assert "For every person with at most 2 conversations used at a member" in said
    assert "epsilon 1.98 for a person on one member platform" in said
    assert "--yes" in said
    assert PlanApprovals(home).find(digest).decision == "pending"
    assert policy(home, "approve", digest[:12], "--yes", "--json") == 0
    assert data_of(capsys)["decision"] == "approved"
    PlanApprovals(home).require(load_plan(plan_file), now=datetime.now(UTC))
    assert policy(home, "pending") == 0
    assert "No plan waits" in capsys.readouterr().out
    assert policy(home, "pending", "--all") == 0
    assert "approved" in capsys.readouterr().out


def test_a_person_can_decline_and_an_unknown_plan_is_an_error(
    home: MemberHome, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    digest = asked(home, plan_file)
    assert policy(home, "decline", digest, "--yes") == 0
    assert PlanApprovals(home).find(digest).decision == "declined"
    assert policy(home, "approve", "0123456789ab", "--yes") == 4
    assert "ringfence policy pending" in capsys.readouterr().err


def test_a_plan_that_a_narrower_policy_refuses_can_be_declined_and_not_approved(
    home: MemberHome, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(home, "init", "--federation", "chat")
    digest = asked(home, plan_file)
    home.policy_file.write_text(home.policy_file.read_text().replace("\nrounds = 200", "\nrounds = 29"))
    assert policy(home, "approve", digest, "--yes") == 1
    assert "[limits] rounds = 29: the plan has 30" in capsys.readouterr().err
    assert PlanApprovals(home).find(digest).decision == "pending"
    assert policy(home, "decline", digest, "--yes") == 0


def test_nothing_works_without_a_policy_and_the_hint_says_what_to_do(
    home: MemberHome, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (("show",), ("check", str(plan_file))):
        assert policy(home, *arguments) == 4
        assert "ringfence policy init" in capsys.readouterr().err
