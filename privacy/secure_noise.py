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
"""Added to delta for each Gaussian value: what the longest tail that 53-bit uniforms can reach leaves out."""


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


def uniforms(source: RandomSource, count: int) -> FloatArray:
    """Return ``(count,)`` float64 multiples of 2^-53, uniform in (0, 1]: never 0, whose logarithm is infinite."""
    mantissas = (source.words(count) >> np.uint64(11)) + np.uint64(1)
    return np.asarray(mantissas.astype(np.float64) * 2.0**-53)


def standard_normals(source: RandomSource, count: int) -> FloatArray:
    """Return ``(count,)`` independent standard normal float64 values.

    Source: Box and Muller 1958. The number of words drawn depends on ``count`` alone.
    """
    pairs = (count + 1) // 2
    radius = np.sqrt(-2.0 * np.log(uniforms(source, pairs)))
    angle = 2.0 * math.pi * uniforms(source, pairs)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
