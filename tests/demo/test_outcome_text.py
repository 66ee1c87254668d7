"""What a demonstration prints fits on a small terminal, says what did not go well, and rounds no promise to nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringfence.demo.company_data import _company_name
from ringfence.demo.demo_command import _text
from ringfence.demo.demonstration import DemoTerms, Outcome, _meaning, make_plan
from ringfence.demo.outcome_text import introduction, outcome_text, shortfall, shown_epsilon
from ringfence.demo.reference_rows import FEDERATED, QualityRow
from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import load_feature_set
from ringfence.model.simulation import CompanyData
from ringfence.privacy.accounting import epsilon_of

COLUMNS = 80
LINES = 40
# Said between the introduction and the table: that the processes run, and the progress bar.
BETWEEN = 2
PUBLIC, POOLED = "public head, before any training", "all data pooled (nobody may build this)"


def row(name: str, auroc: float, precision: float, *, privacy: bool | None = True) -> QualityRow:
    return QualityRow(name=name, auroc=auroc, average_precision=precision, privacy=privacy)


def outcome_of(
    names: tuple[str, ...],
    *,
    federated: tuple[float, float] = (0.9, 0.7),
    public: tuple[float, float] = (0.8, 0.5),
    alone: tuple[float, float] = (0.7, 0.4),
) -> Outcome:
    plan = make_plan(
        DemoTerms(corpus=(), members=None, rounds=10, conversations=None, epsilon=0.1, folder=Path(), seed=1),
        features=load_feature_set(),
        members=len(names),
    )
    statement = epsilon_of(plan)
    return Outcome(
        folder=Path.cwd() / ".ringfence-demo",
        members=names,
        run="demo-1",
        rows=(
            row(PUBLIC, *public, privacy=None),
            *(row(f"{name} alone", alone[0] + place / 100, alone[1]) for place, name in enumerate(names)),
            row("alone, mean of the companies", 0.97, 0.97, privacy=False),
            row(FEDERATED, *federated),
            row("federated, other draws of noise", 0.98, 0.98),
            row(POOLED, 0.99, 0.99, privacy=False),
        ),
        epsilon=statement.epsilon,
        meaning=_meaning(plan, platforms=dict(statement.epsilon_by_platforms)),
        version="0.1.0",
        release=Path.cwd() / ".ringfence-demo" / "members" / names[0] / "releases" / "installed" / "0.1.0",
        signed_by=f"2 of {len(names)} members",
        round_s=123.4,
        total_s=1234.5,
    )


def companies_of(names: tuple[str, ...]) -> list[CompanyData]:
    return [
        CompanyData(
            name=name,
            train=tuple(
                Conversation(id=f"{number}", messages=(), label=number % 2) for number in range(4 + place)
            ),
            test=(),
        )
        for place, name in enumerate(names)
    ]


def names_of(count: int) -> tuple[str, ...]:
    return tuple(_company_name(number) for number in range(count))


@pytest.mark.parametrize("members", [2, 3, 4, 5, 6, 20])
def test_at_most_forty_lines_are_printed_on_eighty_columns_when_nothing_is_beaten(members: int) -> None:
    outcome = outcome_of(names_of(members), federated=(0.1, 0.1))
    source = "messages-of-the-year.jsonl, messages-of-the-last.jsonl, more-messages.jsonl and others"
    shown = introduction(companies_of(outcome.members), source=source, folder=outcome.folder)
    text = _text(outcome).splitlines()
    # Only a path or a command to be copied is left for the terminal to break.
    whole = [*text[text.index("Next:") :], f"Release 0.1.0: {os.path.relpath(outcome.release)}"]
    assert [line for line in [*shown, *text] if len(line) >= COLUMNS and line not in whole] == []
    lines = sum(max(1, -(-len(line) // COLUMNS)) for line in [*shown, *text])
    assert lines + BETWEEN <= LINES


def test_a_few_companies_stand_in_rows_of_their_own_and_many_in_one_with_the_least_and_the_most() -> None:
    few, many = outcome_text(outcome_of(names_of(5))), outcome_text(outcome_of(names_of(20)))
    assert few.count(" alone ") == 5
    assert "companies alone" not in few
    (folded,) = [line for line in many.splitlines() if " alone " in line]
    assert "each of 20 companies alone" in folded
    assert folded.split()[-2:] == ["0.70-0.89", "0.40-0.40"]


def test_many_companies_are_introduced_in_one_line() -> None:
    folder = Path.cwd() / "there"
    lines = introduction(companies_of(names_of(20)), source="chat", folder=folder)
    assert lines == [
        "20 companies with chat, in there:",
        "  each 4 to 23 conversations, 2 to 11 positive, 0 held out",
    ]
    assert len(introduction(companies_of(names_of(3)), source="chat", folder=folder)) == 4


NAMES = ("alder", "birch")


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, ""),
        ({"public": (0.9, 0.5)}, "This release does not beat in both figures: the public head."),
        ({"public": (0.8, 0.8)}, "This release does not beat in both figures: the public head."),
        # 0.89 of alder is below the release's 0.90, as birch's 0.90 is not.
        ({"alone": (0.89, 0.4)}, "This release does not beat in both figures: birch alone."),
        (
            {"federated": (0.5, 0.4)},
            "This release does not beat in both figures: the public head, alder alone, birch alone.",
        ),
    ],
)
def test_what_the_released_draw_does_not_beat_is_said_in_one_sentence(
    figures: dict[str, tuple[float, float]], said: str
) -> None:
    outcome = outcome_of(NAMES, **figures)
    assert shortfall(outcome) == said
    assert ("does not beat" in outcome_text(outcome)) == bool(said)


def test_many_companies_that_are_not_beaten_are_counted() -> None:
    said = shortfall(outcome_of(names_of(20), federated=(0.805, 0.6)))
    assert said == "This release does not beat in both figures: 9 of 20 companies alone."


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(8.0, "8.00"), (12.106, "12.1"), (0.1, "0.100"), (0.14321, "0.143")]
)
def test_a_small_epsilon_keeps_its_digits(epsilon: float, shown: str) -> None:
    assert shown_epsilon(epsilon) == shown


def test_a_person_on_two_platforms_is_not_told_the_epsilon_of_one() -> None:
    outcome = outcome_of(NAMES)
    assert outcome.epsilon < 0.1
    text = " ".join(outcome_text(outcome).split())
    assert "Epsilon 0.100:" in text
    assert "; 0.1" in text
    assert "; 0.100 for a person" not in text
