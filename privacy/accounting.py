"""What a plan promises: epsilon for a person, for a conversation, on several platforms, against each adversary.

This is for planning and for certificates, where the sequence of steps is fixed beforehand. The ledger's gate is
`ringfence.privacy.renyi_filter`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from ringfence.model.bounds import Bounds
from ringfence.model.errors import ConfigError
from ringfence.model.evidence import said_bound
from ringfence.model.head import parameter_count
from ringfence.model.plan import Plan
from ringfence.privacy.gaussian_privacy import gaussian_epsilon
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.run_mechanisms import run_mechanisms, tail_delta

PLATFORMS = (1, 2, 3)
"""Numbers of member platforms of one person for which epsilon is stated."""

PROMISED_PLATFORMS = 2
"""The number of platforms that the promise's sentence is about."""

LINEAR_HEAD_PARAMETERS = 109
_PLD_INTERVAL = 1e-3


@dataclass(frozen=True, slots=True)
class AdversaryEpsilon:
    """Epsilon against one of the four adversaries.

    Attributes:
        name: short name.
        sees: who colludes, in words.
        noise_multiplier: what remains of the noise for that adversary.
        epsilon: for a person with k conversations at one member.
    """

    name: str
    sees: str
    noise_multiplier: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class PrivacyStatement:
    """Everything that a plan promises, in numbers.

    Attributes:
        contribution_bound: k.
        bounds: how it is kept.
        delta: of every epsilon here.
        steps: T, private steps over the run.
        sample_rate: q; 1 for the full batch.
        noise_multiplier: s of one member.
        evaluation_noise_multiplier: of a member's score histogram, which every epsilon here includes; None without one.
        epsilon: a person with k conversations at one member, against the coordinator with c_max members (the headline).
        epsilon_per_conversation: the same for one conversation (k = 1).
        epsilon_by_platforms: for a person on 1, 2 and 3 platforms, with k conversations on each.
        adversaries: the coordinator; one member; coordinator and c_max members; everybody else together.
        accountant: what computed this, with its version.
    """

    contribution_bound: int
    bounds: Bounds
    delta: float
    steps: int
    sample_rate: float
    noise_multiplier: float
    evaluation_noise_multiplier: float | None
    epsilon: float
    epsilon_per_conversation: float
    epsilon_by_platforms: tuple[tuple[int, float], ...]
    adversaries: tuple[AdversaryEpsilon, ...]
    accountant: str

    def sentence(self) -> str:
        """Return the promise in plain words, with its numbers."""
        platforms = dict(self.epsilon_by_platforms)
        one, several = platforms[1], platforms[PROMISED_PLATFORMS]
        return (
            f"For every person {said_bound(self.contribution_bound, self.bounds)}, the released models reveal "
            f"almost the same whether or not the content of those conversations was used: "
            f"epsilon {one:.2f} for a person on one member platform, {several:.2f} on {PROMISED_PLATFORMS} "
            f"(delta {self.delta:g}), against {self.adversaries[2].sees}; "
            f"{self.adversaries[-1].epsilon:.2f} if everybody else colludes. "
            "Not hidden: who talked to whom, that a conversation was selected for review, that a company takes part, "
            "facts about the population."
        )


def epsilon_of(plan: Plan, *, dimension: int | None = None, evaluations: int = 1) -> PrivacyStatement:
    """Return what a plan promises.

    Mechanism: T (sampled) Gaussian steps a member, and its score histogram if the plan has an evaluation.
    Unit: one participant, at most k conversations a member (contribution bound); also one conversation.
    Assumes: the plan's steps are all taken; for several platforms, that a person has k conversations on each.
    Sensitivity: k * S.
    Source: Ganesh et al. 2025, section 3; Choquette-Choo et al. 2023, arXiv 2310.15526 (mixture of Gaussians).

    Args:
        plan: the plan.
        dimension: parameters of the model, None for those of the plan's architecture; the finite tails of the noise add
            ``dimension * T * 2^-50`` to delta.
        evaluations: histograms that a member gives for the plan, if it has an evaluation: one, unless the plan is run again.

    Raises:
        ConfigError: delta is too small for the number of steps, or the architecture is not known. The plan's fault.
    """
    privacy = plan.privacy
    if dimension is None:
        dimension = parameter_count(plan.training.architecture)
    k, q = privacy.contribution_bound, privacy.sample_rate
    given = 0 if privacy.evaluation_noise_multiplier is None else evaluations
    delta = privacy.delta - max(PLATFORMS) * tail_delta(
        dimension=dimension, steps=plan.steps, evaluations=given
    )
    if delta <= 0.0:
        raise ConfigError(
            "delta is too small for this many steps.", hint="Allow a larger delta or fewer steps."
        )

    def epsilon(noise: float, *, conversations: int = k, platforms: int = 1) -> float:
        mechanisms = run_mechanisms(
            contribution_bound=conversations,
            sample_rate=q,
            noise_multiplier=noise,
            steps=plan.steps,
            shared_noise=privacy.noise == "shared",
            evaluation_noise_multiplier=privacy.evaluation_noise_multiplier,
            evaluations=given,
            platforms=platforms,
        )
        return composed_epsilon(mechanisms, delta=delta)

    adversaries = tuple(
        AdversaryEpsilon(name, sees, noise, epsilon(noise)) for name, sees, noise in adversary_noise(plan)
    )
    headline = adversaries[2]
    return PrivacyStatement(
        contribution_bound=k,
        bounds=privacy.bounds,
        delta=privacy.delta,
        steps=plan.steps,
        sample_rate=q,
        noise_multiplier=privacy.noise_multiplier,
        evaluation_noise_multiplier=privacy.evaluation_noise_multiplier,
        epsilon=headline.epsilon,
        epsilon_per_conversation=epsilon(headline.noise_multiplier, conversations=1),
        epsilon_by_platforms=tuple(
            (count, epsilon(headline.noise_multiplier, platforms=count)) for count in PLATFORMS
        ),
        adversaries=adversaries,
        accountant=accountant_name(q),
    )


def _with_the_coordinator(colluding: int) -> str:
    if colluding == 0:
        return "the coordinator together with no member (the cohort may be too small for more)"
    return f"the coordinator together with up to {colluding} member{'s' * (colluding != 1)}"


def adversary_noise(plan: Plan) -> tuple[tuple[str, str, float], ...]:
    """Return (name, who colludes, remaining noise multiplier) for the four adversaries, at the smallest cohort.

    With member noise every member adds all of it, so that nobody can take any away. With shared noise, those who collude
    know their own part; c_max = floor((N - 1) / 3) members may collude with the coordinator in the headline.
    """
    cohort, own = plan.cohort.minimum, plan.privacy.noise_multiplier
    colluding = largest_collusion(cohort)
    shared = plan.privacy.noise == "shared"

    def left(others: int) -> float:
        return own * math.sqrt(max(1, others)) if shared else own

    return (
        ("coordinator", "the coordinator alone", left(cohort)),
        ("member", "one other member alone", left(cohort - 1)),
        (
            "coordinator-and-members",
            _with_the_coordinator(colluding),
            left(cohort - colluding),
        ),
        ("everybody-else", "the coordinator and every other member together", own),
    )


def largest_collusion(cohort: int) -> int:
    """Return c_max: how many members of a cohort may collude with the coordinator in the headline number."""
    return (cohort - 1) // 3


def mechanism_epsilon(mechanism: SampledGaussian, *, delta: float) -> float:
    """Return the epsilon at ``delta`` of one fixed mechanism over all of its steps.

    Full batch: the exact Gaussian trade-off. Sampled: privacy loss distribution of the mixture of Gaussians, rounded up.
    """
    return composed_epsilon([mechanism], delta=delta)


def composed_epsilon(mechanisms: Sequence[SampledGaussian], *, delta: float) -> float:
    """Return the epsilon at ``delta`` of a fixed list of mechanisms, one after the other."""
    merged: dict[tuple[int, float, float], int] = {}
    for item in mechanisms:
        key = (item.contribution_bound, item.sample_rate, item.noise_multiplier)
        merged[key] = merged.get(key, 0) + item.steps
    if all(rate == 1.0 for _, rate, _ in merged):
        return gaussian_epsilon(
            math.sqrt(sum(steps * (k / noise) ** 2 for (k, _, noise), steps in merged.items())), delta=delta
        )
    return _pld_epsilon(tuple(sorted((*key, steps) for key, steps in merged.items())), delta)


def accountant_name(sample_rate: float) -> str:
    """Return what computes a plan's epsilon, with its version."""
    if sample_rate == 1.0:
        return "exact Gaussian trade-off"
    return f"privacy loss distribution of dp-accounting {metadata.version('dp-accounting')}"


@lru_cache(maxsize=1024)
def _pld_epsilon(mechanisms: tuple[tuple[int, float, float, int], ...], delta: float) -> float:
    from dp_accounting import NeighboringRelation, dp_event
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(
        NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=_PLD_INTERVAL
    )
    for k, rate, noise, steps in mechanisms:
        if rate == 1.0:
            event = dp_event.GaussianDpEvent(noise / k)
        else:
            event = dp_event.MixtureOfGaussiansDpEvent(
                noise, [float(j) for j in range(k + 1)], _binomial(k, rate)
            )
        accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


def _binomial(trials: int, probability: float) -> list[float]:
    """Return the probabilities of 0 .. ``trials`` successes; they sum to 1 as closely as floats can."""
    values = [
        math.comb(trials, j) * probability**j * (1.0 - probability) ** (trials - j) for j in range(trials + 1)
    ]
    total = math.fsum(values)
    return [value / total for value in values]
