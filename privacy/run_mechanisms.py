"""Everything that one run does to a person's data, as the list of mechanisms that an accountant adds up.

Plans, evidence and its verification all read this one list, so that nothing is charged here and forgotten there.
"""

from __future__ import annotations

from ringfence.privacy.grid import floating_point_delta
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.score_histogram import CELLS


def run_mechanisms(
    *,
    contribution_bound: int,
    sample_rate: float,
    noise_multiplier: float,
    steps: int,
    shared_noise: bool = False,
    evaluation_noise_multiplier: float | None = None,
    evaluations: int = 1,
    platforms: int = 1,
) -> tuple[SampledGaussian, ...]:
    """Return what a run does with the conversations of one person.

    Mechanism: ``steps`` (sampled) Gaussian steps on clipped sums, then the noised score histogram of each evaluation.
    Unit: one participant with at most k conversations at each of ``platforms`` members.
    Assumes: the same bound and noise at every member.
    Sensitivity: k, in units of one conversation's sensitivity, for both.
    Source: Ganesh et al. 2025, section 3.

    Args:
        contribution_bound: k; 1 for a statement about one conversation.
        sample_rate: q of the steps; an evaluation uses every kept conversation.
        noise_multiplier: what remains of the steps' noise against the adversary in question.
        steps: T.
        shared_noise: one noised sum holds the conversations of all platforms.
        evaluation_noise_multiplier: of a histogram's counts, always a member's own; None for a run without evaluation.
        evaluations: histograms that a member gave, repeated runs of the plan included.
        platforms: members at which the person is.
    """
    together = platforms if shared_noise else 1
    mechanisms = [
        SampledGaussian(
            contribution_bound * together, sample_rate, noise_multiplier, steps * platforms // together
        )
    ]
    if evaluation_noise_multiplier is not None and evaluations > 0:
        mechanisms.append(
            SampledGaussian(contribution_bound, 1.0, evaluation_noise_multiplier, evaluations * platforms)
        )
    return tuple(mechanisms)


def tail_delta(*, dimension: int, steps: int, evaluations: int) -> float:
    """Return what the finite tails of the noise add to delta at one member, over all steps and evaluations."""
    return floating_point_delta(dimension=dimension, steps=steps) + floating_point_delta(
        dimension=CELLS, steps=evaluations
    )
