"""What the tests of privacy share: repeatable randomness, made-up examples and manifests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ringfence.model.conversation import Conversation, Message
from ringfence.privacy import bounding, clipped_sum, private_step, torch_sum
from ringfence.privacy.bounding import ContributionManifest, KeptConversation
from ringfence.privacy.grid import Grid


class RepeatableSource:
    """Words from a seeded generator, counted. It exists here only: the product has no seedable source."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.drawn = 0

    def words(self, count: int) -> np.ndarray:
        self.drawn += count
        return self._generator.integers(0, 2**64, size=count, dtype=np.uint64)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def repeatable() -> Callable[[int], RepeatableSource]:
    return RepeatableSource


@pytest.fixture
def strangers() -> Callable[[int], ContributionManifest]:
    """A manifest of conversations whose participants all differ."""

    def make(count: int, *, contribution_bound: int = 1) -> ContributionManifest:
        return ContributionManifest(
            contribution_bound,
            tuple(KeptConversation(f"c{i}", (f"a{i}", f"b{i}")) for i in range(count)),
        )

    return make


@pytest.fixture
def talk() -> Callable[..., Conversation]:
    """A conversation among the named people."""

    def make(identifier: str, *people: str, label: int | None = 0) -> Conversation:
        return Conversation(identifier, tuple(Message(person, "hello") for person in people), label)

    return make


class Fault:
    """Ways to break the product, for tests that must notice. They live here and nowhere in the product."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def __call__(self, name: str | None, *, steps: int = 0) -> None:
        match name:
            case None:
                pass
            case "noise x0.9":
                self._scale_noise(0.9)
            case "noise halved":
                self._scale_noise(0.5)
            case "last draw missing":
                self._miss_last_draw(steps)
            case "clipping skipped":
                self._patch.setattr(
                    clipped_sum, "clip_factors", lambda norms, *, clip_norm: np.ones(len(norms))
                )
                self._patch.setattr(torch_sum, "clip_gradients", lambda gradients, *, clip_norm: gradients)
            case "shuffling":
                self._shuffle()
            case "rate x1.1":
                honest = private_step.poisson_mask
                self._patch.setattr(
                    private_step,
                    "poisson_mask",
                    lambda source, count, *, sample_rate: honest(
                        source, count, sample_rate=1.1 * sample_rate
                    ),
                )
            case "k violated":
                self._patch.setattr(bounding, "_have_room", lambda *_: True)
            case _:
                raise ValueError(name)

    def _scale_noise(self, factor: float) -> None:
        honest = Grid.noise
        self._patch.setattr(
            Grid,
            "noise",
            lambda grid, source, *, noise_multiplier, steps: honest(
                grid, source, noise_multiplier=factor * noise_multiplier, steps=steps
            ),
        )

    def _miss_last_draw(self, steps: int) -> None:
        honest, drawn, every = Grid.noise, [0], steps

        def noise(grid, source, *, noise_multiplier, steps):
            noise = honest(grid, source, noise_multiplier=noise_multiplier, steps=steps)
            for vector in noise:
                drawn[0] += 1
                if drawn[0] % every == 0:
                    vector[:] = 0
            return noise

        self._patch.setattr(Grid, "noise", noise)

    def _shuffle(self) -> None:
        """Walk through a shuffled list in batches of one size, as training loops usually do."""
        order: dict[int, np.ndarray] = {}
        start = [0]

        def mask(source, count, *, sample_rate):
            shuffled = order.setdefault(count, np.random.default_rng().permutation(count))
            size = round(sample_rate * count)
            chosen = np.take(shuffled, range(start[0], start[0] + size), mode="wrap")
            start[0] += size
            return np.isin(np.arange(count), chosen)

        self._patch.setattr(private_step, "poisson_mask", mask)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)
