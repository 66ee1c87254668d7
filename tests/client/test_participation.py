"""Whether a member takes part is decided by what it agreed to, in pure functions."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.client.member_settings import MemberSettings
from ringfence.client.participation import (
    check_app,
    check_ledger,
    check_round,
    check_software,
    check_terms,
    read_signed_plan,
)
from ringfence.client.refusals import refusal_code
from ringfence.model.errors import (
    BudgetError,
    ConfigError,
    DataError,
    PeerError,
    PolicyError,
    RingfenceError,
)
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import APP_ID, TRAIN_ACTION, RefusalCode, TrainRequest

KEY = Ed25519PrivateKey.generate()
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
FEATURES = "ab" * 32
PLAN = Plan(
    name="first",
    federation="demo",
    demonstration=True,
    training=TrainingTerms(feature_set_sha256=FEATURES, rounds=3),
    privacy=PrivacyTerms(noise_multiplier=5.0),
)
SETTINGS = MemberSettings(
    federation="demo",
    member="acme",
    fleet_address="127.0.0.1:1",
    release_address="127.0.0.1:2",
    demonstration=True,
    plan_public_key=PUBLIC,
)


def request(plan: bytes, signature: bytes, round_: int = 1) -> TrainRequest:
    return TrainRequest("run", plan, signature, round_, 1, np.zeros(3))


SIGNED = request(PLAN.canonical_json(), KEY.sign(PLAN.canonical_json()))


@pytest.mark.parametrize(
    ("app_id", "action"),
    [
        ("other/federation", TRAIN_ACTION),
        ("ringfence/other", TRAIN_ACTION),
        ("", TRAIN_ACTION),
        (APP_ID.upper(), TRAIN_ACTION),
        (APP_ID + " ", TRAIN_ACTION),
        (APP_ID, "train"),
        (APP_ID, "evaluate.update"),
        (APP_ID, ""),
        (APP_ID, TRAIN_ACTION + ".more"),
    ],
)
def test_another_app_or_action_is_refused(app_id: str, action: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_app(app_id, action)
    assert refusal_code(caught.value) is RefusalCode.UNKNOWN_APP


def test_the_one_app_and_action_pass() -> None:
    check_app(APP_ID, TRAIN_ACTION)


def test_a_plan_with_the_coordinators_signature_is_read() -> None:
    assert read_signed_plan(SIGNED, plan_public_key=PUBLIC) == PLAN


@pytest.mark.parametrize(
    "forged",
    [
        replace(SIGNED, signature=b""),
        replace(SIGNED, signature=b"\0" * 64),
        replace(SIGNED, signature=SIGNED.signature + b"\0"),
        replace(SIGNED, signature=Ed25519PrivateKey.generate().sign(SIGNED.plan)),
        replace(SIGNED, plan=SIGNED.plan + b" "),
        replace(SIGNED, plan=SIGNED.plan.replace(b"5.0", b"0.1")),
    ],
)
def test_a_plan_without_the_coordinators_signature_is_refused(forged: TrainRequest) -> None:
    with pytest.raises(PeerError):
        read_signed_plan(forged, plan_public_key=PUBLIC)


@pytest.mark.parametrize("content", [b"{}", b"", b"[]", b"\xff", SIGNED.plan.replace(b":", b": ")])
def test_a_signed_text_that_is_not_the_one_form_of_a_plan_is_refused(content: bytes) -> None:
    with pytest.raises(RingfenceError):
        read_signed_plan(request(content, KEY.sign(content)), plan_public_key=PUBLIC)


def test_a_signed_text_that_is_no_plan_is_the_coordinators_fault() -> None:
    """Its code must not say that the member's own data is not in order."""
    with pytest.raises(PeerError):
        read_signed_plan(request(b"{}", KEY.sign(b"{}")), plan_public_key=PUBLIC)


@pytest.mark.parametrize("change", [{"federation": "other"}, {"demonstration": False}])
def test_a_plan_of_another_federation_or_kind_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        check_terms(PLAN.model_copy(update=change), settings=SETTINGS)


def test_a_demonstration_plan_is_refused_in_a_real_federation() -> None:
    with pytest.raises(PolicyError):
        check_terms(PLAN, settings=SETTINGS.model_copy(update={"demonstration": False}))


def test_a_plan_of_the_members_own_terms_passes_every_check() -> None:
    check_terms(PLAN, settings=SETTINGS)
    check_software(PLAN, feature_set_sha256=FEATURES)
    check_ledger(PLAN, has_ledger=False)
    check_round(SIGNED, PLAN)


def test_another_feature_set_is_refused() -> None:
    with pytest.raises(PolicyError, match="feature set"):
        check_software(PLAN, feature_set_sha256="cd" * 32)


def test_an_unknown_architecture_is_refused() -> None:
    other = PLAN.training.model_copy(update={"architecture": "unknown"})
    with pytest.raises(PolicyError, match="architecture"):
        check_software(PLAN.model_copy(update={"training": other}), feature_set_sha256=FEATURES)


@pytest.mark.parametrize(
    ("demonstration", "has_ledger", "refused"),
    [
        (True, False, False),
        (True, True, False),
        (False, True, False),
        (False, False, True),
    ],
)
def test_without_a_ledger_only_demonstrations_are_answered(
    demonstration: bool, has_ledger: bool, refused: bool
) -> None:
    plan = PLAN.model_copy(update={"demonstration": demonstration})
    if refused:
        with pytest.raises(PolicyError):
            check_ledger(plan, has_ledger=has_ledger)
    else:
        check_ledger(plan, has_ledger=has_ledger)


@pytest.mark.parametrize(("round_", "refused"), [(1, False), (3, False), (4, True), (1000, True)])
def test_a_round_past_the_last_is_refused(round_: int, refused: bool) -> None:
    asked = replace(SIGNED, round=round_)
    if refused:
        with pytest.raises(PeerError):
            check_round(asked, PLAN)
    else:
        check_round(asked, PLAN)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyError("x"), RefusalCode.POLICY),
        (BudgetError("x"), RefusalCode.BUDGET),
        (PeerError("x"), RefusalCode.BAD_REQUEST),
        (DataError("x"), RefusalCode.NO_DATA),
        (ConfigError("x"), RefusalCode.NO_DATA),
        (RingfenceError("x"), RefusalCode.FAILED),
        (ValueError("planted-words"), RefusalCode.FAILED),
        (MemoryError(), RefusalCode.FAILED),
    ],
)
def test_every_error_has_a_code_and_the_code_is_all(error: Exception, code: RefusalCode) -> None:
    assert refusal_code(error) is code
