"""``ringfence evidence``: every number is recomputed, a wrong one is named, and the page shows what the file says."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence_desk import KEYS, PLAN, Desk, evidence_for, head_of, plan_of, receipt
from ledger_homes import DAY_S, OPENED, charge_rounds, make_home, write_settings

from ringfence.client import budget_commands
from ringfence.client.evidence_check import check_numbers, check_plan, check_words
from ringfence.client.member_home import MemberHome
from ringfence.client.receipt_check import check_own_ledger
from ringfence.model.console import run_application
from ringfence.model.evidence import PrivacyEvidence
from ringfence.model.key_files import make_signing_key
from ringfence.model.plan import Plan
from ringfence.privacy.ledger_anchor import sign_head
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.privacy.ledger_reader import LedgerReader
from ringfence.privacy.renyi_filter import SampledGaussian


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        plan_of(cohort=10),
        plan_of(contribution_bound=1),
        plan_of(noise_multiplier=4.0, sampling="poisson", sample_rate=0.05),
    ],
)
def test_honest_evidence_agrees_in_every_number(desk: Desk, plan: Plan) -> None:
    desk.lay(evidence_for(plan), plan=plan)
    code, text = desk.verify()
    assert code == 0, text
    checks = desk.checks("--plan", str(desk.plan))
    assert len([name for name in checks if "epsilon" in name]) == 8
    assert all(item["agrees"] is not False for item in checks.values())


def test_shared_noise_is_recomputed_from_the_smallest_cohort() -> None:
    shared = PLAN.model_copy(update={"privacy": PLAN.privacy.model_copy(update={"noise": "shared"})})
    shared = shared.model_copy(update={"cohort": shared.cohort.model_copy(update={"minimum": 10})})
    evidence = evidence_for(shared)
    assert all(item.agrees for item in check_numbers(evidence))
    assert evidence.guarantee("coordinator").noise_multiplier == pytest.approx(77.25 * 10**0.5)
    alone = evidence.guarantee("coordinator").model_copy(update={"noise_multiplier": 77.25 * 11**0.5})
    forged = evidence.model_copy(update={"guarantees": (alone, *evidence.guarantees[1:])})
    assert [item.name for item in check_numbers(forged) if not item.agrees] == [
        "guarantees.coordinator.noise_multiplier"
    ]


def forged(values: dict[str, Any], path: str, value: Any) -> PrivacyEvidence:
    """Change a value and write the promise anew, as a forger would who knows the form."""
    steps = path.split(".")
    inner: Any = values
    for step in steps[:-1]:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    inner[int(steps[-1]) if isinstance(inner, list) else steps[-1]] = value
    return PrivacyEvidence.model_validate_json(json.dumps(values))


HONEST = evidence_for().model_dump(mode="json")


@pytest.mark.parametrize(
    ("path", "factor", "named"),
    [
        ("guarantees.0.epsilon", 0.9, "guarantees.coordinator.epsilon"),
        ("guarantees.1.epsilon", 0.999, "guarantees.member.epsilon"),
        ("guarantees.3.epsilon", 1.5, "guarantees.everybody-else.epsilon"),
        ("guarantees.2.noise_multiplier", 1.01, "guarantees.coordinator-and-members.noise_multiplier"),
        ("epsilon_by_platforms.1", 0.5, "epsilon_by_platforms.1"),
        ("epsilon_by_platforms.3", 0.99, "epsilon_by_platforms.3"),
        ("per_conversation_epsilon", 0.9, "per_conversation_epsilon"),
        ("mechanism.grid_step", 2.0, "mechanism.grid_step"),
        ("mechanism.noise_multiplier", 2.0, "guarantees.coordinator.noise_multiplier"),
        ("delta", 0.1, "guarantees.coordinator.epsilon"),
    ],
)
def test_a_wrong_number_is_named_and_fails(desk: Desk, path: str, factor: float, named: str) -> None:
    values = json.loads(json.dumps(HONEST))
    inner: Any = values
    for step in path.split("."):
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    desk.lay(forged(values, path, inner * factor), plan=None)
    code, text = desk.verify()
    assert code == 1
    assert f"{named} says" in text
    assert "WRONG" in text


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("mechanism.steps", 30, "epsilon_by_platforms.1"),
        ("guarantees.3.colluding", 8, "coordinator-and-members.colluding"),
        ("unit", "a message", "unit"),
        ("relation", "add or remove one message", "relation"),
        ("not_hidden", ["facts about the population"], "not_hidden"),
        ("mechanism.sampling", "poisson", "mechanism.sampling"),
        ("accountant.name", "a better one", "accountant.name"),
        ("mechanism.size_classes", [255, 256, 256], "mechanism.size_classes"),
        ("contributors", 4, "receipts"),
        ("receipts", [], "receipts"),
        ("receipts.0.head", "e" * 64, "receipts.acme says"),
        ("receipts.0.signature", "bm90aGluZw==", "receipts.acme says"),
        ("receipts.0.signature", "not base64", "receipts.acme says"),
    ],
)
def test_a_wrong_statement_is_named_and_fails(desk: Desk, path: str, value: Any, named: str) -> None:
    desk.lay(forged(json.loads(json.dumps(HONEST)), path, value), plan=None)
    code, text = desk.verify()
    assert code == 1
    assert named in text


def test_a_promise_that_is_not_that_of_the_numbers_fails(desk: Desk) -> None:
    desk.lay(evidence_for())
    desk.file.write_text(desk.file.read_text().replace("almost the same", "exactly the same"))
    code, text = desk.verify()
    assert code == 1
    assert "promise" in text


def test_an_error_as_json_says_what_is_wrong(desk: Desk) -> None:
    desk.lay(forged(json.loads(json.dumps(HONEST)), "per_conversation_epsilon", 0.1))
    code, out, _ = desk.run("verify", str(desk.file), "--json")
    envelope = json.loads(out)
    assert (code, envelope["status"]) == (1, "error")
    assert "per_conversation_epsilon says 0.1" in envelope["message"]


class TestThePlan:
    def test_without_one_is_left_unchecked_and_said(self, desk: Desk) -> None:
        desk.lay(evidence_for(), plan=None)
        assert desk.checks()["plan_sha256"]["agrees"] is None

    def test_of_another_run_is_refused(self, desk: Desk) -> None:
        desk.lay(evidence_for(), plan=plan_of(noise_multiplier=90.0))
        code, text = desk.verify()
        assert code == 1
        assert "plan_sha256 says" in text

    def test_with_more_steps_than_were_accounted_for_is_refused(self) -> None:
        honest = list(check_plan(evidence_for(), PLAN))
        assert all(item.agrees for item in honest)
        longer = PLAN.model_copy(update={"training": PLAN.training.model_copy(update={"rounds": 11})})
        stated = evidence_for().model_copy(update={"plan_sha256": longer.digest()})
        assert "mechanism.steps" in [item.name for item in check_plan(stated, longer) if item.agrees is False]

    def test_with_repeated_rounds_is_fine(self) -> None:
        assert all(item.agrees for item in check_plan(evidence_for(attempts=12), PLAN))

    def test_of_the_releases_provenance_is_taken(self, desk: Desk) -> None:
        desk.lay(evidence_for(), plan=None)
        parameters = {"externalParameters": {"plan": PLAN.model_dump(mode="json")}}
        statement = json.dumps({"predicate": {"buildDefinition": parameters}}).encode()
        provenance = desk.folder / "provenance.intoto.json"
        provenance.write_text(json.dumps({"payload": base64.b64encode(statement).decode()}))
        assert desk.checks()["plan_sha256"]["agrees"] is True
        for content in ("{}", '{"payload": "bnVsbA=="}', "[]", '{"payload": "*"}'):
            provenance.write_text(content)
            assert desk.verify()[0] == 1

    def test_may_be_toml(self, desk: Desk, tmp_path: Path) -> None:
        desk.lay(evidence_for(plan_of()), plan=None)
        toml = tmp_path / "plan.toml"
        toml.write_text(
            'name = "spring"\nfederation = "north"\n[training]\nrounds = 10\nlocal_steps = 30\n'
            f'feature_set_sha256 = "{"a" * 64}"\n[privacy]\nnoise_multiplier = 77.25\n[cohort]\nminimum = 3\n'
        )
        assert desk.checks("--plan", str(toml))["plan_sha256"]["agrees"] is True


class TestReceipts:
    def test_that_the_members_signed_are_good(self, desk: Desk) -> None:
        desk.lay(evidence_for())
        for member in KEYS:
            desk.give_key(member)
        checks = desk.checks("--receipts", str(desk.receipts))
        assert all(checks[f"receipts.{member}"]["agrees"] is True for member in KEYS)

    def test_of_a_member_without_a_key_are_left_unchecked_and_said(self, desk: Desk) -> None:
        desk.lay(evidence_for())
        desk.give_key("acme")
        checks = desk.checks("--receipts", str(desk.receipts))
        assert checks["receipts.acme"]["agrees"] is True
        assert checks["receipts.bell"]["agrees"] is None

    def test_that_somebody_else_signed_are_refused(self, desk: Desk) -> None:
        receipts = [receipt(member, head_of(member), key=KEYS["core"]) for member in KEYS]
        desk.lay(evidence_for(receipts=receipts))
        for member in KEYS:
            desk.give_key(member)
        code, text = desk.verify("--receipts", str(desk.receipts))
        assert code == 1
        assert "receipts.acme says" in text
        assert "not signed by this member" in text
        assert "receipts.core says" not in text

    @pytest.mark.parametrize(
        ("given", "agrees"),
        [
            (head_of("acme"), True),
            (head_of("acme", seq=12, mark="x"), True),
            (head_of("acme", seq=5, mark="x"), None),  # nothing is known of what came after it
            (head_of("acme", mark="x"), False),
            (head_of("bell", seq=50), False),
        ],
    )
    def test_are_held_against_heads_that_members_gave(
        self, desk: Desk, given: LedgerHead, agrees: bool | None
    ) -> None:
        desk.lay(evidence_for())
        desk.give_key("acme")
        (desk.receipts / "acme.head").write_bytes(sign_head(given, key=KEYS["acme"]))
        if agrees is False:
            assert desk.verify("--receipts", str(desk.receipts))[0] == 1
        else:
            assert desk.checks("--receipts", str(desk.receipts))["receipts.acme"]["agrees"] is agrees

    @pytest.mark.parametrize("fault", ["empty", "no key", "nonsense", "forged head"])
    def test_that_cannot_be_read_are_named(self, desk: Desk, fault: str) -> None:
        desk.lay(evidence_for())
        if fault == "no key":
            (desk.receipts / "acme.head").write_bytes(b"x" * 100)
        if fault == "nonsense":
            (desk.receipts / "acme.pem").write_text("no key at all")
        if fault == "forged head":
            desk.give_key("acme")
            (desk.receipts / "acme.head").write_bytes(sign_head(head_of("acme"), key=KEYS["bell"]))
        code, text = desk.verify("--receipts", str(desk.receipts))
        assert code == (2 if fault == "forged head" else 4)
        assert "fix:" in text

    def given_by(
        self, folder: Path, member: str, *, receipts: Path, rounds: int
    ) -> tuple[LedgerHead, Ed25519PrivateKey]:
        """Have a member of its own ledger write what it gives to others; return its newest head and its key."""
        home = make_home(folder).create()
        write_settings(home, member=member)
        key = make_signing_key(home.identity_key_file)
        charge_rounds(home, "7", rounds=range(1, rounds + 1), plan=PLAN.digest())
        arguments = ["receipt", "--out", str(receipts), "--home", str(folder), "--json"]
        assert run_application(budget_commands.application, arguments) == 0
        with LedgerReader.open(home.ledger_file, anchor_path=home.ledger_anchor_file) as reader:
            return reader.verified_state().head, key

    def test_that_members_write_with_budget_receipt_are_what_evidence_is_held_against(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        given = {
            member: self.given_by(tmp_path / member, member, receipts=desk.receipts, rounds=10)
            for member in KEYS
        }
        honest = [receipt(member, head, key=key) for member, (head, key) in given.items()]
        desk.lay(evidence_for(receipts=honest))
        checks = desk.checks("--receipts", str(desk.receipts))
        assert all(checks[f"receipts.{member}"]["agrees"] is True for member in KEYS)
        # A ledger of which the member knows nothing, though its key signed it: a second one, beside the one it gave.
        head, key = given["acme"]
        forged = [receipt("acme", replace(head, hash="f" * 64), key=key), *honest[1:]]
        desk.lay(evidence_for(receipts=forged))
        code, text = desk.verify("--receipts", str(desk.receipts))
        assert code == 1
        assert "receipts.acme says" in text

    def test_need_a_ledger_and_a_place(self, desk: Desk, tmp_path: Path) -> None:
        receipts = desk.receipts / "acme.pem"
        receipts.write_text("a file where the folder should be")
        for folder, made in ((tmp_path / "none", False), (tmp_path / "member", True)):
            home = make_home(folder).create() if made else MemberHome(folder).create()
            write_settings(home)
            make_signing_key(home.identity_key_file)
            arguments = ["receipt", "--out", str(receipts), "--home", str(folder)]
            assert run_application(budget_commands.application, arguments) == 4

    def test_missing_in_a_demonstration_are_no_fault(self, desk: Desk) -> None:
        plan = plan_of(demonstration=True)
        desk.lay(evidence_for(plan, receipts=[]), plan=plan)
        assert desk.checks()["receipts"]["agrees"] is None


class TestTheMembersOwnLedger:
    def own(self, desk: Desk, *, rounds: int, mechanism: SampledGaussian | None = None) -> LedgerHead:
        home = make_home(desk.home.root)
        home.settings_file.write_text(
            'federation = "north"\nmember = "acme"\nfleet_address = "a:1"\nrelease_address = "a:2"\n'
            'plan_public_key = "x"\n'
        )
        if rounds:
            charge_rounds(
                home,
                "7",
                rounds=range(1, rounds + 1),
                plan=PLAN.digest(),
                at=OPENED,
                mechanism=mechanism or SampledGaussian(2, 1.0, 77.25, 30),
            )
        with LedgerReader.open(home.ledger_file, anchor_path=home.ledger_anchor_file) as reader:
            return reader.verified_state().head

    def lay(self, desk: Desk, own: LedgerHead) -> None:
        others = [receipt(member, head_of(member)) for member in ("bell", "core")]
        desk.lay(evidence_for(receipts=[receipt("acme", own), *others]))

    def test_that_charged_as_much_as_is_stated_agrees(self, desk: Desk) -> None:
        self.lay(desk, self.own(desk, rounds=10))
        checks = desk.checks()
        for name in ("own receipt", "own ledger: steps", "own ledger: terms"):
            assert checks[name]["agrees"] is True

    @pytest.mark.parametrize(
        ("rounds", "mechanism", "named"),
        [
            (11, None, "own ledger: steps"),  # a repeated round that the evidence forgot
            (0, None, "own ledger: steps"),
            (5, SampledGaussian(2, 1.0, 70.0, 30), "own ledger: terms"),
        ],
    )
    def test_that_charged_otherwise_refutes_the_evidence(
        self, desk: Desk, rounds: int, mechanism: SampledGaussian | None, named: str
    ) -> None:
        self.lay(desk, self.own(desk, rounds=rounds, mechanism=mechanism))
        code, text = desk.verify()
        assert code == 1
        assert f"{named} says" in text

    @pytest.mark.parametrize(
        ("stated", "charged", "agrees"),
        [
            (None, [], True),
            (20.0, [20.0], True),
            (20.0, [], True),  # the run was never evaluated here
            (None, [20.0], False),
            (20.0, [15.0], False),
            (20.0, [20.0, 20.0], False),
        ],
    )
    def test_counts_evaluations_as_well(
        self, desk: Desk, stated: float | None, charged: list[float], agrees: bool
    ) -> None:
        plan = plan_of(evaluation_noise_multiplier=stated)
        evidence = evidence_for(plan)
        home = make_home(desk.home.root)
        charge_rounds(home, "7", plan=plan.digest())
        for number, noise in enumerate(charged):
            mechanism = SampledGaussian(2, 1.0, noise, 1)
            later = OPENED + DAY_S + number
            charge_rounds(
                home, "7", rounds=[number], at=later, plan=plan.digest(), mechanism=mechanism, kind="evaluate"
            )
        with LedgerReader.open(home.ledger_file, anchor_path=home.ledger_anchor_file) as reader:
            checks = {
                item.name: item
                for item in check_own_ledger(evidence, member="nobody", entries=reader.entries())
            }
        assert checks["own ledger: evaluation"].agrees is agrees
        assert checks["own ledger: steps"].agrees is True

    def test_without_the_stated_head_refutes_the_evidence(self, desk: Desk) -> None:
        self.own(desk, rounds=10)
        self.lay(desk, head_of("acme"))
        code, text = desk.verify()
        assert code == 1
        assert "own receipt says" in text

    def test_without_a_part_in_the_run_says_so(self, desk: Desk) -> None:
        self.own(desk, rounds=0)
        plan = plan_of(demonstration=True)
        desk.lay(evidence_for(plan, receipts=[]), plan=plan)
        assert desk.checks()["own ledger"]["agrees"] is None


@pytest.mark.parametrize("command", ["show", "verify"])
@pytest.mark.parametrize(
    ("content", "code"), [(None, 4), ("", 1), ("[]", 1), ('{"promise": "x"}', 1), ("{", 1)]
)
def test_what_is_not_evidence_is_refused(desk: Desk, command: str, content: str | None, code: int) -> None:
    if content is not None:
        desk.file.write_text(content)
    found, _, err = desk.run(command, str(desk.file))
    assert found == code
    assert "fix:" in err


def test_a_version_that_is_not_installed_is_named(desk: Desk) -> None:
    code, _, err = desk.run("show", "9.9.9")
    assert code == 1
    assert "9.9.9" in err


def test_the_words_of_honest_evidence_are_the_agreed_ones() -> None:
    assert all(item.agrees for item in check_words(evidence_for()))
