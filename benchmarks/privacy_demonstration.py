"""What an attacker learns with and without protection: canary exposure and gradient inversion, on harmless simulated data.

Run it from the root of the repository: ``.venv/bin/python benchmarks/privacy_demonstration.py [--trials N] [--json]``. The
noise cannot be seeded, so protected figures differ a little from run to run.

Both attacks are given more than an attacker has. They know every other conversation of the member. The canary is the loudest
conversation that the features allow; the inverter sees every noised sum of the run. The person has k conversations, all alike.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from ringfence.demo.company_data import simulated_companies
from ringfence.model.feature_set import ROW_BOUND, load_feature_set
from ringfence.privacy.clipped_sum import LinearHeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.planning import noise_multiplier_for
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import nearest_size_class

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
CONTRIBUTION_BOUND = 2
DELTA = 1e-6
STEPS = 100
CLIP_NORM = 1.0
LEARNING_RATE, MOMENTUM, POSITIVE_WEIGHT = 0.4, 0.9, 2.0
PREFIXES = (0.35, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Protection:
    """One row of the tables; without a noise multiplier there is no noise."""

    name: str
    clip_norm: float | None
    noise_multiplier: float | None = None


@dataclass(frozen=True)
class Member:
    """A member's rows (n, prefixes, 108), labels, the public model, and conversations of other people as candidates."""

    rows: Rows
    labels: npt.NDArray[np.int64]
    candidates: Rows
    candidate_labels: npt.NDArray[np.int64]
    start: FloatArray
    size_class: int


@dataclass(frozen=True)
class Result:
    """What both attacks found under one protection.

    Exposure is in bits, log2(canaries) - log2(rank); guessing gives 1.44 on average. Shares are of the trials.
    """

    protection: str
    exposure_bits: float
    canary_found: float
    inversion_cosine: float
    found_from_one_step: float
    found_from_all_steps: float


def protections(epsilons: Sequence[float]) -> list[Protection]:
    rows = [Protection("none", None), Protection("clipping alone", CLIP_NORM)]
    for epsilon in epsilons:
        noise = noise_multiplier_for(
            epsilon, contribution_bound=CONTRIBUTION_BOUND, sample_rate=1.0, steps=STEPS, delta=DELTA
        )
        rows.append(Protection(f"epsilon {epsilon:g}, noise {noise:.1f}", CLIP_NORM, noise))
    return rows


def make_member(*, conversations: int, candidates: int) -> Member:
    features = load_feature_set()
    [company] = [
        *simulated_companies(members=1, conversations=max(conversations, 2 * candidates), seed=7).companies
    ]
    return Member(
        rows=features.rows_of(company.train[:conversations], PREFIXES),
        labels=np.array([item.label for item in company.train[:conversations]], dtype=np.int64),
        candidates=features.rows_of(company.test[:candidates], PREFIXES),
        candidate_labels=np.array([item.label for item in company.test[:candidates]], dtype=np.int64),
        start=features.warm_start.copy(),
        size_class=nearest_size_class(conversations),
    )


def gradients_of(rows: Rows, labels: npt.NDArray[np.int64], protection: Protection) -> LinearHeadGradients:
    # Without clipping the bound is above any gradient (2 sqrt(4^2 + 1)): the same code, and nothing is cut.
    grid = Grid(clip_norm=protection.clip_norm or 16.0, dimension=rows.shape[2] + 1)
    return LinearHeadGradients(rows, labels, grid=grid, positive_weight=POSITIVE_WEIGHT)


class Run:
    """The steps of one run as somebody sees them who knows every conversation but one person's."""

    def __init__(self, member: Member, person: Rows, label: int, protection: Protection) -> None:
        copies = np.full(CONTRIBUTION_BOUND, label)
        self._everybody = gradients_of(
            np.concatenate([member.rows, np.repeat(person[None], CONTRIBUTION_BOUND, axis=0)]),
            np.concatenate([member.labels, copies]),
            protection,
        )
        self._others = gradients_of(member.rows, member.labels, protection)
        self._noise_multiplier, self._divisor = protection.noise_multiplier, member.size_class
        self._secret = Csprng()
        self._velocity = np.zeros_like(member.start)
        self.model = member.start.copy()

    def step(self) -> FloatArray:
        """Take one step, and return what is left of its sum when everybody else's part is subtracted."""
        grid = self._everybody.grid
        seen = self._everybody.clipped_sum(self.model, selected=None)
        if self._noise_multiplier is not None:
            seen = seen + grid.noise(self._secret, noise_multiplier=self._noise_multiplier, steps=1)[0]
        left = grid.to_values(seen - self._others.clipped_sum(self.model, selected=None))
        self._velocity = MOMENTUM * self._velocity + grid.to_values(seen) / self._divisor
        self.model = self.model - LEARNING_RATE * self._velocity
        return left


def canary_attack(
    member: Member, protection: Protection, *, trials: int, canaries: int
) -> tuple[float, float]:
    """Return the mean exposure in bits, and how often the canary itself is what the model knows best."""
    rng = np.random.default_rng(11)
    without = _model_without(member, protection)
    dimension = member.rows.shape[2]
    bits, found = [], 0
    for _ in range(trials):
        loud = rng.standard_normal((canaries, dimension))
        loud *= ROW_BOUND / np.linalg.norm(loud, axis=1, keepdims=True)
        points = np.concatenate([loud, np.ones((canaries, 1))], axis=1)
        label = int(
            points[0] @ member.start < 0
        )  # against the public model's opinion: to be learned by heart
        person = np.repeat(loud[:1], len(PREFIXES), axis=0).astype(np.float32)
        run = Run(member, person, label, protection)
        for _ in range(STEPS):
            run.step()
        learned = points @ (run.model - without) * (1 if label else -1)
        rank = 1 + int((learned > learned[0]).sum())
        bits.append(math.log2(canaries) - math.log2(rank))
        found += rank == 1
    return float(np.mean(bits)), found / trials


def inversion_attack(member: Member, protection: Protection, *, trials: int) -> tuple[float, float, float]:
    """Return how near the row read off one step is to the person's, and how often one step, and all, name the person.

    The gradient of a linear head is the row times a number, and that number stands beside it, as the gradient of the bias.
    The right one of the candidates is the one whose gradients explain best what was seen.
    """
    rng = np.random.default_rng(13)
    candidates = gradients_of(member.candidates, member.candidate_labels, protection)
    cosines, one, every = [], 0, 0
    for _ in range(trials):
        person = int(rng.integers(len(member.candidates)))
        run = Run(member, member.candidates[person], int(member.candidate_labels[person]), protection)
        scores = np.zeros(len(member.candidates))
        for number in range(STEPS):
            expected = CONTRIBUTION_BOUND * _clipped(candidates.gradients(run.model), protection.clip_norm)
            left = run.step()
            scores += 2.0 * expected @ left - (expected**2).sum(axis=1)
            if number == 0:
                cosines.append(_cosine(left[:-1] / left[-1], member.candidates[person].mean(axis=0)))
                one += int(scores.argmax()) == person
        every += int(scores.argmax()) == person
    return float(np.mean(cosines)), one / trials, every / trials


def attack(member: Member, protection: Protection, *, trials: int, canaries: int) -> Result:
    return Result(
        protection.name,
        *canary_attack(member, protection, trials=trials, canaries=canaries),
        *inversion_attack(member, protection, trials=trials),
    )


def _model_without(member: Member, protection: Protection) -> FloatArray:
    """Return the model that the member's other conversations make by themselves: the attacker knows them all."""
    others = gradients_of(member.rows, member.labels, protection)
    model, velocity = member.start.copy(), np.zeros_like(member.start)
    for _ in range(STEPS):
        gradient = others.grid.to_values(others.clipped_sum(model, selected=None)) / member.size_class
        velocity = MOMENTUM * velocity + gradient
        model = model - LEARNING_RATE * velocity
    return model


def _clipped(gradients: FloatArray, clip_norm: float | None) -> FloatArray:
    if clip_norm is None:
        return gradients
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients * np.minimum(1.0, clip_norm / np.maximum(norms, 1e-300))


def _cosine(first: FloatArray, second: npt.NDArray[np.floating]) -> float:
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40, help="of each attack under each protection")
    parser.add_argument("--conversations", type=int, default=240, help="of the member")
    parser.add_argument("--candidates", type=int, default=500, help="of which the inverter has to name one")
    parser.add_argument("--canaries", type=int, default=1024, help="of which one was in the data")
    parser.add_argument(
        "--epsilon", type=float, nargs="+", default=[8.0, 2.0], help="for a person, whole run"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    member = make_member(conversations=chosen.conversations, candidates=chosen.candidates)
    results = [
        attack(member, protection, trials=chosen.trials, canaries=chosen.canaries)
        for protection in protections(chosen.epsilon)
    ]
    took_s = time.perf_counter() - start
    if chosen.json:
        print(json.dumps({"took_s": took_s, "results": [asdict(result) for result in results]}))
        return
    print(
        f"{'protection':<24}{'canary exposure':>18}{'canary':>9}{'inversion':>12}{'named by':>11}{'named by':>11}"
    )
    print(f"{'':<24}{'(bits)':>18}{'found':>9}{'(cosine)':>12}{'one step':>11}{'all steps':>11}")
    for result in results:
        print(
            f"{result.protection:<24}{result.exposure_bits:>18.2f}{result.canary_found:>9.1%}"
            f"{result.inversion_cosine:>12.3f}{result.found_from_one_step:>11.1%}{result.found_from_all_steps:>11.1%}"
        )
    print(
        f"{'guessing':<24}{math.log2(math.e):>18.2f}{1 / chosen.canaries:>9.1%}{0:>12.3f}"
        f"{1 / chosen.candidates:>11.1%}{1 / chosen.candidates:>11.1%}"
    )
    print(
        f"{chosen.trials} trials each, {len(member.rows)} conversations, {STEPS} steps, k = {CONTRIBUTION_BOUND}, "
        f"delta {DELTA:g}; {took_s:.0f} s."
    )


if __name__ == "__main__":
    main()
