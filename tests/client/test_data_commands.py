"""``ringfence data check``: counts that are right, warnings that help, and neither text nor names."""

import json
from pathlib import Path
from typing import Any

import pytest

from ringfence.client.data_commands import application
from ringfence.client.data_summary import LabelCounts, summarise
from ringfence.model.console import run_application
from ringfence.model.conversation import Conversation, Message

SECRET = "the blue heron waits"  # stands for what a person wrote
KEY = b"k" * 32


def talk(
    identifier: str, *authors: str, label: int | None = 0, text: str = "", start: float = 0.0
) -> Conversation:
    messages = (
        Message(author, text or f"{identifier} {index}", start + index)
        for index, author in enumerate(authors)
    )
    return Conversation(identifier, tuple(messages), label=label)


def test_the_counts_are_those_of_the_conversations() -> None:
    data = [
        talk("c1", "a", "b", "a", label=1, start=1_000_000_000),
        talk("c2", "A", "c", label=0, start=1_000_000_100),
        talk("c3", "d", label=None),
        Conversation("c4", (), label=0),
    ]
    found = summarise(data, contribution_bound=1, bounds="greedy", secret=KEY)
    assert found.conversations == LabelCounts(positive=1, negative=2, undecided=1)
    assert (found.messages, found.median_length, found.longest) == (6, 1.5, 3)
    assert found.first_at == "1970-01-01T00:00:00+00:00"
    assert found.last_at == "2001-09-09T01:48:21+00:00"
    assert found.participants == 4, "a and A are one person"
    assert (found.largest_group, found.busiest) == (2, 2)
    # a takes part in c1 and c2: with k = 1 one of them stays. Nobody takes part in c4: it is never used.
    assert found.kept.total == 1
    assert found.kept.total + found.dropped.total == 3


def test_a_larger_bound_keeps_more() -> None:
    data = [talk(f"c{index}", "busy", f"p{index}", label=index % 2) for index in range(20)]
    kept = [
        summarise(data, contribution_bound=k, bounds="greedy", secret=KEY).kept.total for k in (1, 2, 8, 64)
    ]
    assert kept == [1, 2, 8, 20]


def test_grouping_keeps_more_in_as_many_examples() -> None:
    data = [talk(f"c{index}", "busy", f"p{index}", label=index % 2) for index in range(6)]
    found = summarise(data, contribution_bound=1, secret=KEY)
    assert (found.bounds, found.kept.total, found.dropped.total, found.examples) == ("grouped", 6, 0, 1)


def many(**options: Any) -> list[Conversation]:
    return [talk(f"n{index}", f"u{index}", f"v{index}", label=index % 2, **options) for index in range(80)]


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        ([talk("c1", "a", label=1)], "Only 0 conversations are labelled negative"),
        ([*many(), Conversation("e", (), label=0)], "1 conversations have no messages"),
        ([talk(f"c{i}", "bot", f"p{i}", label=i % 2) for i in range(80)], "One account takes part in 80"),
        (many(text="same words"), "79 conversations repeat the words of another"),
        (
            [*many(), Conversation("t", (Message("x", "1", 5.0), Message("y", "2", 4.0)), label=0)],
            "In 1 conversations the times go back",
        ),
        ([Conversation("c", (Message("a", "x"),), label=1)], "No message has a time"),
    ],
)
def test_what_a_member_should_look_at_is_said(data: list[Conversation], warning: str) -> None:
    found = summarise(data, contribution_bound=2, secret=KEY)
    assert any(warning in line for line in found.warnings), found.warnings


def test_sound_data_has_no_warning() -> None:
    assert summarise(many(start=1_700_000_000), contribution_bound=2, secret=KEY).warnings == ()


@pytest.mark.parametrize("seconds", [1e300, -1e300, 1.7e15])
def test_times_that_are_no_dates_are_named_not_fatal(seconds: float) -> None:
    data = [Conversation("c", (Message("a", "x", seconds),), label=1)]
    assert "out of range" in str(summarise(data, contribution_bound=2, secret=KEY).first_at)


@pytest.mark.parametrize(
    ("factor", "unit", "fix"),
    [
        (1e3, "milliseconds", "sent_at / 1000.0 AS sent_at"),
        (1e6, "microseconds", "sent_at / 1000000.0 AS sent_at"),
        (1e9, "nanoseconds", "divide time by 1000000000"),
    ],
)
def test_times_in_a_finer_unit_are_recognised_and_the_way_to_seconds_is_named(
    factor: float, unit: str, fix: str
) -> None:
    for first in (1.7e9, 0.0):  # also where one message has a time of its own
        data = [
            Conversation("c", (Message("a", "x", first * factor), Message("b", "y", 1.7e9 * factor)), label=1)
        ]
        (warning,) = (
            line for line in summarise(data, contribution_bound=2, secret=KEY).warnings if unit in line
        )
        assert fix in warning


def test_times_that_are_no_dates_are_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chats.jsonl"
    messages = [{"author": "a", "text": "x", "time": 1.7e12}, {"author": "b", "text": "y", "time": 1.71e12}]
    path.write_text(json.dumps({"id": 1, "label": 1, "messages": messages}) + "\n")
    assert run_application(application, ["check", str(path), "--home", str(tmp_path / "home")]) == 0
    written = capsys.readouterr().out
    assert written.count("out of range") == 1
    assert "warning: Times look like milliseconds" in written


@pytest.mark.parametrize("seconds", [1e300, -1e300])
def test_times_outside_every_calendar_are_warned_of(seconds: float) -> None:
    data = [Conversation("c", (Message("a", "x", seconds),), label=1)]
    warnings = summarise(data, contribution_bound=2, secret=KEY).warnings
    assert any("outside the calendar" in line for line in warnings)


@pytest.mark.parametrize("seconds", [20240131.0, 2024.0, 45292.5])
def test_dates_years_and_a_spreadsheets_days_are_warned_of(seconds: float) -> None:
    data = [Conversation("c", (Message("a", "x", seconds),), label=1)]
    (warning,) = (
        line for line in summarise(data, contribution_bound=2, secret=KEY).warnings if "1990" in line
    )
    assert "seconds since 1970" in warning


@pytest.mark.parametrize("seconds", [0.0, 1e9, 4e9])
def test_times_in_seconds_are_not_warned_of(seconds: float) -> None:
    data = [Conversation("c", (Message("a", "x", seconds),), label=1)]
    warnings = summarise(data, contribution_bound=2, secret=KEY).warnings
    assert not [line for line in warnings if "seconds" in line]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((1, 0), "Next: ringfence agent run"),
        ((None, None), "Next: give labels"),
        ((1, 1), "Next: add conversations labelled negative"),
        ((0, None), "Next: add conversations labelled positive"),
    ],
)
def test_the_next_step_is_what_is_missing_for_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: tuple[int | None, ...], expected: str
) -> None:
    path = tmp_path / "chats.jsonl"
    lines = [
        {"id": n, "label": label, "messages": [{"author": f"p{n}", "text": "x"}]}
        for n, label in enumerate(labels)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_application(application, ["check", str(path), "--home", str(tmp_path / "home")]) == 0
    written = capsys.readouterr().err
    assert expected in written
    assert ("ringfence agent run" in written) == (labels == (1, 0))


def test_that_the_bound_leaves_only_one_kind_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chats.jsonl"
    lines = [{"id": n, "label": n, "messages": [{"author": "everywhere", "text": "x"}]} for n in (0, 1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [
        "check",
        str(path),
        "--contribution-bound",
        "1",
        "--bounds",
        "greedy",
        "--home",
        str(tmp_path / "home"),
    ]
    assert run_application(application, arguments) == 0
    assert "the bound on each person keeps only one kind" in capsys.readouterr().err


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    messages = [{"author": "quiet-otter", "text": SECRET}, {"author": "b", "text": SECRET}]
    lines = [{"id": f"room-{i}", "label": i % 2, "messages": messages} for i in range(10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_command_prints_counts_and_neither_text_nor_names(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(tmp_path / "home")
    assert run_application(application, ["check", str(chats), "--bounds", "greedy", "--home", home]) == 0
    text = capsys.readouterr()
    assert (
        run_application(application, ["check", str(chats), "--bounds", "greedy", "--home", home, "--json"])
        == 0
    )
    as_json = capsys.readouterr()
    data = json.loads(as_json.out)["data"]
    assert data["conversations"] == {"positive": 5, "negative": 5, "undecided": 0}
    assert data["kept"]["positive"] + data["kept"]["negative"] == 2
    assert "10: 5 positive, 5 negative" in text.out
    for written in ("heron", "otter", "room-"):
        assert written not in text.out + text.err + as_json.out + as_json.err
    assert not (tmp_path / "home").exists(), "a look leaves nothing behind"


@pytest.mark.parametrize(
    ("content", "expected"), [("", "holds no conversation"), ("{\n", "line 1"), (None, "Cannot read")]
)
def test_bad_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, expected: str
) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    assert run_application(application, ["check", str(path), "--home", str(tmp_path / "home")]) == 4
    assert expected in capsys.readouterr().err


def test_without_files_and_without_a_home_the_way_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["check", "--home", str(tmp_path / "home")]) == 4
    assert "fix:" in capsys.readouterr().err
