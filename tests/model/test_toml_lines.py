"""An error about a file of settings names the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.model.errors import ConfigError
from ringfence.model.plan import load_plan
from ringfence.model.toml_lines import line_of_key

TEXT = """\
name = "spring"
federation = "example"

[training]
# rounds = 3
rounds = "many"
prefixes = [0.5,
  1.5]

[privacy]
noise_multiplier = 2.0
"cohort".minimum = 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 1),
        (("training", "rounds"), 6),
        (("training", "prefixes", 1), 7),
        (("training", "feature_set_sha256"), 4),
        (("privacy", "noise_multiplier"), 11),
        (("privacy", "cohort", "minimum"), 12),
        (("rounds",), None),
        (("attempts",), None),
        ((), None),
    ],
)
def test_a_keys_line_or_its_tables_is_found(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of_key(TEXT, path) == line


def test_an_error_in_a_plan_names_line_and_field_and_not_the_value(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(TEXT)
    with pytest.raises(ConfigError) as caught:
        load_plan(file)
    for part in (
        "line 6, training.rounds: Input should be a valid integer",
        "line 7, training.prefixes.1: Input should be less than or equal to 1",
        "line 4, training.feature_set_sha256: Field required",
    ):
        assert part in caught.value.message
    assert "many" not in caught.value.message


def test_a_line_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('name = "spring"\nrounds : 3\n')
    with pytest.raises(ConfigError, match="line 2"):
        load_plan(file)
