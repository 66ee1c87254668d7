"""Names of the array types that the private computation passes around."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""Parameters and gradients: ``(parameters,)`` float64."""

FeatureArray: TypeAlias = npt.NDArray[np.float32]
"""Features: ``(conversations, prefixes, dimension)`` float32."""

IntegerArray: TypeAlias = npt.NDArray[np.int64]
"""Sums and updates on an integer grid: ``(parameters,)`` int64."""

MaskArray: TypeAlias = npt.NDArray[np.bool_]
"""Which conversations are in a step: ``(conversations,)`` bool."""

WordArray: TypeAlias = npt.NDArray[np.uint64]
"""Raw random words: ``(count,)`` uint64."""
