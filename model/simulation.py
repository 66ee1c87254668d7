"""Simulated companies: labelled, harmless conversations written over real benign chat, the same for the same seed.

It stands in for data that must not be shared. Two things in it are by construction, so no claim rests on it alone: the
public head does well, because engineers wrote both phrase banks; and companies can learn from one another, because they
share leanings (`COMMON_STAGE_MIX`) that the public simulation lacks, chosen so that the public head leaves room. Every result is shown beside the public head alone, and on other data as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ringfence.model.conversation import Conversation
from ringfence.model.errors import DataError
from ringfence.model.phrases import STAGES, THEMES, PhraseBank, load_phrase_bank
from ringfence.model.simulated_conversation import (
    Line,
    Style,
    assemble,
    write_hard_negative,
    write_plain,
    write_positive,
)
from ringfence.model.typing_habits import TypingHabits, draw_habits

HARD_SHARE = 0.4
"""Share of the negatives that draw on the same phrases as the positives."""

MUTUAL_SHARE = 0.16
"""Share of those in which two people say to each other what one says in a positive: words alone are no longer the pattern."""

FLIPPED_SHARE = 0.02
"""Share of the training labels that are wrong, as reviewers' decisions sometimes are."""

COMMON_STAGE_MIX = {
    "access": 0.4,
    "rapport": 1.5,
    "personal_information": 1.0,
    "risk_assessment": 3.0,
    "secrecy": 3.0,
    "platform_move": 0.5,
    "gift": 0.5,
    "meeting": 0.5,
    "pressure": 2.0,
}
"""How likely each stage is in the companies' positives, before each company's own leaning.

The public simulation knows nothing of it: that is what companies can learn from one another.
"""

LOWEST_PREVALENCE, HIGHEST_PREVALENCE = 0.09, 0.18
COMPANY_NAMES = ("alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo", "hazel", "ivy", "juniper")


@dataclass(frozen=True, slots=True)
class CompanyData:
    """The labelled conversations of one simulated company.

    Attributes:
        name: of the company.
        train: what it trains on; 2 % of the labels are flipped.
        test: what it is judged on; correct labels, phrases that training never held, other people.
    """

    name: str
    train: tuple[Conversation, ...]
    test: tuple[Conversation, ...]


def simulate_companies(
    filler: Sequence[Conversation],
    *,
    companies: int,
    conversations_per_company: int,
    seed: int,
    test_conversations: int | None = None,
    bank: PhraseBank | None = None,
) -> list[CompanyData]:
    """Return companies that differ in words, apps, typing habits, prevalence (9-18 %) and stage mix.

    Args:
        filler: real benign chat, at least two conversations a company.
        companies: how many, at least 1.
        conversations_per_company: training conversations of each, at least 10.
        seed: decides everything; the same seed gives the same conversations.
        test_conversations: held-out conversations of each; as many as in training by default.
        bank: the phrases that play; those that ship for the companies by default.

    Raises:
        DataError: too little filler, or numbers that make no company. The caller's fault.
    """
    tests = conversations_per_company if test_conversations is None else test_conversations
    if companies < 1 or conversations_per_company < 10 or tests < 0:
        raise DataError(
            "A simulation needs at least one company and ten conversations a company.",
            hint="Raise the numbers.",
        )
    usable = [conversation for conversation in filler if len(conversation.messages) >= 4]
    if len(usable) < 2 * companies:
        raise DataError(
            "There is too little benign chat for this many companies.",
            hint="Give at least two conversations of four messages a company.",
        )
    root = np.random.SeedSequence(seed)
    shuffled = [usable[index] for index in np.random.default_rng(root.spawn(1)[0]).permutation(len(usable))]
    phrases = load_phrase_bank("pools") if bank is None else bank
    return [
        _simulate_company(
            shuffled[place::companies],
            name=_company_name(place),
            bank=phrases,
            train=conversations_per_company,
            test=tests,
            rng=np.random.default_rng(child),
        )
        for place, child in enumerate(root.spawn(companies))
    ]


def simulate_public(
    filler: Sequence[Conversation], *, conversations: int, seed: int, demanding: bool = False
) -> list[Conversation]:
    """Return the public simulation: the public bank's phrases, every stage alike, fewer and simpler hard negatives.

    The public statistics are fitted on it, the warm start on it and on the demanding one. It shares no phrase with
    `simulate_companies` and has no leaning towards any stage.

    Args:
        filler: real benign chat.
        conversations: how many.
        seed: decides everything.
        demanding: as many hard negatives as at the companies, as many stages in them, some said by two people to each
            other; stages are more or less usual from one fifty to the next.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    bank = load_phrase_bank("bank")
    even = TypingHabits(0.5, 0.4, 0.4, 0.05, 0.02, 0.02, 0.03)
    result: list[Conversation] = []
    # A new style every 50 conversations, so that no habit is a sign of anything.
    for start in range(0, conversations, 50):
        stage_mix = rng.gamma(2.0, 0.5, len(STAGES)) if demanding else np.ones(len(STAGES))
        style = Style(
            bank=bank.sample(rng, phrase_share=0.8, slot_share=0.8),
            habits=even if start % 100 else draw_habits(rng),
            stage_mix=stage_mix,
            theme_mix=np.full(len(THEMES), 1 / len(THEMES)),
            group_share=0.15,
            median_length=18.0,
            most_hard_stages=6 if demanding else 1,
            mutual_share=MUTUAL_SHARE if demanding else 0.0,
            stray_share=0.15 if demanding else 0.1,
        )
        prefix = f"public-{'demanding-' if demanding else ''}{start}"
        people = _People(prefix, 80, rng)
        count = min(50, conversations - start)
        kinds = _kinds(count, prevalence=0.15, hard_share=HARD_SHARE if demanding else 0.1, rng=rng)
        result += _write_all(
            kinds,
            style=style,
            filler=filler,
            people=people,
            platform="public",
            prefix=prefix,
            rng=rng,
        )
    return result


def _simulate_company(
    filler: Sequence[Conversation],
    *,
    name: str,
    bank: PhraseBank,
    train: int,
    test: int,
    rng: np.random.Generator,
) -> CompanyData:
    own = bank.sample(rng, phrase_share=0.9, slot_share=0.5)
    prevalence = LOWEST_PREVALENCE + (HIGHEST_PREVALENCE - LOWEST_PREVALENCE) * float(rng.random())
    habits = draw_habits(rng)
    stage_mix = np.array([COMMON_STAGE_MIX[stage] for stage in STAGES]) * rng.gamma(4.0, 0.25, len(STAGES))
    theme_mix = rng.dirichlet(np.full(len(THEMES), 0.8))
    group_share = float(0.05 + 0.3 * rng.random())
    median_length = float(12 + 14 * rng.random())

    def style(part: PhraseBank) -> Style:
        return Style(
            bank=part,
            habits=habits,
            stage_mix=stage_mix,
            theme_mix=theme_mix,
            group_share=group_share,
            median_length=median_length,
            most_hard_stages=6,
            mutual_share=MUTUAL_SHARE,
            stray_share=0.15,
        )

    half = max(1, len(filler) * train // (train + test))
    parts = {
        "train": (style(own.shared_with(bank.without_held_out())), filler[:half], train),
        "test": (style(own), filler[half:] or filler[-1:], test),
    }
    written = {}
    for part, (part_style, chat, count) in parts.items():
        kinds = _kinds(count, prevalence=prevalence, hard_share=HARD_SHARE, rng=rng)
        written[part] = _write_all(
            kinds,
            style=part_style,
            filler=chat,
            people=_People(f"{name}-{part}", max(8, int(count * 1.7)), rng),
            platform=name,
            prefix=f"{name}-{part}",
            rng=rng,
        )
    return CompanyData(name, tuple(_flip_labels(written["train"], rng)), tuple(written["test"]))


class _People:
    """The people of one part of a company: most are seen once, some often."""

    def __init__(self, prefix: str, count: int, rng: np.random.Generator) -> None:
        self._names = [f"{prefix}-person-{index}" for index in range(count)]
        weights = 1.0 / np.sqrt(np.arange(count) + 5.0)
        self._bounds = np.cumsum(weights / weights.sum())
        self._rng = rng

    def draw(self, count: int) -> list[str]:
        """Return that many different people."""
        found: dict[str, None] = {}
        while len(found) < count:
            place = int(np.searchsorted(self._bounds, self._rng.random()))
            found[self._names[min(place, len(self._names) - 1)]] = None
        return list(found)


_Writer = Callable[[Style, Conversation, np.random.Generator], list[Line]]
_WRITERS: dict[str, _Writer] = {"positive": write_positive, "hard": write_hard_negative, "plain": write_plain}


def _kinds(count: int, *, prevalence: float, hard_share: float, rng: np.random.Generator) -> list[str]:
    positives = round(count * prevalence)
    hard = round((count - positives) * hard_share)
    kinds = ["positive"] * positives + ["hard"] * hard + ["plain"] * (count - positives - hard)
    return [kinds[index] for index in rng.permutation(count)]


def _write_all(
    kinds: Sequence[str],
    *,
    style: Style,
    filler: Sequence[Conversation],
    people: _People,
    platform: str,
    prefix: str,
    rng: np.random.Generator,
) -> list[Conversation]:
    result = []
    for index, kind in enumerate(kinds):
        lines = _WRITERS[kind](style, filler[int(rng.random() * len(filler))], rng)
        group = rng.random() < style.group_share
        result.append(
            assemble(
                lines,
                conversation_id=f"{prefix}-{index}",
                people=people.draw(3 + int(rng.random() * 4) if group else 2),
                label=int(kind == "positive"),
                platform=platform,
                habits=style.habits,
                rng=rng,
            )
        )
    return result


def _flip_labels(conversations: Sequence[Conversation], rng: np.random.Generator) -> list[Conversation]:
    flipped = set(rng.permutation(len(conversations))[: round(len(conversations) * FLIPPED_SHARE)].tolist())
    return [
        Conversation(item.id, item.messages, 1 - (item.label or 0), item.platform)
        if index in flipped
        else item
        for index, item in enumerate(conversations)
    ]


def _company_name(place: int) -> str:
    turn, index = divmod(place, len(COMPANY_NAMES))
    return COMPANY_NAMES[index] + (f"-{turn + 1}" if turn else "")
