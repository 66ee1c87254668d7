"""Quality on simulated companies: the public head, each company alone, the federation, and everything pooled.

    python benchmarks/quality.py --companies 4 --conversations 240 --epsilon 2 --contribution-bound 1 --delta 1e-5

Prints, over several seeds of the simulation, AUROC and average precision on the held-out conversations of all companies, the
mean of the companies' own figures. Members take the private step that they take in production; only the transport is left
out. The simulation is ours, so read these figures beside those on other data.
"""

from __future__ import annotations

import argparse
import secrets
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.jsonl_reader import read_conversations
from ringfence.model.metrics import area_under_roc, average_precision
from ringfence.model.plan import PrivacyTerms, TrainingTerms
from ringfence.model.simulation import simulate_companies
from ringfence.privacy.bounding import ContributionManifest, bound_contributions
from ringfence.privacy.planning import noise_multiplier_for
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import train_privately, train_without_privacy

CHAT = Path(__file__).parents[1] / "examples" / "data" / "chitchat-part.jsonl.gz"
HEAD = ARCHITECTURES["linear-109"]

Parameters = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """One company's bounded training rows and its held-out rows."""

    features: Rows
    labels: Labels
    manifest: ContributionManifest
    test_features: Rows
    test_labels: Labels

    @property
    def size_class(self) -> int:
        return 1 << (len(self.labels) - 1).bit_length()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--companies", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--local-steps", type=int, default=10)
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--contribution-bound", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--first-seed", type=int, default=101, help="1 to 3 were looked at while the simulation was made"
    )
    parser.add_argument("--features", type=Path, help="folder of a feature set; the installed one by default")
    given = parser.parse_args()

    feature_set = load_feature_set(folder=given.features)
    steps = given.rounds * given.local_steps
    noise = noise_multiplier_for(
        given.epsilon,
        contribution_bound=given.contribution_bound,
        sample_rate=1.0,
        steps=steps,
        delta=given.delta,
    )
    training = TrainingTerms(
        feature_set=feature_set.name,
        feature_set_sha256=feature_set.fingerprint,
        rounds=given.rounds,
        local_steps=given.local_steps,
    )
    privacy = PrivacyTerms(
        contribution_bound=given.contribution_bound, delta=given.delta, noise_multiplier=noise
    )
    chat = list(read_conversations(CHAT))
    table: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        members = [
            prepare(company.train, company.test, feature_set, training, privacy)
            for company in simulate_companies(
                chat, companies=given.companies, conversations_per_company=given.conversations, seed=seed
            )
        ]
        start = HEAD.initial(feature_set)
        table["public head, no training"].append(judge(start, members))
        for member in members:
            table["alone, private"].append(judge(federate([member], start, training, privacy), members))
            table["alone, not private"].append(judge(openly([member], start, training, steps), members))
        table["federated, private, member noise"].append(
            judge(federate(members, start, training, privacy), members)
        )
        table["pooled, not private"].append(judge(openly(members, start, training, steps), members))
    print(
        f"{given.companies} companies x {given.conversations}, epsilon {given.epsilon:g} at delta {given.delta:g}, "
        f"k = {given.contribution_bound}, noise multiplier {noise:.1f}, {steps} steps, {given.seeds} seeds"
    )
    for name, found in table.items():
        auroc, precision = np.mean(found, axis=0)
        spread = np.std([pair[1] for pair in found])
        print(f"{name:34} AUROC {auroc:.3f}   average precision {precision:.3f} (deviation {spread:.3f})")


def prepare(
    train: tuple[Conversation, ...],
    test: tuple[Conversation, ...],
    feature_set: FeatureSet,
    training: TrainingTerms,
    privacy: PrivacyTerms,
) -> Member:
    bounded = bound_contributions(
        train, contribution_bound=privacy.contribution_bound, secret=secrets.token_bytes(32)
    )
    kept = [train[position] for position in bounded.positions]
    return Member(
        features=feature_set.rows_of(kept, training.prefixes),
        labels=np.array([item.label for item in kept], np.int64),
        manifest=bounded.manifest,
        test_features=feature_set.rows_of(test)[:, 0],
        test_labels=np.array([item.label for item in test], np.int64),
    )


def federate(
    members: list[Member], start: Parameters, training: TrainingTerms, privacy: PrivacyTerms
) -> Parameters:
    history = []
    current = start
    for _ in range(training.rounds):
        updated = [
            train_privately(
                current,
                features=member.features,
                labels=member.labels,
                manifest=member.manifest,
                terms=training,
                privacy=privacy,
                size_class=member.size_class,
                steps=training.local_steps,
                rng=Csprng(),
            )
            for member in members
        ]
        current = np.average(updated, axis=0, weights=[member.size_class for member in members])
        history.append(current)
    return np.mean(history[len(history) // 2 :], axis=0)


def openly(members: list[Member], start: Parameters, training: TrainingTerms, steps: int) -> Parameters:
    return train_without_privacy(
        start,
        features=np.concatenate([member.features for member in members]),
        labels=np.concatenate([member.labels for member in members]),
        terms=training,
        steps=steps,
    )


def judge(parameters: Parameters, members: list[Member]) -> tuple[float, float]:
    scored = [(member.test_labels, HEAD.logits(parameters, member.test_features)) for member in members]
    return (
        float(np.mean([area_under_roc(labels, scores) for labels, scores in scored])),
        float(np.mean([average_precision(labels, scores) for labels, scores in scored])),
    )


if __name__ == "__main__":
    main()
