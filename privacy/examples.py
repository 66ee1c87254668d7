"""Examples that are groups of conversations, as arrays: which rows each has, and which pairs its norm needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.privacy.arrays import FloatArray, IntegerArray, MaskArray

_SUM_SLACK = 2.0**-32
"""Norms of sums are made this much longer, relatively to what they are summed from: more than rounding can take off."""


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """A stretch of whole examples.

    Attributes:
        rows: where its m conversations lie among all.
        sizes: ``(e,)``, conversations of each example.
        example: ``(m,)``, which example of the stretch a conversation belongs to.
        first: ``(pairs,)``, one conversation of each pair, within the stretch.
        second: ``(pairs,)``, the other.
        terms: ``(m + pairs,)``, which example each term of its squared norm belongs to: conversations, then pairs.
        slack: ``(m,)``, what the squared norm of a conversation is multiplied by, so that rounding makes no sum shorter.
    """

    rows: slice
    sizes: IntegerArray
    example: IntegerArray
    first: IntegerArray
    second: IntegerArray
    terms: IntegerArray
    slack: FloatArray

    def factors(self, squared_norms: FloatArray, products: FloatArray, *, clip_norm: float) -> FloatArray:
        """Return what each conversation's part of its example is multiplied by: the sum's norm is then at most C.

        Args:
            squared_norms: ``(m,)``, of what the conversations add to their examples, at most the square of C each.
            products: ``(pairs,)``, of what the two conversations of each pair add.
            clip_norm: C.

        Returns:
            ``(m,)`` float64 in [0, 1]; 0 where the norm of an example is not finite.
        """
        terms = np.empty(len(self.terms))
        np.multiply(squared_norms, self.slack, out=terms[: len(squared_norms)])
        np.multiply(2.0, products, out=terms[len(squared_norms) :])
        sums = np.bincount(self.terms, weights=terms, minlength=len(self.sizes))
        factors = np.asarray(sums, dtype=np.float64)
        # As in `ringfence.privacy.clipped_sum.clip_factors`.
        np.maximum(factors, clip_norm * clip_norm, out=factors)
        np.sqrt(factors, out=factors)
        np.divide(clip_norm, factors, out=factors)
        np.fmax(factors, 0.0, out=factors)
        return factors.take(self.example)


class Examples:
    """Which conversations are one example: each alone, or groups of neighbours.

    Args:
        sizes: ``(e,)``, conversations of each example, at least 1, in the order of the rows.

    Raises:
        ConfigError: an example has no conversation. The caller's fault.
    """

    def __init__(self, sizes: IntegerArray) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        if len(self._sizes) and self._sizes.min() < 1:
            raise ConfigError(
                "An example has no conversation.", hint="Pass the sizes of the manifest's groups."
            )
        ends = np.cumsum(self._sizes)
        self._starts = ends - self._sizes

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._sizes)

    def selected_conversations(self, selected: MaskArray) -> MaskArray:
        """Return which conversations, ``(conversations,)``, belong to the selected examples, ``(e,)``."""
        result: MaskArray = np.repeat(selected, self._sizes)
        return result

    def stretches(self, *, most: int) -> Iterator[GroupedRows]:
        """Yield all examples in stretches of at most ``most`` conversations; one of more is a stretch of its own."""
        ends = self._starts + self._sizes
        at = 0
        while at < len(self):
            end = max(at + 1, int(np.searchsorted(ends, self._starts[at] + most, side="right")))
            yield self._stretch(slice(at, end))
            at = end

    def _stretch(self, examples: slice) -> GroupedRows:
        sizes, start = self._sizes[examples], int(self._starts[examples.start])
        ends = np.cumsum(sizes)
        example = np.repeat(np.arange(len(sizes)), sizes)
        conversations = np.arange(len(example))
        # Every conversation but the last of its example is first of as many pairs as come after it.
        later = ends[example] - conversations - 1
        first = np.repeat(conversations, later)
        within = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
        return GroupedRows(
            rows=slice(start, start + len(example)),
            sizes=sizes,
            example=example,
            first=first,
            second=first + 1 + within,
            terms=np.concatenate([example, example[first]]),
            # The square of a sum of norms is at most their number times the sum of their squares.
            slack=1.0 + _SUM_SLACK * np.repeat(sizes, sizes).astype(np.float64),
        )
