"""Quality: the public head, each company alone, the federation under both kinds of noise, and everything pooled.

    python benchmarks/quality.py                                              # simulated companies
    python benchmarks/quality.py --corpus conda.jsonl.gz --conversations 400  # a labelled file, split with people kept together
    python benchmarks/quality.py --feature-set minilm-384 --contribution-bound 2 --bounds fractional

For each split of the data and each draw of noise: AUROC and average precision on each company's own held-out conversations, and
the mean of the companies' figures. Members take the private step that they take in production; only the transport is left
out. "Shared noise" is one noised step a round over all members' sums, computed here in one process: what a sealed aggregation
would give. The simulation is ours, so read its figures beside those on a corpus that is not.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ringfence.demo.company_data import CompanyData, companies_from_corpus, simulated_companies
from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.metrics import area_under_roc, average_precision
from ringfence.model.plan import PrivacyTerms, TrainingTerms
from ringfence.privacy.bounding import ContributionManifest, bound_contributions, fractional_weights
from ringfence.privacy.clipped_sum import HeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.planning import noise_multiplier_for
from ringfence.privacy.private_step import StepTerms, private_gradient
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import train_privately, train_without_privacy

Parameters = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Quality = tuple[float, float]

PUBLIC, ALONE_OPEN, ALONE_PRIVATE = "public head, no training", "alone, not private", "alone, private"
MEMBER_NOISE, SHARED_NOISE = "federated, private, member noise", "federated, private, shared noise"
POOLED = "pooled, not private"
ROWS = (PUBLIC, ALONE_OPEN, ALONE_PRIVATE, MEMBER_NOISE, SHARED_NOISE, POOLED)


@dataclass(frozen=True)
class Member:
    """One company's bounded training rows and its held-out rows."""

    features: npt.NDArray[np.float32]
    labels: Integers
    manifest: ContributionManifest
    test_features: npt.NDArray[np.float32]
    test_labels: Integers

    @property
    def size_class(self) -> int:
        return 1 << (len(self.labels) - 1).bit_length()


@dataclass(frozen=True)
class Recipe:
    """The plan's terms under member noise (many steps a round) and under shared noise (one)."""

    training: TrainingTerms
    member: PrivacyTerms
    shared: PrivacyTerms
    shared_steps: int

    @property
    def member_steps(self) -> int:
        return self.training.rounds * self.training.local_steps

    def initial(self, features: FeatureSet) -> Parameters:
        return ARCHITECTURES[self.training.architecture].initial(features)


def main() -> None:
    given = arguments()
    features = load_feature_set(given.feature_set, folder=given.features)
    recipe = recipe_of(given, features)
    table: dict[str, list[Quality]] = defaultdict(list)
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        members = [
            prepare(company, features, recipe, bounds=given.bounds) for company in companies(given, seed)
        ]
        for row, quality in measure(members, features, recipe, draws=given.noise_draws):
            table[row].append(quality)
        print(f"split {seed} done", file=sys.stderr)
    report(table, given, recipe)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, nargs="*", default=[], help="labelled JSON lines; simulated if none"
    )
    parser.add_argument("--companies", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=1000, help="for training, of each company")
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--contribution-bound", type=int, default=1)
    parser.add_argument("--bounds", choices=["greedy", "fractional"], default="greedy")
    parser.add_argument("--architecture", default="linear-109")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--local-steps", type=int, default=10)
    parser.add_argument("--shared-steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2, help="splits of the data")
    parser.add_argument("--noise-draws", type=int, default=5, help="draws of noise for each split")
    parser.add_argument(
        "--first-seed", type=int, default=101, help="1 to 3 were looked at while the simulation was made"
    )
    parser.add_argument("--feature-set", default="static-128")
    parser.add_argument(
        "--features", type=Path, help="folder of the feature set; the installed one by default"
    )
    parser.add_argument("--json", action="store_true", help="print every figure")
    return parser.parse_args()


def recipe_of(given: argparse.Namespace, features: FeatureSet) -> Recipe:
    def privacy(steps: int) -> PrivacyTerms:
        noise = noise_multiplier_for(
            given.epsilon,
            contribution_bound=given.contribution_bound,
            sample_rate=1.0,
            steps=steps,
            delta=given.delta,
        )
        return PrivacyTerms(
            contribution_bound=given.contribution_bound, delta=given.delta, noise_multiplier=noise
        )

    training = TrainingTerms(
        feature_set=features.name,
        feature_set_sha256=features.fingerprint,
        architecture=given.architecture,
        rounds=given.rounds,
        local_steps=given.local_steps,
    )
    return Recipe(
        training=training,
        member=privacy(given.rounds * given.local_steps),
        shared=privacy(given.shared_steps),
        shared_steps=given.shared_steps,
    )


def companies(given: argparse.Namespace, seed: int) -> Sequence[CompanyData]:
    if given.corpus:
        return companies_from_corpus(
            given.corpus, members=given.companies, conversations=given.conversations, seed=seed
        ).companies
    return simulated_companies(
        members=given.companies, conversations=given.conversations, seed=seed
    ).companies


def prepare(company: CompanyData, features: FeatureSet, recipe: Recipe, *, bounds: str) -> Member:
    bound = fractional_weights if bounds == "fractional" else bound_contributions
    bounded = bound(
        company.train,
        contribution_bound=recipe.member.contribution_bound,
        secret=secrets.token_bytes(32),
    )
    kept = [company.train[position] for position in bounded.positions]
    return Member(
        features=features.rows_of(kept, recipe.training.prefixes),
        labels=labels_of(kept),
        manifest=bounded.manifest,
        test_features=features.rows_of(company.test)[:, 0],
        test_labels=labels_of(company.test),
    )


def labels_of(conversations: Sequence[Conversation]) -> Integers:
    return np.array([item.label for item in conversations], np.int64)


def measure(
    members: Sequence[Member], features: FeatureSet, recipe: Recipe, *, draws: int
) -> Iterator[tuple[str, Quality]]:
    """Yield the quality of every row, once for each draw of noise where there is noise."""
    start = recipe.initial(features)

    def quality(models: Sequence[Parameters]) -> Quality:
        found = [judge(model, member, recipe) for model, member in zip(models, members, strict=True)]
        return float(np.mean([one[0] for one in found])), float(np.mean([one[1] for one in found]))

    def for_all(model: Parameters) -> Quality:
        return quality([model] * len(members))

    yield PUBLIC, for_all(start)
    yield ALONE_OPEN, quality([openly([member], start, recipe) for member in members])
    yield POOLED, for_all(openly(members, start, recipe))
    for _ in range(draws):
        yield ALONE_PRIVATE, quality([with_member_noise([member], start, recipe) for member in members])
        yield MEMBER_NOISE, for_all(with_member_noise(members, start, recipe))
        yield SHARED_NOISE, for_all(with_shared_noise(members, start, recipe))


def with_member_noise(members: Sequence[Member], start: Parameters, recipe: Recipe) -> Parameters:
    """Train as the federation does; return the average of the last half of its models."""
    history, current = [], start
    weights = [member.size_class for member in members]
    privacy = recipe.member
    mechanism = SampledGaussian(
        privacy.contribution_bound,
        privacy.sample_rate,
        privacy.noise_multiplier,
        recipe.training.local_steps,
    )
    for _ in range(recipe.training.rounds):
        updated = [
            train_privately(
                current,
                features=member.features,
                labels=member.labels,
                manifest=member.manifest,
                terms=recipe.training,
                mechanism=mechanism,
                clip_norm=recipe.member.clip_norm,
                size_class=member.size_class,
                rng=Csprng(),
            )
            for member in members
        ]
        current = np.average(updated, axis=0, weights=weights)
        history.append(current)
    return last_half(history)


class SumOfMembers:
    """The members' clipped sums added up, as a sealed aggregation would hand them out."""

    def __init__(self, members: Sequence[Member], recipe: Recipe, *, dimension: int) -> None:
        self.grid = Grid(clip_norm=recipe.shared.clip_norm, dimension=dimension)
        self._sources = [
            HeadGradients(
                recipe.training.architecture,
                member.features,
                member.labels,
                grid=self.grid,
                positive_weight=recipe.training.positive_weight,
                weights=np.asarray(member.manifest.weights, np.float64),
            )
            for member in members
        ]
        self.examples = sum(source.examples for source in self._sources)

    def clipped_sum(self, parameters: Parameters, *, selected: npt.NDArray[np.bool_] | None) -> Integers:
        return np.sum(
            [source.clipped_sum(parameters, selected=selected) for source in self._sources],
            axis=0,
            dtype=np.int64,
        )


def with_shared_noise(members: Sequence[Member], start: Parameters, recipe: Recipe) -> Parameters:
    """Take one noised step a round on the sum of all members, momentum at the coordinator."""
    source = SumOfMembers(members, recipe, dimension=len(start))
    step = StepTerms(
        noise_multiplier=recipe.shared.noise_multiplier,
        sample_rate=None,
        divisor=float(sum(member.size_class for member in members)),
    )
    rng = Csprng()
    history, current, velocity = [], start, np.zeros_like(start)
    for _ in range(recipe.shared_steps):
        velocity = recipe.training.momentum * velocity + private_gradient(
            source, current, terms=step, rng=rng
        )
        current = current - recipe.training.learning_rate * velocity
        history.append(current)
    return last_half(history)


def openly(members: Sequence[Member], start: Parameters, recipe: Recipe) -> Parameters:
    return train_without_privacy(
        start,
        features=np.concatenate([member.features for member in members]),
        labels=np.concatenate([member.labels for member in members]),
        terms=recipe.training,
        steps=recipe.member_steps,
    )


def last_half(history: Sequence[Parameters]) -> Parameters:
    average: Parameters = np.mean(history[len(history) // 2 :], axis=0)
    return average


def judge(model: Parameters, member: Member, recipe: Recipe) -> Quality:
    scores = ARCHITECTURES[recipe.training.architecture].logits(model, member.test_features)
    return area_under_roc(member.test_labels, scores), average_precision(member.test_labels, scores)


def report(table: dict[str, list[Quality]], given: argparse.Namespace, recipe: Recipe) -> None:
    data = ", ".join(path.name for path in given.corpus) or "simulation"
    terms = (
        f"{data}: {given.companies} companies x {given.conversations}, {given.feature_set}, {given.architecture}, "
        f"epsilon {given.epsilon:g}, delta {given.delta:g}, k = {given.contribution_bound} ({given.bounds}), "
        f"noise multiplier {recipe.member.noise_multiplier:.1f} over {recipe.member_steps} steps (member), "
        f"{recipe.shared.noise_multiplier:.1f} over {recipe.shared_steps} (shared), "
        f"{given.seeds} splits x {given.noise_draws} draws of noise"
    )
    if given.json:
        print(json.dumps({"terms": terms, "rows": {row: table[row] for row in ROWS}}, indent=1))
        return
    print(f"{terms}\n\n| | AUROC | average precision | spread of AP |\n|---|---|---|---|")
    for row in ROWS:
        auroc, precision = np.mean(table[row], axis=0)
        print(f"| {row} | {auroc:.3f} | {precision:.3f} | {np.std([one[1] for one in table[row]]):.3f} |")


if __name__ == "__main__":
    main()
