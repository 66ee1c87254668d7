"""How a member's change of the model leaves it: whole numbers of one fixed public step, in one fixed shape.

This is post-processing of an update that is private already. It makes every update look alike: no dtype, shape, magnitude
or special value can carry more than the numbers themselves.
"""

from __future__ import annotations

import numpy as np

from ringfence.model.errors import BudgetError, PeerError
from ringfence.privacy.arrays import FloatArray, IntegerArray

UPDATE_STEP = 2.0**-32
"""Width of the public grid, in units of a parameter."""

UPDATE_BOUND = 1024.0
"""Largest absolute change of one parameter in one round; more is clamped."""

_LARGEST = int(UPDATE_BOUND / UPDATE_STEP)


def quantise_update(delta: FloatArray) -> IntegerArray:
    """Return a change of the parameters as ``(parameters,)`` int64 steps of the public grid, clamped to the bound.

    Sums of up to two million members' updates stay within int64.

    Raises:
        BudgetError: a value is not finite; nothing may leave. The message says no more.
    """
    if not np.isfinite(delta).all():
        raise BudgetError(
            "The update is not finite, so it does not leave this member.",
            hint="Ask the coordinator for a plan with a smaller learning rate.",
        )
    return np.rint(np.clip(delta, -UPDATE_BOUND, UPDATE_BOUND) / UPDATE_STEP).astype(np.int64)


def dequantise_update(update: IntegerArray) -> FloatArray:
    """Return the change of the parameters that `quantise_update` encoded: ``(parameters,)`` float64.

    Raises:
        PeerError: a value is outside the clamp, which no honest member sends. The sender's fault.
    """
    if update.dtype != np.int64 or (update > _LARGEST).any() or (update < -_LARGEST).any():
        raise PeerError("An update is not on the agreed grid.")
    return update.astype(np.float64) * UPDATE_STEP
