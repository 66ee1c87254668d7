"""The phrase banks: harmless, separate, and read strictly."""

from __future__ import annotations

import itertools
import json
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from ringfence.model.errors import ConfigError
from ringfence.model.phrases import STAGES, THEMES, PhraseBank, load_phrase_bank, read_phrase_bank
from ringfence.model.typing_habits import EMOJI, SHORT_FORMS, TypingHabits

# Words that no phrase may hold: what is sexual, bodily, violent, or names a substance. Whole words and their beginnings.
FORBIDDEN = re.compile(
    r"\b("
    r"sex\w*|asl|nud\w*|naked|porn\w*|erot\w*|horn(y|ier)|kiss\w*|hug\w*|cuddl\w*|touch\w*|bod(y|ies)|breast\w*|boob\w*|butt|"
    r"ass|bra|panties|underwear|bikini|swimsuit|lingerie|undress\w*|strip\w*|shower\w*|bath\w*|bed|bedroom|virgin\w*|puberty|"
    r"lover\w*|boyfriend|girlfriend|dating|romantic\w*|hot|cute|pretty|beautiful|gorgeous|attractive|babe|baby|darling|"
    r"photos?|pics?|pictures? of you|selfie\w*|webcam|camera|video|model\w*|massage\w*|"
    r"kill\w*|hurt\w*|die|suicid\w*|gun|knife|blood|drug\w*|weed|alcohol|beer|wine|vodka|smok\w*|cigar\w*|pills?"
    r")\b",
    re.IGNORECASE,
)
BANKS = ("bank", "pools", "other", "fresh")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def bank_named(name: str) -> PhraseBank:
    """Return one of the banks that ship, or of those that only the quality benchmark reads."""
    if name in ("other", "fresh"):
        return read_phrase_bank(BENCHMARKS / f"{name}-phrases.json")
    return load_phrase_bank(name)


def lines_of(bank: PhraseBank) -> list[str]:
    lists = (
        *bank.stages.values(),
        *bank.contexts.values(),
        bank.replies,
        *bank.answers.values(),
        *bank.slots.values(),
    )
    return [line for lines in lists for line in lines]


@pytest.mark.parametrize("name", BANKS)
def test_no_phrase_holds_a_forbidden_word(name: str) -> None:
    found = [line for line in lines_of(bank_named(name)) if FORBIDDEN.search(line)]
    assert found == []


def test_the_list_of_forbidden_words_finds_what_it_is_there_for() -> None:
    assert all(FORBIDDEN.search(text) for text in ("send me a selfie", "you are cute", "turn on your webcam"))


@pytest.mark.parametrize("name", BANKS)
def test_phrases_are_single_short_lines_and_no_script(name: str) -> None:
    for line in lines_of(bank_named(name)):
        assert "\n" not in line
        assert len(line.split()) <= 16, line


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(BANKS, 2)))
def test_no_two_banks_share_a_phrase_of_a_stage_or_a_context_or_an_answer(one: str, other: str) -> None:
    def bare(name: str) -> set[str]:
        bank = bank_named(name)
        kinds = (bank.stages, bank.contexts, bank.answers)
        lines = [line for lists in kinds for part in lists.values() for line in part]
        return {re.sub(r"[^a-z{} ]", "", line.lower()).strip() for line in lines}

    assert bare(one) & bare(other) == set()


@pytest.mark.parametrize("name", BANKS)
def test_each_stage_and_theme_has_phrases_without_repetition_and_every_gap_has_words(name: str) -> None:
    bank = bank_named(name)
    assert tuple(bank.stages) == STAGES
    assert tuple(bank.contexts) == THEMES
    assert tuple(bank.answers) == STAGES
    for lines in (*bank.stages.values(), *bank.contexts.values(), *bank.answers.values()):
        assert len(lines) == len(set(lines)) >= 8
    gaps = {gap for line in lines_of(bank) for gap in re.findall(r"\{([a-z]+)\}", line)}
    assert gaps <= set(bank.slots)
    rng = np.random.default_rng(0)
    assert all("{" not in bank.fill(line, rng) for line in lines_of(bank))


def test_the_last_quarter_of_each_list_is_held_out() -> None:
    whole = load_phrase_bank("pools")
    part = whole.without_held_out()
    for stage in STAGES:
        kept = part.stages[stage]
        assert kept == whole.stages[stage][: len(kept)]
        assert len(kept) == len(whole.stages[stage]) * 3 // 4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"extra": 1}, "cannot be read"),
        ({"stages": {"access": ["hello"]}}, "other stages"),
        ({"slots": {}}, "no words"),
        (None, "cannot be read"),
    ],
)
def test_a_bank_from_a_file_is_read_strictly(
    tmp_path: Path, changes: dict[str, object] | None, problem: str
) -> None:
    path = tmp_path / "bank.json"
    if changes is not None:
        path.write_text(json.dumps(json.loads((BENCHMARKS / "other-phrases.json").read_text()) | changes))
    with pytest.raises(ConfigError, match=problem):
        read_phrase_bank(path)


def test_a_bank_with_an_unknown_key_is_refused() -> None:
    from pydantic import ValidationError

    from ringfence.model.phrases import _BankForm

    source = resources.files("ringfence.model").joinpath("public", "phrases", "bank.json")
    form = json.loads(source.read_text(encoding="utf-8"))
    with pytest.raises(ValidationError):
        _BankForm.model_validate(form | {"extra": 1})


@pytest.mark.parametrize(
    ("habits", "text", "typed"),
    [
        (TypingHabits(1, 0, 0, 0, 0, 0, 0), "Are You There?", "are you there?"),
        (TypingHabits(0, 1, 0, 0, 0, 0, 0), "Don't", "Dont"),
        (TypingHabits(0, 0, 1, 0, 0, 0, 0), "Well?!", "Well"),
        (TypingHabits(0, 0, 1, 0, 0, 0, 0), "?", "?"),
        (TypingHabits(0, 0, 0, 1, 0, 0, 0), "are you going to see", "r u gonna c"),
        (TypingHabits(0, 0, 0, 0, 0, 0, 0), "As it was.", "As it was."),
        (TypingHabits(1, 1, 1, 1, 1, 1, 0), "", ""),
    ],
)
def test_typing_habits_change_a_text_as_they_say(habits: TypingHabits, text: str, typed: str) -> None:
    assert habits.apply(text, np.random.default_rng(0)) == typed


def test_the_emoji_of_habits_are_harmless_faces_and_signs() -> None:
    assert len(set(EMOJI)) == 10
    assert not any(FORBIDDEN.search(word) for word in (*SHORT_FORMS, *SHORT_FORMS.values()))
