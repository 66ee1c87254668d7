"""How well a detector does at a member, as the only thing about it that may leave: a noised histogram of scores by label.

Quality is data too: an exact AUROC before and after one person joined says what their conversations were. So a member
counts its conversations in a few fixed bins of the score, apart for each label, adds noise, and gives the counts. Whatever
is computed from them afterwards costs nothing more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import BudgetError
from ringfence.model.histogram_quality import BIN_EDGES, BINS
from ringfence.privacy.arrays import FloatArray, IntegerArray
from ringfence.privacy.bounding import ContributionManifest, verify_manifest
from ringfence.privacy.secure_noise import RandomSource, standard_normals

CELLS = 2 * BINS
"""Counts in a histogram: every bin for label 0, then every bin for label 1."""

LARGEST_COUNT = 2**40
"""No count, noise included, is larger than this."""


def noised_score_histogram(
    scores: FloatArray,
    *,
    labels: npt.NDArray[np.int64],
    manifest: ContributionManifest,
    contribution_bound: int,
    noise_multiplier: float,
    rng: RandomSource,
) -> IntegerArray:
    """Return the counts of conversations by label and bin of the score, with noise.

    Mechanism: Gaussian noise of standard deviation s on every count, rounded to whole numbers (post-processing of a
        continuous Gaussian, because counts are whole numbers already); one step of the full batch.
    Unit: one participant, whose conversations are at most k (checked again here, from the manifest).
    Assumes: bins, labels and the detector are fixed before; the caller charges the step before anything leaves.
    Sensitivity: k in L2 norm: a conversation adds 1 to one cell, and a participant's conversations may all be in one.
    Source: Dwork and Roth 2014, section 3.5 (Gaussian mechanism); zero-out relation as in Ganesh et al. 2025, section 3.

    Args:
        scores: ``(n,)`` float64, one a conversation: the log-odds before calibration. One that is not finite counts in the
            lowest bin, so that nothing about it stops the release.
        labels: ``(n,)``, each 0 or 1.
        manifest: which conversations these are, and how often each person counts.
        contribution_bound: k of the plan.
        noise_multiplier: s, in conversations, above 0.
        rng: the secret generator.

    Returns:
        ``(CELLS,)`` int64; counts may be negative.

    Raises:
        BudgetError: somebody counts more often than the plan allows, conversations are missing or weighted, the noise is
            not a positive number, or labels are not 0 or 1.
    """
    verify_manifest(manifest, contribution_bound=contribution_bound)
    if any(weight != 1.0 for weight in manifest.weights) or len(manifest.group_sizes) < len(manifest.kept):
        raise BudgetError(
            "A histogram counts whole conversations, not fractions and not groups.",
            hint="Bound with whole conversations for a plan that evaluates.",
        )
    if not scores.shape == labels.shape == (len(manifest.kept),):
        raise BudgetError(
            "The scores are not those of the manifest's conversations.",
            hint="Score exactly the conversations that the contribution bound kept.",
        )
    if not np.isin(labels, (0, 1)).all():
        raise BudgetError("A label is neither 0 nor 1.", hint="Map the labels first.")
    if not 0.0 < noise_multiplier < float("inf"):
        raise BudgetError(
            "The noise of an evaluation must be a number above 0.", hint="Refuse the plan that asked for it."
        )
    lowest = np.nextafter(BIN_EDGES[0], -np.inf)
    bins = np.searchsorted(BIN_EDGES, np.where(np.isfinite(scores), scores, lowest), side="right")
    counts = np.bincount(labels * BINS + bins, minlength=CELLS).astype(np.int64)
    noise = np.rint(standard_normals(rng, CELLS) * noise_multiplier).astype(np.int64)
    noised: IntegerArray = np.clip(counts + noise, -LARGEST_COUNT, LARGEST_COUNT)
    return noised
