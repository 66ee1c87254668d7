"""``ringfence model evaluate`` and ``calibrate``: figures and pictures of one's own data, which stay at home."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ringfence.client.model_commands import application
from ringfence.client.score_command import score
from ringfence.demo.company_data import benign_chat
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

    def test_a_damaged_file_is_named(
        self, release: Path, labelled: Path, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (home / "calibration.json").write_text("{}")
        assert run_score(labelled, "--model", release, "--home", home) == 4
        assert "calibration.json" in capsys.readouterr().err
