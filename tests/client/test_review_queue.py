"""``ringfence score --capacity``: what reviewers have time for, by a threshold that is kept, with a warning of drift."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest

from ringfence.client.member_home import MemberHome
from ringfence.client.review_queue import review
from ringfence.client.score_command import score
from ringfence.model.console import new_application, run_application
from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.feature_set import load_feature_set

PATTERN = ["how old are you", "keep this a secret between us", "can we meet alone", "add me on another app"]
HARMLESS = ["good game", "nice weather today", "what did you cook", "see you on the raid tonight"]
DAY = 86_400


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ringfence-detector-0.0.0")
    features = load_feature_set()
    Detector(features, features.warm_start).save(folder)
    return folder


def run(*arguments: object) -> int:
    command = new_application("t", "")
    command.command()(score)
    return run_application(command, [str(argument) for argument in arguments])


def days(path: Path, *, first: int, count: int, high: int, low: int = 20) -> Path:
    """Write ``count`` days with ``high`` conversations of the pattern and ``low`` harmless ones each."""
    lines = []
    for day in range(first, first + count):
        for index in range(high + low):
            texts = PATTERN if index < high else HARMLESS
            lines.append(
                {
                    "id": f"d{day}-{index}",
                    "messages": [
                        # Each a little different, so that scores do not all tie.
                        {
                            "author": "a",
                            "text": f"{text} {'so ' * (index % 7)}",
                            "time": 1_700_000_000 + day * DAY,
                        }
                        for text in texts[: 4 - index % 2]
                    ],
                }
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def flagged(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


class TestTheQueue:
    def score(self, path: Path, release: Path, home: Path, *more: object) -> int:
        return run(path, "--model", release, "--home", home, "--json", "--capacity", "4/day", *more)

    def test_holds_what_there_is_time_for_highest_first(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = days(tmp_path / "one.jsonl", first=0, count=10, high=4)
        assert self.score(path, release, tmp_path / "home") == 0
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert 0 < len(lines) <= 40
        assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
        # Of each day the first four are the pattern.
        assert all(int(line["id"].split("-")[1]) < 4 for line in lines)
        assert "just chosen on 9 days" in captured.err
        assert (tmp_path / "home" / "review-queue.json").stat().st_mode & 0o777 == 0o600

    def test_keeps_its_threshold_and_warns_when_more_comes(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = tmp_path / "home"
        self.score(days(tmp_path / "one.jsonl", first=0, count=10, high=4), release, home)
        capsys.readouterr()
        assert self.score(days(tmp_path / "two.jsonl", first=10, count=3, high=4), release, home) == 0
        captured = capsys.readouterr()
        assert "chosen on 9 days" in captured.err
        assert "just chosen" not in captured.err
        assert "were expected" not in captured.err
        assert self.score(days(tmp_path / "three.jsonl", first=13, count=4, high=20), release, home) == 0
        captured = capsys.readouterr()
        assert "were expected" in captured.err
        assert "--new-threshold" in captured.err
        assert len(flagged(captured.out)) > 4 * 4
        assert self.score(tmp_path / "three.jsonl", release, home, "--new-threshold") == 0
        captured = capsys.readouterr()
        assert "just chosen on 7 days with conversations up to 2023-11-29" in captured.err
        assert "were expected" not in captured.err
        assert "On the newest 7 complete days with conversations" in captured.err

    def test_says_what_was_flagged_lately_beside_what_there_is_time_for(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = tmp_path / "home"
        quiet = days(tmp_path / "quiet.jsonl", first=0, count=20, high=2).read_text()
        path = days(tmp_path / "all.jsonl", first=20, count=8, high=16)
        path.write_text(quiet + path.read_text())
        # Chosen on all days at once: no later day tells of drift, and still the queue is over what there is time for.
        assert self.score(path, release, home) == 0
        said = capsys.readouterr().err
        assert "were expected" not in said
        rate = re.search(
            r"On the newest 7 complete days (\S+) a day were flagged; there is time for 4\.", said
        )
        assert rate is not None
        assert float(rate[1]) >= 8
        assert "more was flagged lately than there is time for" in said
        assert self.score(path, release, home, "--new-threshold") == 0
        said = capsys.readouterr().err
        rate = re.search(r"days with conversations (\S+) a day were flagged; there is time for 4\.", said)
        assert rate is not None
        assert float(rate[1]) <= 4
        assert "warning" not in said
        # Said every time, not only when a threshold is chosen.
        assert self.score(path, release, home) == 0
        assert "a day were flagged; there is time for 4" in capsys.readouterr().err

    def test_names_the_day_of_each_conversation_and_how_to_explain_them(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, home = days(tmp_path / "one.jsonl", first=0, count=10, high=4), tmp_path / "home"
        self.score(path, release, home)
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert {line["last_message"] for line in lines} <= {f"2023-11-{day}" for day in range(14, 24)}
        assert f"ringfence score --top {len(lines)} --explain FILE" in captured.err
        assert run(path, "--model", release, "--home", home, "--capacity", "4/day") == 0
        table = capsys.readouterr().out.splitlines()
        assert table[0].split() == ["probability", "score", "last", "message", "conversation"]
        assert [line.split()[2:] for line in table[1:]] == [
            [line["last_message"], line["id"]] for line in lines
        ]

    def test_has_no_new_threshold_without_a_capacity(self, release: Path, tmp_path: Path) -> None:
        path = days(tmp_path / "one.jsonl", first=0, count=1, high=1)
        assert run(path, "--model", release, "--home", tmp_path / "home", "--new-threshold") == 4

    def test_the_same_file_again_changes_nothing(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, home = days(tmp_path / "one.jsonl", first=0, count=5, high=4), tmp_path / "home"
        self.score(path, release, home)
        first, kept = capsys.readouterr().out, (home / "review-queue.json").read_bytes()
        self.score(path, release, home)
        assert capsys.readouterr().out == first
        assert (home / "review-queue.json").read_bytes() == kept

    def test_another_release_begins_a_history_of_its_own(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, home, other = (
            days(tmp_path / "one.jsonl", first=0, count=5, high=4),
            tmp_path / "home",
            tmp_path / "r",
        )
        self.score(path, release, home)
        other.mkdir()
        features = load_feature_set()
        Detector(features, features.warm_start * 2).save(other)
        capsys.readouterr()
        self.score(days(tmp_path / "two.jsonl", first=5, count=2, high=4), other, home)
        assert "just chosen on 1 day" in capsys.readouterr().err

    def test_exports_that_overlap_count_a_conversation_once(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = tmp_path / "home"
        self.score(days(tmp_path / "one.jsonl", first=0, count=10, high=4), release, home)
        for night in range(10, 14):
            path = days(tmp_path / f"{night}.jsonl", first=night - 6, count=7, high=4)
            assert self.score(path, release, home) == 0
        assert "were expected" not in capsys.readouterr().err
        kept = json.loads((home / "review-queue.json").read_text())
        assert {day["conversations"] for day in kept["days"].values()} == {24}

    def test_without_times_the_same_file_on_a_later_day_counts_once(
        self, release: Path, tmp_path: Path
    ) -> None:
        detector = Detector.load(release)
        conversations = [
            Conversation(f"c{index}", (Message("a", text),)) for index, text in enumerate(PATTERN + HARMLESS)
        ]
        scored = list(zip(conversations, detector.score_together(conversations), strict=True))
        home = MemberHome(tmp_path / "home")
        for day in (1, 2, 3):
            review(detector, scored, home=home, per_day=2, today=date(2026, 3, day))
        kept = json.loads(home.review_queue_file.read_text())
        assert {day: held["conversations"] for day, held in kept["days"].items()} == {"2026-03-01": 8}

    def test_a_clock_that_is_ahead_makes_no_other_day_old(self, release: Path, tmp_path: Path) -> None:
        detector = Detector.load(release)
        conversations = [
            Conversation(f"c{index}", (Message("a", "hello", time=1_700_000_000.0 + ahead),))
            for index, ahead in enumerate((0, 1e9))
        ]
        scored = list(zip(conversations, detector.score_together(conversations), strict=True))
        home = MemberHome(tmp_path / "home")
        review(detector, scored, home=home, per_day=1, today=date(2023, 11, 20))
        assert set(json.loads(home.review_queue_file.read_text())["days"]) == {"2023-11-14", "2023-11-20"}

    def test_while_there_is_time_for_every_conversation_all_are_shown_and_no_threshold_is_kept(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = tmp_path / "home"
        assert self.score(days(tmp_path / "a.jsonl", first=0, count=1, high=1, low=2), release, home) == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 3
        assert "there is time for every one" in captured.err
        assert self.score(days(tmp_path / "b.jsonl", first=1, count=9, high=4), release, home) == 0
        captured = capsys.readouterr()
        assert "just chosen on 9 days" in captured.err
        assert len(captured.out.splitlines()) <= 40

    def test_a_history_that_counted_conversations_again_and_again_begins_anew(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home = tmp_path / "home"
        home.mkdir()
        first = {"schema_version": 1, "detector_sha256": "0" * 64, "days": {}, "runs": [], "threshold": None}
        (home / "review-queue.json").write_text(json.dumps(first))
        assert self.score(days(tmp_path / "one.jsonl", first=0, count=3, high=4), release, home) == 0
        assert "just chosen on 2 days" in capsys.readouterr().err

    def test_the_history_holds_counts_and_nothing_of_anybody(self, release: Path, tmp_path: Path) -> None:
        home = tmp_path / "home"
        self.score(days(tmp_path / "one.jsonl", first=0, count=3, high=4), release, home)
        kept = json.loads((home / "review-queue.json").read_text())
        assert set(kept) == {"schema_version", "detector_sha256", "days", "threshold"}
        assert all(set(day) == {"conversations", "bins", "seen"} for day in kept["days"].values())
        keys = [key for day in kept["days"].values() for key in day["seen"]]
        assert len(set(keys)) == 72
        # Under the member's own secret: elsewhere the same conversations have other keys.
        other = tmp_path / "other"
        self.score(tmp_path / "one.jsonl", release, other)
        assert not set(keys) & {key for key in keys if key in (other / "review-queue.json").read_text()}
        assert "d0-" not in json.dumps(kept)

    @pytest.mark.parametrize("option", [("--top", 3), ("--explain",), ("--stream",)])
    def test_goes_with_no_other_way_of_showing(
        self, release: Path, tmp_path: Path, option: tuple[object, ...]
    ) -> None:
        path = days(tmp_path / "one.jsonl", first=0, count=1, high=1)
        assert self.score(path, release, tmp_path / "home", *option) == 4

    def test_a_damaged_history_is_named(
        self, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "review-queue.json").write_text("{}")
        path = days(tmp_path / "one.jsonl", first=0, count=1, high=1)
        assert self.score(path, release, tmp_path) == 4
        assert "review-queue.json" in capsys.readouterr().err
