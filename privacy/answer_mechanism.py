"""What one answer of a member does to its data: one value from the plan, which the trainer carries out and the ledger charges.

Steps and price are both taken from here, so that they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ringfence.model.plan import Plan
from ringfence.privacy.accounting import adversary_noise
from ringfence.privacy.renyi_filter import SampledGaussian


@dataclass(frozen=True, slots=True)
class AnswerMechanism:
    """What an answer does, and what of its noise remains.

    Mechanism: T (sampled) Gaussian steps on a clipped sum; for a score histogram, one step of the full batch on counts.
    Unit: one participant, at most k conversations (contribution bound).
    Assumes: what `ringfence.privacy.accounting.adversary_noise` assumes.
    Sensitivity: k, in units of one conversation's.
    Source: Ganesh et al. 2025, section 3.

    Attributes:
        own: what the member carries out, with all the noise that it adds itself: what remains if everybody else colludes.
        headline_noise_multiplier: what remains of the noise for the coordinator with c_max members; at least the own.
    """

    own: SampledGaussian
    headline_noise_multiplier: float

    @property
    def headline(self) -> SampledGaussian:
        """The same as the headline's adversary sees it."""
        return replace(self.own, noise_multiplier=self.headline_noise_multiplier)


def round_mechanism(plan: Plan) -> AnswerMechanism:
    """Return what an answer to one round does."""
    remaining = {name: noise for name, _, noise in adversary_noise(plan)}
    privacy = plan.privacy
    own = SampledGaussian(
        privacy.contribution_bound,
        privacy.sample_rate,
        privacy.noise_multiplier,
        plan.training.local_steps,
    )
    return AnswerMechanism(own, remaining["coordinator-and-members"])


def evaluation_mechanism(plan: Plan) -> AnswerMechanism | None:
    """Return what a member's one score histogram does, with noise that is always its own; None without an evaluation."""
    noise = plan.privacy.evaluation_noise_multiplier
    if noise is None:
        return None
    return AnswerMechanism(SampledGaussian(plan.privacy.contribution_bound, 1.0, noise, 1), noise)
