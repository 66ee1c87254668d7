"""The heads: the only part of the detector that is trained on private data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import ConfigError, ReleaseError
from ringfence.model.stage_features import DIMENSION


class PublicStart(Protocol):
    """What heads start from: a frozen public feature set."""

    @property
    def warm_start(self) -> npt.NDArray[np.float64]:
        """Parameters of the linear head, fitted without privacy on the public simulation, (d + 1,) float64."""


class Architecture(Protocol):
    """A family of heads, named in plans and releases."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    def parameter_count(self, dimension: int) -> int:
        """Return how many parameters a head on features of this dimension has."""

    def initial(self, feature_set: PublicStart) -> npt.NDArray[np.float64]:
        """Return the parameters that training starts from, (p,) float64; public, the same for every member."""

    def is_weight(self, parameters: int) -> npt.NDArray[np.bool_]:
        """Return which of a head's parameters are weights and not biases, (p,) bool: what weight decay acts on."""

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

    def initial(self, feature_set: PublicStart) -> npt.NDArray[np.float64]:
        """Return the warm start that ships with the features, fitted without privacy on the public simulation."""
        return feature_set.warm_start.copy()

    def is_weight(self, parameters: int) -> npt.NDArray[np.bool_]:
        """Return True for all but the last parameter."""
        return np.arange(parameters) < parameters - 1

    def logits(
        self, parameters: npt.NDArray[np.float64], features: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Return one score a row, (n,) float64, from features (n, d) float32."""
        if features.ndim != 2 or parameters.shape != (features.shape[1] + 1,):
            raise ReleaseError(
                "The head's parameters do not fit the features.", hint="Use the features of the same release."
            )
        weights = np.asarray(parameters, dtype=np.float64)
        result: npt.NDArray[np.float64] = features.astype(np.float64) @ weights[:-1]
        result += weights[-1]
        return result


class HiddenLayerHead:
    """``score = v relu(U (f, 1)) + c``: one hidden layer of 16 units; 1,761 parameters on 108 features.

    For members with very many conversations: the noise grows with the square root of the number of parameters.

    The parameters, in order: U row by row, ``(16, d + 1)``, each row with its bias last; then v ``(16,)``; then c.
    """

    name = "hidden-1761"
    UNITS = 16

    def parameter_count(self, dimension: int) -> int:
        """Return the number of weights of both layers, biases included."""
        return self.UNITS * (dimension + 1) + self.UNITS + 1

    def initial(self, feature_set: PublicStart) -> npt.NDArray[np.float64]:
        """Return a start that scores exactly as the linear warm start does, with hidden units that all differ.

        relu(a) - relu(-a) = a, so units in pairs of opposite sign carry a linear function; each pair carries its share of
        the warm start and a direction of its own, and the directions add up to nothing.
        """
        start = feature_set.warm_start
        pairs = self.UNITS // 2
        scale = float(np.sqrt(np.linalg.norm(start) / pairs)) or 1.0
        waves = np.cos(np.pi * (np.arange(len(start)) + 0.5) * np.arange(1, pairs + 1)[:, None] / len(start))
        waves -= waves.mean(axis=0)
        waves *= 0.5 * scale / np.linalg.norm(waves, axis=1, keepdims=True).max()
        shares = start / (pairs * scale) + waves
        hidden = np.concatenate([shares, -shares])
        output = np.concatenate([np.full(pairs, scale), np.full(pairs, -scale), [0.0]])
        return np.concatenate([hidden.ravel(), output])

    def is_weight(self, parameters: int) -> npt.NDArray[np.bool_]:
        """Return False for the bias of each hidden unit and for that of the output."""
        width = (parameters - self.UNITS - 1) // self.UNITS
        hidden = np.tile(np.arange(width) < width - 1, self.UNITS)
        return np.concatenate([hidden, np.ones(self.UNITS, dtype=np.bool_), [False]])

    def logits(
        self, parameters: npt.NDArray[np.float64], features: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Return one score a row, (n,) float64, from features (n, d) float32."""
        if features.ndim != 2 or parameters.shape != (self.parameter_count(features.shape[1]),):
            raise ReleaseError(
                "The head's parameters do not fit the features.", hint="Use the features of the same release."
            )
        hidden_weights, hidden_bias, output, bias = self.layers(parameters)
        hidden = np.maximum(features.astype(np.float64) @ hidden_weights + hidden_bias, 0.0)
        result: npt.NDArray[np.float64] = hidden @ output + bias
        return result

    def layers(
        self, parameters: npt.NDArray[np.float64]
    ) -> tuple[
        npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]
    ]:
        """Return the hidden weights (d, 16), their biases (16,), the output weights (16,) and the bias (1,)."""
        values: npt.NDArray[np.float64] = parameters.astype(np.float64)
        hidden = values[: -(self.UNITS + 1)].reshape(self.UNITS, -1)
        return hidden[:, :-1].T, hidden[:, -1], values[-(self.UNITS + 1) : -1], values[-1:]


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {LinearHead.name: LinearHead(), HiddenLayerHead.name: HiddenLayerHead()}
)
"""Every architecture that a plan may name."""


def parameter_count(architecture: str) -> int:
    """Return how many numbers a model of an architecture has on the public features.

    Raises:
        ConfigError: there is no such architecture. The plan's fault.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"There is no architecture {architecture}.", hint=f"Known: {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[architecture].parameter_count(DIMENSION)
