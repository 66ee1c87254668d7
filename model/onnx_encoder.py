"""The sentence encoder: all-MiniLM-L6-v2 with int8 weights, mean of the last layer over the pieces, unit norm.

Better than the static table and some forty times slower: about 300 messages a second on one core. Each text runs by itself,
because int8 activations are scaled by the largest of a batch: a message's vector would depend a little on its neighbours, and
a conversation scored message by message would not score as it does in one go.

Source: Wang et al. 2020, "MiniLM"; Reimers and Gurevych 2019, "Sentence-BERT", sec. 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ringfence.model.errors import ConfigError, ReleaseError
from ringfence.model.readable_text import TextReader

MAXIMUM_PIECES = 64
"""Of a message, what is read, the two marks at its ends included; the rest is ignored."""

_FIRST_MARK, _LAST_MARK = "[CLS]", "[SEP]"


class OnnxEncoder:
    """A frozen sentence encoder.

    Args:
        tokenizer_json: a `tokenizers` file without truncation, padding or special tokens.
        model: ONNX with inputs ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``, (1, pieces) int64, and the last layer
            as its first output, (1, pieces, dimension) float32.

    Attributes:
        dimension: of a vector.

    Raises:
        ConfigError: onnxruntime is not installed. The operator's to install.
        ReleaseError: the files are not in the agreed form. The release's fault.
    """

    def __init__(self, tokenizer_json: str, model: bytes) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._session = _open_session(model)
        try:
            # `tokenizers` raises bare exceptions for what it cannot read.
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:
            raise _not_agreed() from error
        first, last = (self._tokenizer.token_to_id(mark) for mark in (_FIRST_MARK, _LAST_MARK))
        shape = self._session.get_outputs()[0].shape
        if first is None or last is None or len(shape) != 3 or not isinstance(shape[2], int):
            raise _not_agreed()
        self._first, self._last = first, last
        self._reader = TextReader(self._tokenizer.get_vocab())
        self._inputs = {item.name for item in self._session.get_inputs()}
        self.dimension = shape[2]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector a text, (n, dimension) float32, unit norm; all zero for a text without a piece."""
        result = np.zeros((len(texts), self.dimension), np.float32)
        known: dict[str, int] = {}
        for row, text in enumerate(texts):
            # Much of a chat is "ok" and "lol": said again, it costs nothing.
            first = known.setdefault(text, row)
            result[row] = self._encode_one(text) if first == row else result[first]
        return result

    def _encode_one(self, text: str) -> npt.NDArray[np.float32]:
        pieces = self._tokenizer.encode(self._reader.read(text), add_special_tokens=False).ids
        if not pieces:
            return np.zeros(self.dimension, np.float32)
        ids = np.array([[self._first, *pieces[: MAXIMUM_PIECES - 2], self._last]], np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        last_layer = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        mean = last_layer[0].mean(axis=0, dtype=np.float32)
        unit: npt.NDArray[np.float32] = mean / np.maximum(np.linalg.norm(mean), 1e-9)
        return unit


def _open_session(model: bytes) -> Any:  # noqa: ANN401 - onnxruntime has no types
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "This feature set needs onnxruntime, which is not installed.",
            hint='Install it: pip install "ringfence[minilm]"',
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two threads were slower on messages of chat length
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every length is another pattern, and all of them would be kept
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # Its exceptions have no common root of their own.
        raise _not_agreed() from error


def _not_agreed() -> ReleaseError:
    return ReleaseError(
        "The sentence encoder's files are not in the agreed form.", hint="Pull the release again."
    )
