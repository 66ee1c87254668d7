"""The frozen encoders: a message becomes a vector. Which one a feature set has shows in its files.

``encoder.safetensors`` is a table of vectors (`StaticEncoder`, fast), ``encoder.onnx`` a sentence encoder (`OnnxEncoder`, better).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from ringfence.model.static_encoder import StaticEncoder

TABLE_FILE = "encoder.safetensors"
ONNX_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"


class Encoder(Protocol):
    """A frozen, public encoder of messages.

    Attributes:
        dimension: of a vector.
    """

    dimension: int

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector a text, (n, dimension) float32, unit norm; the same text gives the same vector, whatever is beside it."""
        ...


def encoder_of(files: Mapping[str, bytes]) -> Encoder:
    """Return the encoder of a feature set's files.

    Raises:
        KeyError: a file is missing.
        ConfigError: the runtime of the sentence encoder is not installed. The operator's to install.
        ReleaseError: a file is not in the agreed form. The release's fault.
    """
    tokenizer_json = files[TOKENIZER_FILE].decode("utf-8")
    if ONNX_FILE in files:
        from ringfence.model.onnx_encoder import OnnxEncoder

        return OnnxEncoder(tokenizer_json, files[ONNX_FILE])
    return StaticEncoder(tokenizer_json, load(files[TABLE_FILE]))
