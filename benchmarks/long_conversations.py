"""Long conversations: what is left of the ranking when plain chat surrounds a conversation, read as one and in stretches.

    python benchmarks/long_conversations.py [--seed 101] [--feature-set static-128]

Simulated companies' held-out conversations, with real benign chat before and behind until they have a given length; both
labels alike, the place of the conversation within drawn at random. The head is fitted to all training conversations without
privacy: the question is how conversations are read, not what privacy costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from ringfence.demo.company_data import benign_chat, simulated_companies
from ringfence.demo.open_training import fit_on_beginnings
from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.feature_set import load_feature_set
from ringfence.model.metrics import area_under_roc, average_precision
from ringfence.model.simulation import CompanyData

LENGTHS = (0, 100, 200, 400, 1000)
PREFIXES = (0.35, 0.6, 0.8, 1.0)
POSITIVE_WEIGHT = 2.0
POSITIVES, NEGATIVES = 100, 500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=101, help="of the companies")
    parser.add_argument("--feature-set", default="static-128")
    given = parser.parse_args()
    features = load_feature_set(given.feature_set)
    companies = simulated_companies(members=4, conversations=1000, seed=given.seed).companies
    train = [item for company in companies for item in company.train]
    head = fit_on_beginnings(
        features.rows_of(train, PREFIXES),
        np.array([item.label or 0 for item in train]),
        positive_weight=POSITIVE_WEIGHT,
    )
    detector = Detector(features, head)
    chat = [item for item in benign_chat() if len(item.messages) >= 30]
    rng = np.random.default_rng(given.seed)
    chosen = _some(companies, rng)
    labels = np.array([item.label or 0 for item in chosen])
    print("| AUROC / average precision | read as one | in stretches |\n|---|---|---|")
    for length in LENGTHS:
        padded = [_padded(item, chat, length, rng) for item in chosen]
        as_one = np.array([detector.logits(features.rows_of([item])[:, 0])[0] for item in padded])
        stretched = np.array([detector.score(item).logit for item in padded])
        cells = [
            f"{area_under_roc(labels, scores):.3f} / {average_precision(labels, scores):.3f}"
            for scores in (as_one, stretched)
        ]
        print(f"| {f'{length:,} messages' if length else 'as they are'} | {' | '.join(cells)} |", flush=True)


def _some(companies: Sequence[CompanyData], rng: np.random.Generator) -> list[Conversation]:
    held_out = [item for company in companies for item in company.test]
    result = []
    for label, count in ((1, POSITIVES), (0, NEGATIVES)):
        of_label = [item for item in held_out if item.label == label]
        result += [of_label[place] for place in rng.permutation(len(of_label))[:count]]
    return result


def _padded(
    conversation: Conversation, chat: Sequence[Conversation], length: int, rng: np.random.Generator
) -> Conversation:
    """Return the conversation within plain chat of its own two most frequent people, at least ``length`` messages in all."""
    missing = max(0, length - len(conversation.messages))
    counts: dict[str, int] = {}
    for message in conversation.messages:
        counts[message.author] = counts.get(message.author, 0) + 1
    people = [*sorted(counts, key=counts.__getitem__, reverse=True)[:2], "somebody", "another"][:2]
    filler: list[Message] = []
    while len(filler) < missing:
        taken = chat[int(rng.random() * len(chat))]
        places: dict[str, int] = {}
        for message in taken.messages:
            place = places.setdefault(message.author, min(len(places), 1))
            filler.append(Message(people[place], message.text))
    before = int(rng.random() * (missing + 1))
    messages = (*filler[:before], *conversation.messages, *filler[before:missing])
    return Conversation(conversation.id, messages, label=conversation.label)


if __name__ == "__main__":
    main()
