"""The heads: the only part of the detector that is trained on private data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import ReleaseError
from ringfence.model.feature_set import FeatureSet


class Architecture(Protocol):
    """A family of heads, named in plans and releases."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    def parameter_count(self, dimension: int) -> int:
        """Return how many parameters a head on features of this dimension has."""

    def initial(self, feature_set: FeatureSet) -> npt.NDArray[np.float64]:
        """Return the parameters that training starts from, (p,) float64; public, the same for every member."""

    def logits(
        self, parameters: npt.NDArray[np.float64], features: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Return one score a row, (n,) float64: the log-odds before calibration.

        Raises:
            ReleaseError: the shapes do not fit.
        """


class LinearHead:
    """``score = w f + b``: one weight a feature, then the bias; 109 parameters on 108 features."""

    name = "linear-109"

    def parameter_count(self, dimension: int) -> int:
        """Return the features' dimension and one."""
        return dimension + 1

    def initial(self, feature_set: FeatureSet) -> npt.NDArray[np.float64]:
        """Return the warm start that ships with the features, fitted without privacy on the public simulation."""
        return feature_set.warm_start.copy()

    def logits(
        self, parameters: npt.NDArray[np.float64], features: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Return one score a row, (n,) float64, from features (n, d) float32."""
        if features.ndim != 2 or parameters.shape != (features.shape[1] + 1,):
            raise ReleaseError(
                "The head's parameters do not fit the features.", hint="Use the features of the same release."
            )
        weights: npt.NDArray[np.float64] = parameters.astype(np.float64)
        result: npt.NDArray[np.float64] = features.astype(np.float64) @ weights[:-1] + weights[-1]
        return result


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({LinearHead.name: LinearHead()})
"""Every architecture that a plan may name."""
