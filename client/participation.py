"""Whether this member takes part: what the coordinator asks for, held against what the member agreed to.

Pure decisions. Whatever the coordinator sends may narrow what a member does, never widen it.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature

from ringfence.client.member_settings import MemberSettings
from ringfence.model.errors import ConfigError, PeerError, PolicyError
from ringfence.model.evaluation_messages import EVALUATE_ACTION
from ringfence.model.head import ARCHITECTURES
from ringfence.model.key_files import signing_key_from_base64
from ringfence.model.plan import Plan, parse_plan
from ringfence.model.round_messages import APP_ID, TRAIN_ACTION, RoundRequest, TrainRequest


class UnknownAppError(PolicyError):
    """The coordinator runs something that this member does not know."""

    code = "unknown_app"


def check_app(app_id: str, action: str) -> None:
    """Refuse a message of another app or of an action that this member does not know.

    Raises:
        UnknownAppError: it is one.
    """
    if app_id != APP_ID:
        raise UnknownAppError(
            "The coordinator runs an app that this member does not know.", hint=f"Only {APP_ID} is known."
        )
    if action not in (TRAIN_ACTION, EVALUATE_ACTION):
        raise UnknownAppError("The coordinator asks for an action that this member does not know.")


def read_signed_plan(request: RoundRequest, *, plan_public_key: str) -> Plan:
    """Return the plan of a request after checking the coordinator's signature.

    Args:
        request: as it came.
        plan_public_key: Ed25519 key that this member was given when it joined, base64 of its 32 bytes.

    Raises:
        PeerError: the signature is not the coordinator's, or the plan is not one. The coordinator's fault.
    """
    try:
        signing_key_from_base64(plan_public_key).verify(request.signature, request.plan)
    except InvalidSignature as error:
        raise PeerError("The plan is not signed by this federation's coordinator.") from error
    try:
        plan = parse_plan(request.plan)
    except ConfigError as error:
        raise PeerError(f"The coordinator signed something that is no plan: {error.message}") from error
    if plan.canonical_json() != request.plan:
        raise PeerError("The plan is not in its canonical form.")
    return plan


def check_terms(plan: Plan, *, settings: MemberSettings) -> None:
    """Refuse a plan that is not for this member's federation.

    Raises:
        PolicyError: it is not; the message says where.
    """
    if plan.federation != settings.federation:
        raise PolicyError(f"The plan is for the federation {plan.federation}, not {settings.federation}.")
    if plan.demonstration != settings.demonstration:
        raise PolicyError("Plan and federation disagree on being a demonstration.")


def check_software(plan: Plan, *, feature_set_sha256: str) -> None:
    """Refuse a plan that this installation cannot carry out as it is meant.

    Args:
        plan: as signed by the coordinator.
        feature_set_sha256: fingerprint of the feature set of that name that is installed here.

    Raises:
        PolicyError: it cannot; the message says why.
    """
    if plan.training.architecture not in ARCHITECTURES:
        raise PolicyError(
            f"The architecture {plan.training.architecture} is not known here.", hint="Update ringfence."
        )
    if plan.training.feature_set_sha256 != feature_set_sha256:
        raise PolicyError(
            "The plan's feature set differs from the one installed here.", hint="Update ringfence."
        )


def check_ledger(plan: Plan, *, has_ledger: bool) -> None:
    """Refuse to answer a real plan where nothing charges for the answer.

    Raises:
        PolicyError: the plan is not a demonstration and there is no ledger.
    """
    if not plan.demonstration and not has_ledger:
        raise PolicyError(
            "Without a privacy ledger a member takes part in demonstrations only.",
            hint="Run the member's agent: ringfence agent run",
        )


def check_round(request: RoundRequest, plan: Plan) -> None:
    """Refuse a round or an evaluation that the plan does not have.

    Raises:
        PeerError: it has not. The coordinator's fault.
    """
    if not isinstance(request, TrainRequest):
        if plan.privacy.evaluation_noise_multiplier is None:
            raise PeerError("The plan has no evaluation.")
        return
    if request.round > plan.training.rounds:
        raise PeerError(f"Round {request.round} is past the plan's last, {plan.training.rounds}.")
