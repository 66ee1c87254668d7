"""Noise that nobody can predict or recompute: a keystream from the operating system's entropy, and Gaussians from it.

The usual generators cannot carry a privacy promise: PyTorch's uses 32 bits of its seed, so one released update lets
anyone search the seed and subtract the noise; a fixed seed at two members gives both the same noise. The generator here
has a 256-bit key that is drawn from the operating system, cannot be seeded, and cannot be saved, copied or inherited by
a forked process.
"""

from __future__ import annotations

import math
import os
import threading
from typing import NoReturn, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from ringfence.privacy.arrays import FloatArray, WordArray

WORD_BYTES = 8
TAIL_DELTA = 2.0**-50
"""Added to delta for each Gaussian value. Generous: a value ends at 12.1 standard deviations, which a Gaussian passes with
probability 2^-106; the rest is room for what else floating point may do in the far tail."""

_UNIT = 2.0**-53
_UNUSED_BITS = np.uint64(11)
"""Of each word, 53 bits are used, as many as a float64 holds."""


class RandomSource(Protocol):
    """Where random words come from. The product has one implementation, `Csprng`; tests bring others."""

    def words(self, count: int) -> WordArray:
        """Return ``(count,)`` independent uniform uint64 words."""
        ...


class Csprng:
    """AES-256 in counter mode under a key from `os.urandom`.

    Mechanism: keystream of a block cipher, read as 64-bit words.
    Unit: none; this is the source of randomness of every mechanism.
    Assumes: AES-256-CTR is a pseudo-random function; the operating system's entropy is sound.
    Sensitivity: none.
    Source: NIST SP 800-90A rev. 1, section 10.2 (counter-mode generation, here without reseeding: a 256-bit key per
        process outlasts every run).

    There is no argument for a seed, on purpose. A forked child draws a new key before its first word. Pickling and
    copying raise, so that no state can end up in a checkpoint or give two releases the same noise.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._draw_key()

    def words(self, count: int) -> WordArray:
        """Return ``(count,)`` uint64 words of keystream."""
        with self._lock:
            if self._process != os.getpid():
                self._draw_key()
            stream = self._keystream.update(bytes(count * WORD_BYTES))
        return np.frombuffer(stream, dtype=np.uint64)

    def _draw_key(self) -> None:
        self._process = os.getpid()
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._keystream: CipherContext = cipher.encryptor()

    def _refuse_duplication(self) -> NoReturn:
        raise TypeError("The state of the noise generator is secret: it cannot be copied, pickled or saved.")

    def __copy__(self) -> NoReturn:
        self._refuse_duplication()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse_duplication()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self._refuse_duplication()

    def __getstate__(self) -> NoReturn:
        self._refuse_duplication()


def uniforms(words: WordArray) -> FloatArray:
    """Return a float64 multiple of 2^-53, uniform in (0, 1], for each word."""
    return _fractions(words) + _UNIT


def log_uniforms(words: WordArray, more_words: WordArray) -> FloatArray:
    """Return the logarithm of a uniform value of 106 bits for each two words, to full float64 precision: -73.5 to 0.

    53 bits would not do. Near 0 their multiples of 2^-53 lie far apart on a logarithmic scale, so that the length of a
    Gaussian pair could take few values out there; scaled to a grid of 2^20 steps a clip norm, whole circles of points would
    lie between one possible value and the next, once in about 2^30 pairs, and a release that lies on such a circle rules
    a neighbouring data set out. Near 1 the same holds for short pairs, hence the complement.
    """
    return _logarithms(_fractions(words), uniforms(more_words))


def standard_normals(source: RandomSource, count: int) -> FloatArray:
    """Return ``(count,)`` independent standard normal float64 values; see `standard_normal_draws`."""
    values: FloatArray = standard_normal_draws(source, draws=1, count=count)[0]
    return values


def standard_normal_draws(source: RandomSource, *, draws: int, count: int) -> FloatArray:
    """Return ``(draws, count)`` independent standard normal float64 values; no two draws share a pair.

    Each lies within 2^-49 of its pair's length of a value of the exact law. The number of words drawn depends on the shape
    alone.

    Source: Box and Muller 1958.
    """
    pairs = (count + 1) // 2
    first, second, third = _fractions(source.words(3 * draws * pairs).reshape(3, draws, pairs))
    radius = np.sqrt(-2.0 * _logarithms(first, second + _UNIT))
    angle = 2.0 * math.pi * (third + _UNIT)
    both = np.empty((2, draws, pairs))
    np.cos(angle, out=both[0])
    np.sin(angle, out=both[1])
    both *= radius
    return both.swapaxes(0, 1).reshape(draws, 2 * pairs)[:, :count]


def _fractions(words: WordArray) -> FloatArray:
    """Return the first 53 bits of each word as a multiple of 2^-53 in [0, 1)."""
    fractions: FloatArray = (words >> _UNUSED_BITS).astype(np.float64)
    fractions *= _UNIT
    return fractions


def _logarithms(high: FloatArray, low: FloatArray) -> FloatArray:
    """Return the logarithms of high + low * 2^-53, both multiples of 2^-53: high in [0, 1), low in (0, 1]."""
    low = low * _UNIT
    value = high + low
    # Minus the complement, rounded once: 1 is taken off exactly. Where it is not needed, it is held away from the pole.
    below_one = high - 1.0
    below_one += low
    np.maximum(below_one, -0.5, out=below_one)
    result: FloatArray = np.where(value < 0.5, np.log(value), np.log1p(below_one))
    return result
