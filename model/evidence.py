"""``privacy.json``: what a release promises a person, and every number from which others can check it.

The points are those of NIST SP 800-226: epsilon, delta and the unit; contributions bounded before the mechanism; the
neighbouring relation; the total over time; the trust model; floating point; side channels; tests.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ringfence.model.bounds import Bounds
from ringfence.model.errors import ReleaseError
from ringfence.model.plan import Name, Plan, Sha256, describe

Adversary = Literal["coordinator", "member", "coordinator-and-members", "everybody-else"]
ADVERSARIES: tuple[Adversary, ...] = (
    "coordinator",
    "member",
    "coordinator-and-members",
    "everybody-else",
)
HEADLINE: Adversary = "coordinator-and-members"
FALLBACK: Adversary = "everybody-else"

UNIT = "a participant, over all of their conversations used at a member, up to the contribution bound"
RELATION = "zero-out of the content of one participant's conversations, on a fixed graph of conversations and participants"
NOT_HIDDEN = (
    "who talked to whom",
    "that a conversation was selected for review",
    "that a company takes part",
    "facts about the population",
)

Epsilon = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Guarantee(_Form):
    """(epsilon, delta) against one adversary.

    Attributes:
        adversary: who looks.
        epsilon: for a participant with at most k conversations at each of at most m members.
        noise_multiplier: standard deviation of the noise that this adversary cannot remove, in units of the clip norm.
        colluding: members that share what they know with the adversary.
    """

    adversary: Adversary
    epsilon: Epsilon
    noise_multiplier: Annotated[float, Field(gt=0)]
    colluding: Annotated[int, Field(ge=0)] = 0


class Mechanism(_Form):
    """What was computed with noise, and the noise.

    Attributes:
        aggregation: as in the plan.
        noise: as in the plan.
        bounds: as in the plan.
        sampling: as in the plan.
        sample_rate: q; 1 for full batch.
        steps: T, noised sums of a member over the run.
        clip_norm: C, L2 bound of one conversation's gradient.
        noise_multiplier: s_i, of one member, in units of C.
        size_classes: B, public constants by which members divide, a power of two each; one a member, in no order.
        dimension: d, numbers in one noised sum.
        grid_step: gamma, the integer grid's unit.
        clamp: largest absolute value of a number that leaves a member, or None where nothing is clamped.
        evaluation_noise_multiplier: of the score histogram that each member gave once, in conversations; None without one.
    """

    aggregation: Literal["open", "sealed"]
    noise: Literal["member", "shared"]
    bounds: Bounds = "greedy"
    sampling: Literal["full-batch", "poisson"]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1)]
    clip_norm: Annotated[float, Field(gt=0)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    size_classes: tuple[Annotated[int, Field(ge=1)], ...]
    dimension: Annotated[int, Field(ge=1)]
    grid_step: Annotated[float, Field(gt=0)]
    clamp: Annotated[float, Field(gt=0)] | None = None
    evaluation_noise_multiplier: Annotated[float, Field(gt=0)] | None = None


class Accountant(_Form):
    """Which program computed the epsilons.

    Attributes:
        name: method and package.
        version: of the package.
    """

    name: Text
    version: Text


class LedgerReceipt(_Form):
    """A member's word that its ledger charged this run.

    Attributes:
        member: identifier of the member.
        head: SHA-256 of the ledger's newest entry.
        signature: the signed head, base64: Ed25519 signature by the member's identity key (64 bytes), then the head in
            canonical JSON; see `ringfence.privacy.ledger_anchor`.
    """

    member: Name
    head: Sha256
    signature: Text


class PublicInput(_Form):
    """Something that shaped the detector and is nobody's private data.

    Attributes:
        name: what it is.
        origin: where it comes from.
        licence: under which it may be used.
        sha256: of its bytes, where it is one file or one set of files.
    """

    name: Text
    origin: Text
    licence: Text
    sha256: Sha256 | None = None


class PrivacyEvidence(_Form):
    """The whole of ``privacy.json``.

    Attributes:
        schema_version: of this form.
        demonstration: True where the data was public or invented, so that the numbers protect nobody.
        plan_sha256: of the plan that the members agreed to.
        unit: whom the promise protects.
        relation: what two data sets differ in.
        contribution_bound: k, the most that one participant's conversations count for at one member.
        platforms: m, members at which one participant may have been used.
        delta: of every guarantee.
        guarantees: one for each of the four adversaries.
        per_conversation_epsilon: the headline's epsilon for one conversation (k = m = 1).
        epsilon_by_platforms: the headline's epsilon for a participant on 1, 2, 3 ... members.
        mechanism: what was noised, and how.
        accountant: what computed the epsilons.
        contributors: members whose data was used.
        receipts: of the members' ledgers.
        audit_report_sha256: of the report of the statistical audit, or None.
        public_inputs: everything else that went in.
        not_hidden: what the promise does not cover.
        known_limits: what a reader must know before relying on it.
    """

    schema_version: Literal[1] = 1
    demonstration: bool
    plan_sha256: Sha256
    unit: Text = UNIT
    relation: Text = RELATION
    contribution_bound: Annotated[int, Field(ge=1, le=64)]
    platforms: Annotated[int, Field(ge=1, le=64)]
    delta: Annotated[float, Field(gt=0, lt=1e-3)]
    guarantees: tuple[Guarantee, ...]
    per_conversation_epsilon: Epsilon
    epsilon_by_platforms: dict[Annotated[int, Field(ge=1)], Epsilon]
    mechanism: Mechanism
    accountant: Accountant
    contributors: Annotated[int, Field(ge=1)]
    receipts: tuple[LedgerReceipt, ...] = ()
    audit_report_sha256: Sha256 | None = None
    public_inputs: Annotated[tuple[PublicInput, ...], Field(min_length=1)]
    not_hidden: tuple[Text, ...] = NOT_HIDDEN
    known_limits: Annotated[tuple[Text, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        found = sorted(guarantee.adversary for guarantee in self.guarantees)
        if found != sorted(ADVERSARIES):
            raise ValueError("guarantees must name each of the four adversaries once")
        if self.guarantee(FALLBACK).epsilon < self.guarantee(HEADLINE).epsilon:
            raise ValueError("everybody else together cannot learn less than some of them")
        if self.epsilon_by_platforms.get(self.platforms) != self.guarantee(HEADLINE).epsilon:
            raise ValueError(
                "epsilon_by_platforms must hold the headline's epsilon at its number of platforms"
            )
        return self

    def guarantee(self, adversary: Adversary) -> Guarantee:
        """Return what is guaranteed against one adversary."""
        return next(item for item in self.guarantees if item.adversary == adversary)

    def promise(self) -> str:
        """Return the promise to a person, in one paragraph with its numbers."""
        headline, fallback = self.guarantee(HEADLINE), self.guarantee(FALLBACK)
        return (
            f"For every person {said_bound(self.contribution_bound, self.mechanism.bounds)}, and at most "
            f"{self.platforms} member platforms, the released models reveal almost the same whether or not the content "
            f"of those conversations was used: (epsilon, delta) = ({round_up(headline.epsilon)}, {self.delta:g}) against "
            f"the coordinator together with up to {headline.colluding} members, and ({round_up(fallback.epsilon)}, "
            f"{self.delta:g}) if everybody else colludes. Not hidden: {', '.join(self.not_hidden)}."
        )

    def to_json(self) -> str:
        """Return the one text that is written as ``privacy.json``, the promise included for people."""
        values = {"promise": self.promise(), **self.model_dump(mode="json")}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


def said_bound(contribution_bound: int, bounds: Bounds) -> str:
    """Return whom a promise is about, as a part of its sentence."""
    if bounds == "greedy":
        # Releases hold this sentence word for word: for k = 1 too it says "conversations".
        return f"with at most {contribution_bound} conversations used at a member"
    return f"whose conversations count for at most {contribution_bound} at a member"


def round_up(epsilon: float) -> str:
    """Return an epsilon with two decimals, never smaller than it is."""
    return f"{math.ceil(round(epsilon * 100, 6)) / 100:.2f}"


def parse_evidence(content: bytes | str) -> PrivacyEvidence:
    """Read ``privacy.json``; its ``promise`` must be the one that its numbers make.

    Raises:
        ReleaseError: the evidence is not in the agreed form, or its sentence is not its numbers'. The builder's fault.
    """
    try:
        values = json.loads(content)
        sentence = values.pop("promise", None) if isinstance(values, dict) else None
        evidence = PrivacyEvidence.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ReleaseError(
            f"privacy.json is not in the agreed form: {describe(error)}", hint="Do not use this release."
        ) from error
    except ValueError as error:
        raise ReleaseError("privacy.json is not JSON.", hint="Do not use this release.") from error
    if sentence != evidence.promise():
        raise ReleaseError(
            "The promise of privacy.json is not that of its numbers.", hint="Do not use this release."
        )
    return evidence


def check_evidence_fits(evidence: PrivacyEvidence, *, plan: Plan) -> None:
    """Refuse evidence whose terms are not those of the plan that the members agreed to.

    Raises:
        ReleaseError: a term differs; the message names it. The builder's fault.
    """
    privacy, mechanism = plan.privacy, evidence.mechanism
    pairs: dict[str, tuple[object, object]] = {
        "plan_sha256": (evidence.plan_sha256, plan.digest()),
        "demonstration": (evidence.demonstration, plan.demonstration),
        "contribution_bound": (evidence.contribution_bound, privacy.contribution_bound),
        "delta": (evidence.delta, privacy.delta),
        "mechanism.aggregation": (mechanism.aggregation, plan.aggregation),
        "mechanism.noise": (mechanism.noise, privacy.noise),
        "mechanism.bounds": (mechanism.bounds, privacy.bounds),
        "mechanism.sampling": (mechanism.sampling, privacy.sampling),
        "mechanism.sample_rate": (mechanism.sample_rate, privacy.sample_rate),
        "mechanism.clip_norm": (mechanism.clip_norm, privacy.clip_norm),
        "mechanism.noise_multiplier": (mechanism.noise_multiplier, privacy.noise_multiplier),
        "mechanism.evaluation_noise_multiplier": (
            mechanism.evaluation_noise_multiplier,
            privacy.evaluation_noise_multiplier,
        ),
    }
    for name, (stated, planned) in pairs.items():
        if stated != planned:
            raise ReleaseError(
                f"The evidence's {name} is not the plan's.",
                hint="Build the evidence from the run's own plan.",
            )
    members_with_receipt = {receipt.member for receipt in evidence.receipts}
    if not evidence.demonstration and len(members_with_receipt) < evidence.contributors:
        raise ReleaseError(
            "A contributor's ledger receipt is missing.",
            hint="Ask each contributor for the receipt of this run.",
        )
