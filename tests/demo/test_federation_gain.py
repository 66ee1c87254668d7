"""A federation is worth joining: with privacy it does better on everybody's conversations than any company does by itself.

On the demonstration's own terms and functions, in one process. The noise comes from a secret generator and has no seed: each
claim is about means over draws of noise, and says how often chance alone would break it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ringfence.client.local_data import training_rows
from ringfence.client.member_home import MemberHome
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.demo.company_data import Companies, benign_chat, write_jsonl
from ringfence.demo.demo_command import demo
from ringfence.demo.demonstration import DemoTerms, _companies, make_plan
from ringfence.demo.reference_rows import HeldOut, train_alone, train_together
from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import epsilon_of
from ringfence.privacy.training import nearest_size_class

SCHOOL = {
    "school",
    "class",
    "classes",
    "teacher",
    "homework",
    "college",
    "exam",
    "exams",
    "study",
    "studying",
}
PIECE = 4
# The order in which the contribution bound keeps conversations is secret as well; here it is held still.
SECRET = bytes(32)

Quality = tuple[float, float]


def default_of(name: str) -> object:
    return inspect.signature(demo).parameters[name].default


def terms_of(*corpus: Path) -> DemoTerms:
    """Return what `ringfence demo` is asked for when nothing is said."""
    return DemoTerms(
        corpus=corpus,
        folder=Path(),
        **{name: default_of(name) for name in ("members", "rounds", "conversations", "epsilon", "seed")},
    )


def simulation(folder: Path) -> DemoTerms:
    return terms_of()


def talk_of_school(folder: Path) -> DemoTerms:
    """Write a labelled corpus as CONDA is one: a few messages of real chat each, told apart by words.

    The public head knows nothing of it, so that all there is to learn is learned in private. CONDA itself may not ship.
    """
    pieces = []
    for chat in benign_chat():
        found = [chat.messages[start : start + PIECE] for start in range(0, len(chat.messages), PIECE)]
        of_school = [any(SCHOOL & words_of(one.text) for one in piece) for piece in found]
        # The first piece about school and the first that is not, where there are such: a person is in two at most.
        for label in (True, False):
            if label in of_school:
                piece = found[of_school.index(label)]
                pieces.append(Conversation(id=f"{chat.id}-{label}", messages=piece, label=int(label)))
    corpus = folder / "school.jsonl"
    write_jsonl(corpus, pieces)
    return terms_of(corpus)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@dataclass(frozen=True)
class Measured:
    """AUROC and average precision on the held-out conversations of all companies."""

    public: np.ndarray
    federated: np.ndarray  # (draws, 2)
    alone: dict[str, np.ndarray]  # (draws, 2) each


def measure(companies: Companies, plan: Plan, *, folder: Path, draws: int) -> Measured:
    features = load_feature_set()
    training = {}
    for company in companies.companies:
        home = MemberHome(folder / company.name).create()
        (home.root / "contribution.key").write_bytes(SECRET)
        training[company.name] = training_rows(
            home,
            conversations=Pseudonyms(SECRET).of(company.train),
            feature_set=features,
            prefixes=plan.training.prefixes,
            contribution_bound=plan.privacy.contribution_bound,
            bounds=plan.privacy.bounds,
        )
    classes = {company.name: nearest_size_class(len(company.train)) for company in companies.companies}
    held_out = HeldOut(features, {company.name: company.test for company in companies.companies})
    initial = ARCHITECTURES[plan.training.architecture].initial(features)

    def judged(model: np.ndarray) -> Quality:
        row = held_out.judge("", model, plan=plan, privacy=True)
        return row.auroc, row.average_precision

    def drawn(train: Callable[[], np.ndarray]) -> np.ndarray:
        return np.array([judged(train()) for _ in range(draws)])

    return Measured(
        public=np.array(judged(initial)),
        federated=drawn(lambda: train_together(training, plan=plan, initial=initial, size_classes=classes)),
        alone={
            name: drawn(
                lambda own=own, name=name: train_alone(
                    own, plan=plan, initial=initial, size_class=classes[name]
                )
            )
            for name, own in training.items()
        },
    )


def measured(folder: Path, corpus: Callable[[Path], DemoTerms], *, draws: int) -> Measured:
    import torch

    torch.set_num_threads(1)
    terms = corpus(folder)
    companies = _companies(terms)
    plan = make_plan(terms, features=load_feature_set(), members=len(companies.companies))
    assert epsilon_of(plan).epsilon <= 8
    return measure(companies, plan, folder=folder, draws=draws)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("corpus", "draws"),
    [
        # Over 60 draws the smallest of the six gains, one company's average precision, was measured: .016, which over 120
        # draws is 4.8 standard deviations of itself. Chance breaks it about once in a million runs.
        pytest.param(simulation, 120, id="simulation"),
        # The smallest is 8.7 deviations: never.
        pytest.param(talk_of_school, 20, id="school"),
    ],
)
def test_the_federation_beats_every_companys_own_with_the_same_privacy(
    tmp_path: Path, corpus: Callable[[Path], DemoTerms], draws: int
) -> None:
    found = measured(tmp_path, corpus, draws=draws)
    federated = found.federated.mean(axis=0)
    for name, alone in found.alone.items():
        assert (federated > alone.mean(axis=0)).all(), f"{name}: {alone.mean(axis=0)}, federated {federated}"
    # And it finds more than what anybody could do without a company's data, by 36 deviations and more.
    assert federated[1] > found.public[1]
