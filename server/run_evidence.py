"""The evidence of a run, computed from its plan and from what the coordinator saw of it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from ringfence.model.errors import ConfigError
from ringfence.model.evidence import (
    ADVERSARIES,
    Accountant,
    Guarantee,
    LedgerReceipt,
    Mechanism,
    PrivacyEvidence,
    PublicInput,
)
from ringfence.model.feature_set import MANIFEST_FILE, FeatureManifest, FeatureSet
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import (
    PLATFORMS,
    PROMISED_PLATFORMS,
    accountant_name,
    adversary_noise,
    composed_epsilon,
    largest_collusion,
)
from ringfence.privacy.grid import Grid
from ringfence.privacy.run_mechanisms import run_mechanisms, tail_delta

_ALWAYS_LIMITS = (
    "A person under several accounts counts as several people.",
    "Each further run on the same conversations adds to these numbers.",
    "When a member answered, and that it took part, is not hidden.",
    "The promise holds for members whose own software and machines do what they should.",
)
_DEMONSTRATION_LIMIT = (
    "A demonstration on public or invented data: the numbers show the arithmetic and protect nobody."
)
_OPEN_LIMIT = (
    "Open aggregation: the coordinator sees the noised update of each member, not only the sum of all."
)


def evidence_of_run(
    plan: Plan,
    *,
    dimension: int,
    contributors: int,
    size_classes: Sequence[int],
    public_inputs: Sequence[PublicInput],
    attempts: int | None = None,
    clamp: float | None = None,
    receipts: Sequence[LedgerReceipt] = (),
    audit_report_sha256: str | None = None,
) -> PrivacyEvidence:
    """Return what ``privacy.json`` says of a run.

    Mechanism: T (sampled) Gaussian steps a member, at the smallest cohort that the plan allows, and its score histogram if
        the plan has an evaluation.
    Unit: one participant, at most k conversations at each of at most two members.
    Assumes: no member answered more attempts of rounds than ``attempts``.
    Sensitivity: k * S (`ringfence.privacy.grid`).
    Source: as `ringfence.privacy.accounting`.

    Args:
        plan: that the members agreed to.
        dimension: d, parameters of the head.
        contributors: members whose data was used.
        size_classes: B, of those members.
        public_inputs: everything else that went in.
        attempts: attempts of rounds that any member may have answered, repeated ones included; the plan's rounds by default.
        clamp: largest absolute value of a number that left a member.
        receipts: of the members' ledgers.
        audit_report_sha256: of the statistical audit's report.

    Raises:
        ConfigError: delta is too small for this many steps. The plan's fault.
    """
    terms, k = plan.privacy, plan.privacy.contribution_bound
    steps = (plan.training.rounds if attempts is None else attempts) * plan.training.local_steps
    evaluations = 0 if terms.evaluation_noise_multiplier is None else 1
    delta = terms.delta - max(PLATFORMS) * tail_delta(
        dimension=dimension, steps=steps, evaluations=evaluations
    )
    if delta <= 0:
        raise ConfigError(
            "delta is too small for this many steps.", hint="Allow a larger delta or fewer steps."
        )

    def epsilon(noise: float, *, conversations: int = k, platforms: int = 1) -> float:
        mechanisms = run_mechanisms(
            contribution_bound=conversations,
            sample_rate=terms.sample_rate,
            noise_multiplier=noise,
            steps=steps,
            shared_noise=terms.noise == "shared",
            evaluation_noise_multiplier=terms.evaluation_noise_multiplier,
            platforms=platforms,
        )
        return composed_epsilon(mechanisms, delta=delta)

    remaining = {name: noise for name, _, noise in adversary_noise(plan)}
    colluding = {"coordinator-and-members": largest_collusion(plan.cohort.minimum)}
    guarantees = {
        name: Guarantee(
            adversary=name,
            epsilon=epsilon(remaining[name], platforms=PROMISED_PLATFORMS),
            noise_multiplier=remaining[name],
            colluding=colluding.get(name, plan.cohort.minimum - 1 if name == "everybody-else" else 0),
        )
        for name in ADVERSARIES
    }
    headline = guarantees["coordinator-and-members"]
    by_platforms = {count: epsilon(headline.noise_multiplier, platforms=count) for count in PLATFORMS}
    return PrivacyEvidence(
        demonstration=plan.demonstration,
        plan_sha256=plan.digest(),
        contribution_bound=k,
        platforms=PROMISED_PLATFORMS,
        delta=terms.delta,
        guarantees=tuple(guarantees.values()),
        per_conversation_epsilon=epsilon(headline.noise_multiplier, conversations=1),
        epsilon_by_platforms=by_platforms,
        mechanism=Mechanism(
            aggregation=plan.aggregation,
            noise=terms.noise,
            bounds=terms.bounds,
            sampling=terms.sampling,
            sample_rate=terms.sample_rate,
            steps=steps,
            clip_norm=terms.clip_norm,
            noise_multiplier=terms.noise_multiplier,
            size_classes=tuple(sorted(size_classes)),
            dimension=dimension,
            grid_step=Grid(clip_norm=terms.clip_norm, dimension=dimension).step,
            clamp=clamp,
            evaluation_noise_multiplier=terms.evaluation_noise_multiplier,
        ),
        accountant=Accountant(
            name=accountant_name(terms.sample_rate),
            version=f"Ringfence {importlib.metadata.version('ringfence')}",
        ),
        contributors=contributors,
        receipts=tuple(receipts),
        audit_report_sha256=audit_report_sha256,
        public_inputs=tuple(public_inputs),
        known_limits=_known_limits(plan),
    )


def describe_features(feature_set: FeatureSet) -> PublicInput:
    """Return the public feature set as one input of a release, with what its manifest says of its origin."""
    manifest = FeatureManifest.model_validate_json(feature_set.files[MANIFEST_FILE])
    origin = "; ".join(f"{key}: {value}" for key, value in sorted(manifest.provenance.items()))
    return PublicInput(
        name=f"feature set {feature_set.name}",
        origin=origin or "see features/",
        licence="Apache-2.0 and MIT, see features/NOTICE.md",
        sha256=feature_set.fingerprint,
    )


def _known_limits(plan: Plan) -> tuple[str, ...]:
    limits = list(_ALWAYS_LIMITS)
    if plan.aggregation == "open":
        limits.insert(0, _OPEN_LIMIT)
    if plan.demonstration:
        limits.insert(0, _DEMONSTRATION_LIMIT)
    return tuple(limits)
