"""The static encoder: a message becomes the normalised sum of its word pieces' and word-piece pairs' vectors.

The vectors were distilled from all-MiniLM-L6-v2 over public chat, so that a look-up and a sum stand in for a network. The
length of a vector is the weight of its piece: frequent, empty pieces were learned short.

Source: Tissier et al. 2019 and "model2vec" for static distillation; Arora et al. 2017, sec. 3, for weights by frequency.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ringfence.model.errors import ReleaseError
from ringfence.model.readable_text import TextReader

_BATCH = 2048
_FIRST_FACTOR, _SECOND_FACTOR = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)


class StaticEncoder:
    """A frozen table of vectors.

    Args:
        tokenizer_json: a `tokenizers` file without truncation, padding or special tokens.
        tensors: ``pieces`` (V, d) int8, ``piece_scales`` (V,) float32, ``pairs`` (B, d) int8, ``pair_scales`` (B,) float32;
            B is a power of two.

    Raises:
        ReleaseError: a tensor is missing or has another shape.
    """

    def __init__(self, tokenizer_json: str, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
        # One thread: two were slower, and a pool of threads does not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
            pieces = _table(tensors["pieces"], tensors["piece_scales"])
            pairs = _table(tensors["pairs"], tensors["pair_scales"])
        except (KeyError, ValueError) as error:
            raise ReleaseError(
                "The static encoder's tables are not in the agreed form.", hint="Pull the release again."
            ) from error
        buckets = len(pairs)
        if buckets & (buckets - 1) or pieces.shape[1] != pairs.shape[1]:
            raise ReleaseError(
                "The static encoder's tables do not fit together.", hint="Pull the release again."
            )
        self.dimension = int(pieces.shape[1])
        self._first_pair = len(pieces)
        self._buckets = buckets
        self._reader = TextReader(self._tokenizer.get_vocab())
        self._rows = np.concatenate([pieces, pairs, np.zeros((1, self.dimension), np.float32)])

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector a text, (n, d) float32, unit norm; all zero for a text without a piece."""
        result = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _BATCH):
            self._encode_batch(texts[start : start + _BATCH], result[start : start + _BATCH])
        return result

    def _encode_batch(self, texts: Sequence[str], out: npt.NDArray[np.float32]) -> None:
        read = [self._reader.read(text) for text in texts]
        rows, starts, filled = look_up_rows(self._tokenizer, read, self._first_pair, self._buckets)
        if len(filled) == 0:
            return
        sums = np.add.reduceat(self._rows.take(rows, axis=0), starts, axis=0)
        norms = np.sqrt(np.add.reduce(sums * sums, axis=1, keepdims=True))
        sums /= np.maximum(norms, 1e-9)
        out[filled] = sums


def look_up_rows(
    tokenizer: Tokenizer, texts: Sequence[str], vocabulary: int, buckets: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which rows of the table each text sums.

    Args:
        tokenizer: of the encoder.
        texts: n messages, as `TextReader` gives them.
        vocabulary: number of word pieces; the pairs' rows follow them.
        buckets: number of the pairs' rows, a power of two.

    Returns:
        The rows of all texts one after the other, where each text begins, and which texts have any.
    """
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    rows: list[npt.NDArray[np.int64]] = []
    starts, filled, total = [], [], 0
    for index, item in enumerate(encoded):
        ids = np.asarray(item.ids, np.int64)
        if len(ids) == 0:
            continue
        rows.append(ids)
        starts.append(total)
        filled.append(index)
        total += len(ids)
        if len(ids) > 1:
            rows.append(vocabulary + _pair_buckets(ids, buckets))
            total += len(ids) - 1
    joined = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return joined, np.asarray(starts, np.int64), np.asarray(filled, np.int64)


def _pair_buckets(ids: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each pair of neighbouring pieces, (n - 1,) for n pieces; buckets is a power of two."""
    left, right = ids[:-1].astype(np.uint32), ids[1:].astype(np.uint32)
    mixed = left * _FIRST_FACTOR + right * _SECOND_FACTOR
    mixed ^= mixed >> np.uint32(15)
    mixed *= _FIRST_FACTOR
    return (mixed >> np.uint32(8)).astype(np.int64) % buckets


def _table(quantised: npt.NDArray[np.generic], scales: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return a table that was kept in int8 with one scale a row, (rows, d) float32.

    Raises:
        ValueError: it is not in that form.
    """
    if quantised.dtype != np.int8 or quantised.ndim != 2 or scales.shape != (len(quantised),):
        raise ValueError("a table is int8 (rows, d) with one scale a row")
    if not np.isfinite(scales.astype(np.float64)).all():
        raise ValueError("a scale is not finite")
    return quantised.astype(np.float32) * scales.astype(np.float32)[:, None]
