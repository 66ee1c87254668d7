"""The Python in the documentation runs exactly as it stands there, each piece on its own, beside a release folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ringfence.model.detector import Detector
from ringfence.model.feature_set import load_feature_set
from ringfence.model.onnx_export import export_onnx

ROOT = Path(__file__).parent.parent
SNIPPETS = [
    pytest.param(code, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reader")
    release = place / "release"
    release.mkdir()
    features = load_feature_set()
    detector = Detector(features, features.warm_start)
    detector.save(release)
    export_onnx(detector, release / "model.onnx")
    return place


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs_as_it_stands(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own documentation


def test_the_scoring_guide_shows_both_ways() -> None:
    assert {"scoring.md-0", "scoring.md-1"} <= {str(snippet.id) for snippet in SNIPPETS}
    assert any("OnnxHead" in str(snippet.values[0]) for snippet in SNIPPETS)


def test_both_ways_give_the_same_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    first: dict[str, object] = {}
    second: dict[str, object] = {}
    for names, wanted in ((first, "scoring.md-0"), (second, "scoring.md-1")):
        code = next(str(snippet.values[0]) for snippet in SNIPPETS if snippet.id == wanted)
        exec(compile(code, wanted, "exec"), names)  # noqa: S102 - our own documentation
    score, scores, probabilities = first["score"], second["scores"], second["probabilities"]
    assert scores[0] == pytest.approx(score.logit, abs=1e-4)  # type: ignore[index, attr-defined]
    assert probabilities[0] == pytest.approx(score.probability, abs=1e-4)  # type: ignore[index, attr-defined]
