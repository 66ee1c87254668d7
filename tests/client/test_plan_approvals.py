"""A person's word about a plan: for that plan alone, kept across restarts, and never taken for given."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ringfence.client.member_home import MemberHome
from ringfence.client.plan_approvals import MOST_PENDING, NotApprovedError, PlanApprovals, PlanRecord
from ringfence.client.policy import default_policy
from ringfence.client.policy_check import Spending
from ringfence.client.policy_gate import PolicyGate
from ringfence.client.policy_text import save_policy
from ringfence.client.refusals import refusal_code
from ringfence.model.errors import ConfigError, PolicyError
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import RefusalCode
from ringfence.privacy.ledger_chain import LedgerEntry, next_entry

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def plan(name: str = "spring", **privacy: float) -> Plan:
    return Plan(
        name=name,
        federation="chat",
        training=TrainingTerms(feature_set_sha256="a" * 64),
        privacy=PrivacyTerms(**{"noise_multiplier": 78.0, **privacy}),
        cohort=CohortTerms(minimum=3),
    )


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return MemberHome(tmp_path / "member").create()


@pytest.fixture
def approvals(home: MemberHome) -> PlanApprovals:
    return PlanApprovals(home)


def test_a_plan_waits_until_a_person_approves_it(home: MemberHome, approvals: PlanApprovals) -> None:
    for later in range(3):
        with pytest.raises(NotApprovedError) as waiting:
            approvals.require(plan(), now=NOW + timedelta(hours=later))
        assert refusal_code(waiting.value) is RefusalCode.NOT_APPROVED
        assert plan().digest()[:12] in waiting.value.hint
    (record,) = approvals.records()
    assert (record.decision, record.asked_at, record.plan) == ("pending", NOW, plan())
    approvals.decide(record.digest, decision="approved", now=NOW)
    PlanApprovals(home).require(plan(), now=NOW)  # as after a restart


def test_a_declined_plan_is_refused_as_outside_of_the_policy_and_can_be_approved_later(
    approvals: PlanApprovals,
) -> None:
    with pytest.raises(NotApprovedError):
        approvals.require(plan(), now=NOW)
    approvals.decide(plan().digest(), decision="declined", now=NOW)
    with pytest.raises(PolicyError, match="declined") as refused:
        approvals.require(plan(), now=NOW)
    assert refusal_code(refused.value) is RefusalCode.POLICY
    approvals.decide(plan().digest(), decision="approved", now=NOW)
    approvals.require(plan(), now=NOW)
    approvals.decide(plan().digest(), decision="declined", now=NOW)
    with pytest.raises(PolicyError, match="declined"):
        approvals.require(plan(), now=NOW)


@pytest.mark.parametrize(
    "other", [plan("summer"), plan(noise_multiplier=77.9), plan(delta=1e-7)], ids=["name", "noise", "delta"]
)
def test_a_word_about_one_plan_is_no_word_about_another(other: Plan, approvals: PlanApprovals) -> None:
    with pytest.raises(NotApprovedError):
        approvals.require(plan(), now=NOW)
    approvals.decide(plan().digest(), decision="approved", now=NOW)
    with pytest.raises(NotApprovedError):
        approvals.require(other, now=NOW)


def test_a_record_that_was_swapped_for_another_plan_is_refused(
    home: MemberHome, approvals: PlanApprovals
) -> None:
    wanted = plan(noise_multiplier=2.0)
    with pytest.raises(NotApprovedError):
        approvals.require(plan(), now=NOW)
    approvals.decide(plan().digest(), decision="approved", now=NOW)
    folder = home.agent / "plans"
    (folder / f"{wanted.digest()}.json").write_bytes((folder / f"{plan().digest()}.json").read_bytes())
    with pytest.raises(ConfigError, match="does not hold the plan of that name"):
        approvals.require(wanted, now=NOW)


def test_a_record_whose_plan_was_edited_under_its_digest_is_refused(
    home: MemberHome, approvals: PlanApprovals
) -> None:
    with pytest.raises(NotApprovedError):
        approvals.require(plan(), now=NOW)
    file = home.agent / "plans" / f"{plan().digest()}.json"
    values = json.loads(file.read_text())
    values["plan"]["training"]["rounds"] = 999
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="does not hold"):
        approvals.records()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"decision": "approved"}'])
def test_a_damaged_record_is_no_approval(content: str, home: MemberHome, approvals: PlanApprovals) -> None:
    with pytest.raises(NotApprovedError):
        approvals.require(plan(), now=NOW)
    (home.agent / "plans" / f"{plan().digest()}.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        approvals.require(plan(), now=NOW)


def test_a_flood_of_plans_fills_neither_the_disk_nor_the_list(
    home: MemberHome, approvals: PlanApprovals
) -> None:
    for number in range(MOST_PENDING + 5):
        with pytest.raises(NotApprovedError):
            approvals.require(plan(f"flood-{number}"), now=NOW)
    assert len(approvals.records()) == MOST_PENDING
    approvals.decide(approvals.records()[0].digest, decision="declined", now=NOW)
    with pytest.raises(NotApprovedError):
        approvals.require(plan("one-more"), now=NOW)
    assert len(approvals.records()) == MOST_PENDING + 1


def test_a_plan_is_found_by_the_beginning_of_its_digest(approvals: PlanApprovals) -> None:
    with pytest.raises(NotApprovedError):
        approvals.require(plan(), now=NOW)
    digest = plan().digest()
    assert approvals.find(digest[:8]).digest == approvals.find(digest.upper()).digest == digest
    for wrong in ("", digest[:7], "f" * 64, "../../../x", "nothing here"):
        with pytest.raises(ConfigError):
            approvals.find(wrong)
    with pytest.raises(ConfigError, match="Nobody asked"):
        approvals.decide("f" * 64, decision="approved", now=NOW)


def test_an_agent_that_asks_while_a_person_decides_loses_no_decision(
    home: MemberHome, approvals: PlanApprovals
) -> None:
    names = [f"plan-{number}" for number in range(12)]
    for name in names:
        with pytest.raises(NotApprovedError):
            approvals.require(plan(name), now=NOW)

    def ask(name: str) -> None:
        with contextlib.suppress(NotApprovedError):
            PlanApprovals(home).require(plan(name), now=NOW)

    def decide(name: str) -> None:
        PlanApprovals(home).decide(plan(name).digest(), decision="approved", now=NOW)

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(action, name) for name in names for action in (ask, decide, ask)]
        for item in done:
            item.result(60)
    assert {record.decision for record in approvals.records()} == {"approved"}


def test_a_decision_made_while_the_agent_notes_the_plan_is_not_written_over(home: MemberHome) -> None:
    def ask_and_approve() -> None:
        with contextlib.suppress(NotApprovedError):
            PlanApprovals(home).require(plan(), now=NOW)
        PlanApprovals(home).decide(plan().digest(), decision="approved", now=NOW)

    class Interrupted(PlanApprovals):
        """Somebody else asks and decides between this agent's look and its note, if nothing keeps them apart."""

        def _read(self, digest: str) -> PlanRecord | None:
            found = super()._read(digest)
            if not other.is_alive():
                other.start()
                other.join(0.5)
            return found

    other = threading.Thread(target=ask_and_approve)
    with pytest.raises(NotApprovedError):
        Interrupted(home).require(plan(), now=NOW)
    other.join(60)
    PlanApprovals(home).require(plan(), now=NOW)


class ChargedLedger:
    """Stands for a member's ledger that holds a number of answers to the plan in question."""

    order = 4

    def __init__(self, answers: int, evaluations: int) -> None:
        self._answers, self._evaluations = answers, evaluations

    def entries(self, *, after: int = 0) -> Iterator[LedgerEntry]:
        for number in range(after, self._answers):
            body = {"plan": plan().digest(), "headline_units": 1, "fallback_units": 1}
            yield next_entry(None, kind="charge", key=f"run/x/round/{number}/attempt/1", body=body)
        for number in range(self._evaluations):
            body = {"plan": plan().digest(), "headline_units": 1, "fallback_units": 1}
            yield next_entry(None, kind="evaluate", key=f"run/{number}/evaluation", body=body)


def permission(home: MemberHome, *, answers: int = 0, evaluations: int = 0) -> Callable[..., None]:
    gate = PolicyGate(home, ledger=ChargedLedger(answers, evaluations), now=lambda: NOW)  # type: ignore[arg-type]
    return gate.permit


def test_the_agent_asks_a_person_only_about_plans_within_the_policy(home: MemberHome) -> None:
    save_policy(home, policy=default_policy(federation="chat"))
    with pytest.raises(PolicyError, match="contribution_bound"):
        permission(home)(plan(contribution_bound=3))
    assert PlanApprovals(home).records() == ()
    with pytest.raises(NotApprovedError):
        permission(home)(plan())
    PlanApprovals(home).decide(plan().digest(), decision="approved", now=NOW)
    permission(home)(plan())


def test_an_approval_is_for_one_runs_worth_of_privacy(home: MemberHome) -> None:
    save_policy(home, policy=default_policy(federation="chat"))
    with pytest.raises(NotApprovedError):
        permission(home)(plan())
    PlanApprovals(home).decide(plan().digest(), decision="approved", now=NOW)
    permission(home, answers=29)(plan())
    with pytest.raises(NotApprovedError, match="one run's worth, 30 answers"):
        permission(home, answers=30)(plan())
    assert [record.decision for record in PlanApprovals(home).records()] == ["pending"]
    with pytest.raises(
        NotApprovedError
    ):  # not by asking again, nor for a round that was not asked about before
        permission(home, answers=0)(plan())
    spent = Spending(4, answers=30)
    PlanApprovals(home).decide(plan().digest(), decision="approved", now=NOW, spent=spent)
    permission(home, answers=30)(plan())
    with pytest.raises(PolicyError, match="60 answers to the plan would be"):
        permission(home, answers=59)(plan())


def test_an_approval_is_for_one_evaluation(home: MemberHome) -> None:
    save_policy(home, policy=default_policy(federation="chat"))
    with pytest.raises(NotApprovedError):
        permission(home)(plan())
    PlanApprovals(home).decide(plan().digest(), decision="approved", now=NOW)
    permission(home, answers=30)(plan(), "evaluation")
    with pytest.raises(NotApprovedError):
        permission(home, answers=30, evaluations=1)(plan(), "evaluation")


def test_a_change_of_the_policy_counts_at_the_next_question(home: MemberHome) -> None:
    policy = default_policy(federation="chat")
    automatic = policy.model_copy(
        update={"launch": policy.launch.model_copy(update={"approval": "automatic"})}
    )
    save_policy(home, policy=automatic)
    ask = permission(home)
    ask(plan())
    save_policy(home, policy=policy, replace=True)
    with pytest.raises(NotApprovedError):
        ask(plan())
    home.policy_file.write_text("[limits]\nroundz = 3\n")
    with pytest.raises(ConfigError, match="roundz"):
        ask(plan())
    home.policy_file.unlink()
    with pytest.raises(ConfigError, match="There is no policy"):
        ask(plan())
