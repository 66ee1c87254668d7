"""The evidence of a release: complete, consistent, the plan's own, and its sentence that of its numbers."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ringfence.model.errors import ReleaseError
from ringfence.model.evidence import ADVERSARIES, PrivacyEvidence, check_evidence_fits, parse_evidence
from ringfence.model.plan import Plan

PLAN = Plan.model_validate(
    {
        "name": "spring",
        "federation": "example",
        "demonstration": True,
        "training": {"feature_set_sha256": "a" * 64},
        "privacy": {"noise_multiplier": 45.0},
    }
)


def values(**changes: Any) -> dict[str, Any]:
    return {
        "demonstration": True,
        "plan_sha256": PLAN.digest(),
        "contribution_bound": 2,
        "platforms": 2,
        "delta": 1e-6,
        "guarantees": [
            {"adversary": name, "epsilon": 2.5, "noise_multiplier": 45.0, "colluding": 0}
            for name in ADVERSARIES
        ],
        "per_conversation_epsilon": 0.9,
        "epsilon_by_platforms": {"1": 1.7, "2": 2.5, "3": 3.1},
        "mechanism": {
            "aggregation": "open",
            "noise": "member",
            "sampling": "full-batch",
            "sample_rate": 1.0,
            "steps": 300,
            "clip_norm": 1.0,
            "noise_multiplier": 45.0,
            "size_classes": [256, 256, 256],
            "dimension": 109,
            "grid_step": 2.0**-20,
        },
        "accountant": {"name": "exact Gaussian trade-off", "version": "1"},
        "contributors": 3,
        "public_inputs": [{"name": "features", "origin": "public chat", "licence": "MIT"}],
        "known_limits": ["A demonstration: no ledger was charged."],
        **changes,
    }


def evidence(**changes: Any) -> PrivacyEvidence:
    return PrivacyEvidence.model_validate_json(json.dumps(values(**changes)))


def test_the_promise_says_its_numbers_and_what_is_not_hidden_and_nothing_of_anonymity() -> None:
    sentence = evidence().promise()
    for part in (
        "at most 2 conversations",
        "at most 2 member platforms",
        "(2.50, 1e-06)",
        "who talked to whom",
    ):
        assert part in sentence
    assert "anonym" not in evidence().to_json().lower()


@pytest.mark.parametrize("bounds", ["grouped", "fractional"])
def test_the_promise_says_what_is_counted_where_more_than_k_conversations_may_be_used(bounds: str) -> None:
    sentence = evidence(mechanism=values()["mechanism"] | {"bounds": bounds}).promise()
    assert "whose conversations count for at most 2 at a member" in sentence
    assert "conversations used" not in sentence


def test_the_file_comes_back_as_it_was() -> None:
    assert parse_evidence(evidence().to_json()) == evidence()


def test_a_promise_that_is_not_that_of_the_numbers_is_refused() -> None:
    file = json.loads(evidence().to_json())
    file["promise"] = file["promise"].replace("2.50", "0.10")
    with pytest.raises(ReleaseError, match="not that of its numbers"):
        parse_evidence(json.dumps(file))
    del file["promise"]
    with pytest.raises(ReleaseError, match="not that of its numbers"):
        parse_evidence(json.dumps(file))


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"promise": 1}'])
def test_what_is_not_evidence_is_refused(content: str) -> None:
    with pytest.raises(ReleaseError):
        parse_evidence(content)


GUARANTEES = values()["guarantees"]


@pytest.mark.parametrize(
    "changes",
    [
        {"guarantees": GUARANTEES[:3]},
        {"guarantees": [*GUARANTEES, GUARANTEES[0]]},
        {"guarantees": [*GUARANTEES[:3], GUARANTEES[3] | {"epsilon": 1.0}]},
        {"guarantees": [GUARANTEES[0] | {"epsilon": -1.0}, *GUARANTEES[1:]]},
        {"guarantees": [GUARANTEES[0] | {"epsilon": float("nan")}, *GUARANTEES[1:]]},
        {"guarantees": [GUARANTEES[0] | {"noise_multiplier": 0}, *GUARANTEES[1:]]},
        {"epsilon_by_platforms": {"1": 1.7}},
        {"epsilon_by_platforms": {"2": 1.0}},
        {"known_limits": []},
        {"public_inputs": []},
        {"contributors": 0},
        {"delta": 0.5},
        {"plan_sha256": "x"},
        {"loss": 0.3},
    ],
)
def test_evidence_that_is_incomplete_or_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        evidence(**changes)


MECHANISM = values()["mechanism"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plan_sha256": "b" * 64}, "plan_sha256"),
        ({"contribution_bound": 1}, "contribution_bound"),
        ({"delta": 1e-9}, "delta"),
        ({"demonstration": False}, "demonstration"),
        ({"mechanism": MECHANISM | {"noise_multiplier": 90.0}}, "mechanism.noise_multiplier"),
        ({"mechanism": MECHANISM | {"clip_norm": 0.5}}, "mechanism.clip_norm"),
        ({"mechanism": MECHANISM | {"bounds": "grouped"}}, "mechanism.bounds"),
        ({"mechanism": MECHANISM | {"sampling": "poisson"}}, "mechanism.sampling"),
        ({"mechanism": MECHANISM | {"aggregation": "sealed"}}, "mechanism.aggregation"),
    ],
)
def test_evidence_of_other_terms_than_the_plans_is_refused(changes: dict[str, Any], named: str) -> None:
    check_evidence_fits(evidence(), plan=PLAN)
    with pytest.raises(ReleaseError, match=f"evidence's {named} is not the plan's"):
        check_evidence_fits(evidence(**changes), plan=PLAN)


def test_outside_a_demonstration_every_contributor_must_have_sent_a_receipt() -> None:
    real = PLAN.model_copy(update={"demonstration": False})
    receipt = {"member": "acme", "head": "c" * 64, "signature": "c2ln"}
    terms: dict[str, Any] = {"demonstration": False, "plan_sha256": real.digest(), "contributors": 2}
    check_evidence_fits(evidence(receipts=[receipt, receipt | {"member": "bell"}], **terms), plan=real)
    with pytest.raises(ReleaseError, match="receipt is missing"):
        check_evidence_fits(evidence(receipts=[receipt], **terms), plan=real)
    with pytest.raises(ReleaseError, match="receipt is missing"):
        check_evidence_fits(evidence(receipts=[receipt, receipt], **terms), plan=real)
