"""``ringfence model evaluate`` and ``calibrate``: figures and pictures of one's own data, which stay at home."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringfence.client.model_commands import application
from ringfence.client.score_command import score
from ringfence.demo.company_data import benign_chat
from ringfence.model.calibration import Calibration
from ringfence.model.console import new_application, run_application
from ringfence.model.detector import Detector
from ringfence.model.feature_set import load_feature_set
from ringfence.model.metrics import area_under_roc
from ringfence.model.simulation import simulate_companies

PICTURES = {"precision-recall.svg", "calibration.svg", "score-timeline.svg", "early-detection.svg"}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ringfence-detector-0.0.0")
    features = load_feature_set()
    Detector(features, features.warm_start * 1.3).save(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    company = simulate_companies(
        benign_chat(), companies=1, conversations_per_company=150, test_conversations=0, seed=11
    )[0]
    path = tmp_path_factory.mktemp("data") / "labelled.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": item.id,
                    "label": item.label,
                    "messages": [{"author": m.author, "text": m.text} for m in item.messages],
                }
            )
            + "\n"
            for item in company.train
        )
    )
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def run(*arguments: object) -> int:
    return run_application(application, [str(argument) for argument in arguments])


def run_score(*arguments: object) -> int:
    command = new_application("t", "")
    command.command()(score)
    return run_application(command, [str(argument) for argument in arguments])


def labels_of(path: Path, *, positives: int, negatives: int, texts: list[str]) -> Path:
    """Write conversations of one message, the first text for positives and the second for negatives; empty without texts."""
    lines = []
    for index in range(positives + negatives):
        label = int(index < positives)
        messages = [{"author": "a", "text": f"{texts[1 - label]} {'so ' * (index % 5)}"}] if texts else []
        lines.append(json.dumps({"id": f"c{index}", "label": label, "messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


class TestEvaluate:
    def test_writes_figures_and_pictures_that_only_the_owner_reads(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("evaluate", labelled, "--model", release, "--home", home, "--json") == 0
        captured = capsys.readouterr()
        data = json.loads(captured.out)["data"]
        folder = Path(data["folder"])
        assert folder.parent == home / "evaluations"
        assert folder.stat().st_mode & 0o777 == 0o700
        names = {path.name for path in folder.iterdir()}
        assert names == PICTURES | {"evaluation.json", "evaluation.md"}
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        for name in PICTURES:
            picture = (folder / name).read_text()
            assert "<svg" in picture
            assert len(re.findall(r"<path ", picture)) > 5
        assert "average precision" in (folder / "precision-recall.svg").read_text()
        assert json.loads((folder / "evaluation.json").read_text()) == data["figures"]
        assert "they stay here" in captured.err

    def test_says_what_the_scores_say(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("evaluate", labelled, "--model", release, "--home", home, "--no-plots", "--json") == 0
        figures = json.loads(capsys.readouterr().out)["data"]["figures"]
        run_score(labelled, "--model", release, "--home", home, "--json")
        scores = {line["id"]: line["score"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
        items = [json.loads(line) for line in labelled.read_text().splitlines()]
        labels = np.array([item["label"] for item in items])
        expected = area_under_roc(labels, np.array([scores[item["id"]] for item in items]))
        assert figures["conversations"] == len(items)
        assert figures["release"]["auroc"]["value"] == pytest.approx(expected, abs=1e-3)
        assert figures["seen"][-1][1] == pytest.approx(figures["release"]["auroc"]["value"])
        assert figures["early"]["warned"] <= 0.05

    def test_prints_a_table_and_no_text_or_name_of_anybody(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("evaluate", labelled, "--model", release, "--home", home) == 0
        captured = capsys.readouterr()
        for part in (
            "this release",
            "public head",
            "latency-weighted F1",
            "ERDE5",
            "Brier",
            "up to 10 messages",
        ):
            assert part in captured.out
        folder = next((home / "evaluations").iterdir())
        everything = captured.out + captured.err + "".join(path.read_text() for path in folder.iterdir())
        for line in labelled.read_text().splitlines()[:40]:
            item = json.loads(line)
            assert item["id"] not in everything
            for message in item["messages"]:
                assert len(message["text"]) < 12 or message["text"] not in everything

    def test_the_same_data_gives_the_same_files(
        self, release: Path, labelled: Path, home: Path, tmp_path: Path
    ) -> None:
        for name in ("one", "two"):
            assert (
                run("evaluate", labelled, "--model", release, "--home", home, "--out", tmp_path / name) == 0
            )
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    def test_never_writes_into_a_folder_that_is_there(
        self, release: Path, labelled: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("evaluate", labelled, "--model", release, "--home", home, "--out", tmp_path) == 4
        assert "is there already" in capsys.readouterr().err

    def test_labels_of_one_kind_are_refused(
        self, release: Path, labelled: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "negatives.jsonl"
        kept = [line for line in labelled.read_text().splitlines() if json.loads(line)["label"] == 0]
        path.write_text("\n".join(kept) + "\n")
        assert run("evaluate", path, "--model", release, "--home", home) == 4
        assert "positive and negative" in capsys.readouterr().err
        assert not (home / "evaluations").exists()

    @pytest.mark.parametrize("capacity", ["0", "1.5", "-1", "nan", "50", "50/hour"])
    def test_a_capacity_that_is_neither_share_nor_rate_is_refused(
        self, release: Path, labelled: Path, home: Path, capacity: str
    ) -> None:
        assert run("evaluate", labelled, "--model", release, "--home", home, f"--capacity={capacity}") == 4

    def test_a_capacity_of_so_many_a_day_is_a_share_by_the_days_of_the_conversations(
        self, release: Path, labelled: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        items = [json.loads(line) for line in labelled.read_text().splitlines()]
        for index, item in enumerate(items):
            item["messages"][-1]["time"] = 1_700_000_000 + 86_400 * (index % 10)
        path = tmp_path / "timed.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        asked = ("--no-plots", "--home", home, "--json", "--capacity", "3/day")
        assert run("evaluate", path, "--model", release, *asked) == 0
        figures = json.loads(capsys.readouterr().out)["data"]["figures"]
        assert figures["capacity"] == pytest.approx(3 * 10 / len(items))
        assert run("evaluate", labelled, "--model", release, *asked) == 4
        assert "No conversation has a time" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "texts", [["keep this a secret between us", "good game"], []], ids=["said", "empty"]
    )
    def test_a_handful_gives_no_interval_and_a_warning(
        self, release: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: list[str]
    ) -> None:
        path = labels_of(tmp_path / "few.jsonl", positives=2, negatives=2, texts=texts)
        assert run("evaluate", path, "--model", release, "--home", home, "--no-plots") == 0
        captured = capsys.readouterr()
        row = next(line for line in captured.out.splitlines() if line.startswith("| this release"))
        assert row.count("(-)") == 2
        assert " to " not in row
        assert captured.err.count("warning: fewer than 10 positives or 10 negatives") == 1
        assert "calibrate" not in captured.out.splitlines()[-1], "it would be refused"

    def test_many_give_intervals_and_no_warning(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("evaluate", labelled, "--model", release, "--home", home, "--no-plots") == 0
        captured = capsys.readouterr()
        assert re.search(r"this release \| 0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\)", captured.out)
        assert "warning: fewer" not in captured.err

    def test_says_how_many_conversations_have_no_label(
        self, release: Path, labelled: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        items = [json.loads(line) for line in labelled.read_text().splitlines()]
        for item in items[:7]:
            del item["label"]
        path = tmp_path / "some.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        assert run("evaluate", path, "--model", release, "--home", home, "--no-plots", "--json") == 0
        captured = capsys.readouterr()
        data = json.loads(captured.out)["data"]
        assert data["conversations_without_label"] == 7
        assert data["figures"]["conversations"] == len(items) - 7
        assert "7 conversations have no label" in captured.err
        for item in items:
            item.pop("label", None)
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        assert run("evaluate", path, "--model", release, "--home", home, "--no-plots") == 4
        assert "No conversation has a label" in capsys.readouterr().err


class TestCalibrate:
    def probabilities(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> list[float]:
        assert run_score(labelled, "--model", release, "--home", home, "--json") == 0
        return [json.loads(line)["probability"] for line in capsys.readouterr().out.splitlines()]

    def test_scores_use_it_until_it_is_reset(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = self.probabilities(release, labelled, home, capsys)
        assert run("calibrate", labelled, "--model", release, "--home", home, "--json") == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert data["brier_held_out"] < data["brier_before"]
        assert (home / "calibration.json").stat().st_mode & 0o777 == 0o600
        after = self.probabilities(release, labelled, home, capsys)
        assert after != before
        labels = [json.loads(line)["label"] for line in labelled.read_text().splitlines()]
        # What Platt's fit promises: on its own data the mean probability is nearly the share of positives.
        assert np.mean(after) == pytest.approx(np.mean(labels), abs=0.03)
        assert run("calibrate", "--reset", "--home", home) == 0
        capsys.readouterr()
        assert self.probabilities(release, labelled, home, capsys) == before

    def test_another_release_keeps_its_own(
        self,
        release: Path,
        labelled: Path,
        home: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        features = load_feature_set()
        Detector(features, features.warm_start).save(tmp_path)
        before = self.probabilities(tmp_path, labelled, home, capsys)
        assert run("calibrate", labelled, "--model", release, "--home", home) == 0
        capsys.readouterr()
        assert self.probabilities(tmp_path, labelled, home, capsys) == before

    @pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (9, 40), (40, 9)])
    def test_a_handful_is_refused_and_what_is_in_use_stays(
        self,
        release: Path,
        labelled: Path,
        home: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        positives: int,
        negatives: int,
    ) -> None:
        assert run("calibrate", labelled, "--model", release, "--home", home) == 0
        before = (home / "calibration.json").read_bytes()
        few = labels_of(
            tmp_path / "few.jsonl",
            positives=positives,
            negatives=negatives,
            texts=["keep this a secret between us", "good game"],
        )
        capsys.readouterr()
        for more in ([], ["--even-if-worse"]):
            assert run("calibrate", few, "--model", release, "--home", home, *more) == 4
            captured = capsys.readouterr()
            assert "at least 10 positives and 10 negatives" in captured.err
            assert "Nine in ten" not in captured.out
        assert (home / "calibration.json").read_bytes() == before

    def test_one_that_does_no_better_on_held_out_data_replaces_nothing_unless_asked(
        self, release: Path, labelled: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("calibrate", labelled, "--model", release, "--home", home) == 0
        assert "The new calibration is in use" in capsys.readouterr().out
        before = (home / "calibration.json").read_bytes()
        # The same labels, held out, cannot do better than the calibration that was fitted on all of them.
        assert run("calibrate", labelled, "--model", release, "--home", home) == 0
        captured = capsys.readouterr()
        assert "Nothing was replaced" in captured.out
        assert "--even-if-worse" in captured.out
        assert "Nine in ten" not in captured.out
        assert (home / "calibration.json").read_bytes() == before
        asked = ("--model", release, "--home", home, "--json")
        assert run("calibrate", labelled, *asked) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert (data["in_use"], data["file"]) == (False, None)
        assert data["brier_held_out"] >= data["brier_before"]
        items = [json.loads(line) for line in labelled.read_text().splitlines()]
        other = tmp_path / "other.jsonl"
        # Some labels the other way round: another fit, so that a replacement is seen.
        for item in items[::4]:
            item["label"] = 1 - item["label"]
        other.write_text("".join(json.dumps(item) + "\n" for item in items))
        assert run("calibrate", other, *asked, "--even-if-worse") == 0
        assert json.loads(capsys.readouterr().out)["data"]["in_use"] is True
        assert (home / "calibration.json").read_bytes() != before

    def test_what_the_release_came_with_is_not_replaced_by_worse_either(
        self, labelled: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        features = load_feature_set()
        detector = Detector(features, features.warm_start * 1.3)
        detector.save(tmp_path)
        assert run("calibrate", labelled, "--model", tmp_path, "--home", home, "--json") == 0
        fitted = json.loads(capsys.readouterr().out)["data"]["calibration"]
        replace(detector, calibration=Calibration.model_validate(fitted)).save(tmp_path)
        assert run("calibrate", "--reset", "--home", home) == 0
        assert run("calibrate", labelled, "--model", tmp_path, "--home", home) == 0
        assert "Nothing was replaced" in capsys.readouterr().out
        assert not (home / "calibration.json").exists()

    def test_a_damaged_file_is_named(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (home / "calibration.json").write_text("{}")
        assert run_score(labelled, "--model", release, "--home", home) == 4
        captured = capsys.readouterr()
        assert "calibration.json" in captured.err
        assert "calibrate --reset" in captured.err
        assert run("calibrate", labelled, "--model", release, "--home", home) == 4
        assert run("calibrate", "--reset", "--home", home) == 0
        assert run("calibrate", labelled, "--model", release, "--home", home) == 0
