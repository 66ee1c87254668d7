"""The quality benchmark on a few conversations, so that it still runs, and gives the same figures again, when it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = ("--companies", "2", "--conversations", "40", "--seeds", "1", "--noise-draws", "2")
FEW_STEPS = ("--rounds", "2", "--local-steps", "2", "--shared-steps", "2")


def quality(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "quality.py", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=240)


def test_every_row_has_its_figures_and_they_come_back(tmp_path: Path) -> None:
    words = (*SMALL, *FEW_STEPS, "--json", "--cache", tmp_path)
    first = quality(*words)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    rows = {name: np.array(figures) for name, figures in found["rows"].items()}
    # Splits x draws x (AUROC, average precision, F-latency); what has no noise has one draw.
    assert {name: figures.shape for name, figures in rows.items()} == {
        "public head, no training": (1, 1, 3),
        "alone, not private": (1, 1, 3),
        "alone, not private, on what the bound keeps": (1, 1, 3),
        "alone, private": (1, 2, 3),
        "federated, private, member noise": (1, 2, 3),
        "federated, private, shared noise": (1, 2, 3),
        "pooled, not private": (1, 1, 3),
        "bag of words, federated, private, member noise": (1, 2, 3),
        "bag of words, pooled, not private": (1, 1, 3),
    }
    assert all(((figures >= 0) & (figures <= 1)).all() for figures in rows.values())
    assert rows["pooled, not private"][0, 0, 0] > 0.7
    assert (rows["alone, not private"] != rows["alone, not private, on what the bound keeps"]).any()
    member = rows["federated, private, member noise"]
    assert (member[0, 0] != member[0, 1]).any(), "each draw has noise of its own"
    assert len(list(tmp_path.iterdir())) == 2, "the rows of two companies are kept"
    assert quality(*words).stdout == first.stdout


def test_other_phrases_and_fractional_bounds_give_another_table() -> None:
    done = quality(
        *SMALL, *FEW_STEPS, "--phrases", BENCHMARKS / "other-phrases.json", "--bounds", "fractional"
    )
    assert done.returncode == 0, done.stderr
    assert "simulation with other-phrases.json" in done.stdout
    assert "k = 1 (fractional)" in done.stdout
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == 10


@pytest.mark.parametrize("option", ["--corpus", "--phrases"])
def test_a_file_that_is_missing_is_an_error_with_a_hint_and_no_traceback(option: str, tmp_path: Path) -> None:
    done = quality(option, tmp_path / "missing")
    assert done.returncode == 4
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
