"""Banks of harmless phrases: one generic line a phrase, nine stages, benign contexts, replies and the words that fill gaps.

Two banks ship. ``bank`` trains the public parts (the stage tagger, the warm start). ``pools`` plays in the simulated
companies, and nothing public is trained on it, so that what a company sees is new to the public head. A third one is read
from a file by those who measure: nothing was ever fitted or chosen on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.errors import ConfigError

STAGES = (
    "access",
    "rapport",
    "personal_information",
    "risk_assessment",
    "secrecy",
    "platform_move",
    "gift",
    "meeting",
    "pressure",
)
"""The nine stages. Source: category names after O'Connell 2003, Olson et al. 2007, Lorenzo-Dus et al. 2016."""

THEMES = ("friends", "family", "school", "clan", "support", "trade")
"""Benign contexts that share words with the stages."""

HELD_OUT_SHARE = 0.25
"""Share at the end of each list of phrases that no training conversation may hold."""

BankName = Literal["bank", "pools"]
_SLOT = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class PhraseBank:
    """A bank of phrases.

    Attributes:
        name: of the bank.
        stages: the phrases of each stage, by stage; a phrase may hold gaps such as ``{place}``.
        contexts: lines of each benign theme, by theme.
        replies: short answers of the other person, that say nothing.
        answers: what the other person answers to a line of each stage, by stage; empty where a bank has none.
        slots: the words that may fill each gap, by the gap's name.
    """

    name: str
    stages: Mapping[str, tuple[str, ...]]
    contexts: Mapping[str, tuple[str, ...]]
    replies: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    slots: Mapping[str, tuple[str, ...]]

    def without_held_out(self) -> PhraseBank:
        """Return the bank without the last quarter of each stage's and each context's phrases and answers."""
        return PhraseBank(
            self.name,
            _first_part(self.stages),
            _first_part(self.contexts),
            self.replies,
            _first_part(self.answers),
            self.slots,
        )

    def shared_with(self, other: PhraseBank) -> PhraseBank:
        """Return the bank with only those phrases and answers that the other bank holds too."""
        return PhraseBank(
            self.name,
            _common(self.stages, other.stages),
            _common(self.contexts, other.contexts),
            self.replies,
            _common(self.answers, other.answers),
            self.slots,
        )

    def sample(self, rng: np.random.Generator, *, phrase_share: float, slot_share: float) -> PhraseBank:
        """Return a company's own part of the bank.

        Args:
            rng: decides which part.
            phrase_share: share of the phrases of each stage and context that stay, in (0, 1].
            slot_share: share of the words of each gap that stay, in (0, 1]; at least one does.
        """
        return PhraseBank(
            self.name,
            MappingProxyType({k: _some(v, phrase_share, rng) for k, v in self.stages.items()}),
            MappingProxyType({k: _some(v, phrase_share, rng) for k, v in self.contexts.items()}),
            _some(self.replies, phrase_share, rng),
            MappingProxyType({k: _some(v, phrase_share, rng) for k, v in self.answers.items()}),
            MappingProxyType({k: _some(v, slot_share, rng) for k, v in self.slots.items()}),
        )

    def fill(self, phrase: str, rng: np.random.Generator) -> str:
        """Return the phrase with each gap filled by a random word of its kind."""
        if "{" not in phrase:
            return phrase
        return _SLOT.sub(lambda gap: pick(self.slots[gap.group(1)], rng), phrase)


def load_phrase_bank(name: BankName) -> PhraseBank:
    """Read a bank that ships with the package.

    Raises:
        ConfigError: the file is missing or not in the agreed form: the installation is damaged.
    """
    source = resources.files("ringfence.model").joinpath("public", "phrases", f"{name}.json")
    return _read_bank(source, f"The phrase bank {name}", hint="Install the package again.")


def read_phrase_bank(path: Path) -> PhraseBank:
    """Read a bank from a file of the same form as those that ship.

    Raises:
        ConfigError: the file is missing or not in that form. The operator's.
    """
    return _read_bank(path, str(path), hint="Give a file in the form of model/public/phrases/pools.json.")


def pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of the choices, each as likely as the others."""
    return choices[int(rng.random() * len(choices))]


Lines = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=120)], ...], Field(min_length=1)]


class _BankForm(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    name: str
    purpose: str
    stages: dict[str, Lines]
    contexts: dict[str, Lines]
    replies: Lines
    answers: dict[str, Lines] = Field(default_factory=dict)
    slots: dict[str, Lines]


def _read_bank(source: Path | Traversable, what: str, *, hint: str) -> PhraseBank:
    try:
        form = _BankForm.model_validate_json(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(f"{what} cannot be read.", hint=hint) from error
    if (
        set(form.stages) != set(STAGES)
        or set(form.contexts) != set(THEMES)
        or set(form.answers) not in (set(), set(STAGES))
    ):
        raise ConfigError(f"{what} names other stages or themes.", hint=hint)
    lists = (*form.stages.values(), *form.contexts.values(), *form.answers.values(), form.replies)
    if not {gap for lines in lists for line in lines for gap in _SLOT.findall(line)} <= set(form.slots):
        raise ConfigError(f"{what} has a gap that no words are given for.", hint=hint)
    return PhraseBank(
        form.name,
        MappingProxyType({stage: form.stages[stage] for stage in STAGES}),
        MappingProxyType({theme: form.contexts[theme] for theme in THEMES}),
        form.replies,
        MappingProxyType({stage: form.answers[stage] for stage in STAGES if form.answers}),
        MappingProxyType(dict(form.slots)),
    )


def _first_part(lists: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(
        {name: lines[: len(lines) - round(len(lines) * HELD_OUT_SHARE)] for name, lines in lists.items()}
    )


def _common(
    lists: Mapping[str, tuple[str, ...]], others: Mapping[str, tuple[str, ...]]
) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(
        {name: tuple(line for line in lines if line in others[name]) for name, lines in lists.items()}
    )


def _some(lines: tuple[str, ...], share: float, rng: np.random.Generator) -> tuple[str, ...]:
    count = max(1, round(len(lines) * share))
    return tuple(lines[index] for index in sorted(rng.permutation(len(lines))[:count]))
