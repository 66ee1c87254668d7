"""``ringfence-coordinator plan``: work out, write, look; what is written is what is launched."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ringfence.model.console import run_application
from ringfence.model.feature_set import load_feature_set
from ringfence.model.plan import RECOMMENDED_WEIGHT_DECAY, Plan, PrivacyTerms, TrainingTerms, load_plan
from ringfence.privacy.accounting import epsilon_of
from ringfence.server.command_line import application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.plan_file import plan_text, save_plan
from ringfence.server.run_launch import Launcher


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    located = CoordinatorHome(tmp_path / "coordinator")
    settings = CoordinatorSettings(federation="chat", demonstration=True)
    initialise_coordinator(located, settings=settings, now=datetime.now(UTC))
    return located


def plan(*arguments: str) -> int:
    return run_application(application, ["plan", *arguments])


def data_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert envelope["status"] == "ok"
    data: dict[str, Any] = envelope["data"]
    return data


def test_a_new_plan_names_the_installed_features_keeps_its_epsilon_and_can_be_launched(
    home: CoordinatorHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    assert plan("new", str(file), "--epsilon", "3", "--rounds", "20", "--home", str(home.root)) == 0
    assert f"ringfence-coordinator plan check {file}" in capsys.readouterr().out
    written = load_plan(file)
    assert written.federation == "chat"
    assert written.demonstration
    assert written.training.feature_set_sha256 == load_feature_set().fingerprint
    assert epsilon_of(written).epsilon == pytest.approx(3.0, rel=1e-3)
    assert epsilon_of(written).epsilon <= 3.0
    settings = CoordinatorSettings(federation="chat", demonstration=True)
    run = Launcher(home=home, settings=settings).prepare(written)
    assert run.signed_plan().plan == written


def test_a_new_plan_that_samples_keeps_whole_conversations(home: CoordinatorHome, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    assert plan("new", str(file), "--sample-rate", "0.1", "--home", str(home.root)) == 0
    assert load_plan(file).privacy.bounds == "greedy"


@pytest.mark.parametrize("bounds", [None, "greedy", "fractional"])
def test_a_new_plan_groups_unless_it_is_told_otherwise(
    home: CoordinatorHome, tmp_path: Path, bounds: str | None
) -> None:
    file = tmp_path / "plan.toml"
    asked = () if bounds is None else ("--bounds", bounds)
    assert plan("new", str(file), *asked, "--home", str(home.root)) == 0
    assert load_plan(file).privacy.bounds == (bounds or "grouped")
    assert load_plan(file).training.weight_decay == RECOMMENDED_WEIGHT_DECAY


@pytest.mark.parametrize("bounds", ["fractional", "grouped"])
def test_other_bounds_of_a_plan_that_samples_are_an_error(
    bounds: str, home: CoordinatorHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "plan.toml")
    sampled = ("--bounds", bounds, "--sample-rate", "0.1", "--home", str(home.root))
    assert plan("new", file, *sampled) == 4
    assert "greedy" in capsys.readouterr().err


def test_a_new_plan_is_not_written_over_another(
    home: CoordinatorHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    new = ("new", str(file), "--home", str(home.root))
    assert plan(*new, "--noise", "90") == 0
    assert plan(*new) == 4
    assert "--force" in capsys.readouterr().err
    assert load_plan(file).privacy.noise_multiplier == 90.0
    assert plan(*new, "--force", "--json") == 0
    assert data_of(capsys)["epsilon"] == pytest.approx(2.0, rel=1e-3)
    assert plan(*new, "--force", "--noise", "90", "--epsilon", "2") == 4
    assert plan(*new, "--force", "--name", "Not A Name") == 4
    assert "name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "privacy",
    [
        PrivacyTerms(noise_multiplier=78.25, contribution_bound=3, delta=1e-7),
        PrivacyTerms(noise_multiplier=1e-3),
        PrivacyTerms(noise_multiplier=40.0, sampling="poisson", sample_rate=0.1),
        PrivacyTerms(noise_multiplier=78.0, evaluation_noise_multiplier=20.0),
    ],
    ids=["large", "tiny", "poisson", "evaluated"],
)
def test_a_written_plan_reads_back_as_the_same_plan_bit_for_bit(
    privacy: PrivacyTerms, tmp_path: Path
) -> None:
    made = Plan(
        name="spring",
        federation="chat",
        training=TrainingTerms(feature_set_sha256="a" * 64, rounds=1, local_steps=1),
        privacy=privacy,
    )
    save_plan(tmp_path / "plan.toml", plan=made)
    assert load_plan(tmp_path / "plan.toml").digest() == made.digest()
    text = plan_text(made)
    assert "epsilon" in text.split("schema_version")[0], "the promise stands at the top"
    lines = text.splitlines()
    for key in ("rounds", "local_steps", "noise_multiplier", "contribution_bound", "delta", "minimum"):
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key} = "))
        assert lines[at - 1].startswith("# ")


def test_check_shows_adversaries_platforms_conversation_runs_and_needed_noise(
    home: CoordinatorHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "plan.toml")
    assert plan("new", file, "--home", str(home.root), "--minimum", "7") == 0
    capsys.readouterr()
    assert plan("check", file) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 25
    for part in (
        "the coordinator alone",
        "one other member alone",
        "the coordinator together with up to 2 members",
        "the coordinator and every other member together",
        "a person on 3 platforms",
        "one conversation",
        "a lifetime budget of 8 allows 10 such runs",
        "noise needed for an epsilon (a person on 1 platform):",
        "ringfence-coordinator run start",
    ):
        assert part in shown
    assert plan("check", file, "--lifetime-epsilon", "4", "--epsilon", "1", "--epsilon", "9", "--json") == 0
    data = data_of(capsys)
    statement = epsilon_of(load_plan(Path(file)))
    assert data["statement"]["epsilon"] == statement.epsilon
    assert [item["epsilon"] for item in data["statement"]["adversaries"]] == [
        item.epsilon for item in statement.adversaries
    ]
    assert data["runs_in_lifetime"] == 3
    assert [item["epsilon"] for item in data["needed_noise"]] == [1.0, 9.0]
    assert data["digest"] == load_plan(Path(file)).digest()


def test_check_shows_the_promise_also_of_a_plan_beyond_any_budget(
    home: CoordinatorHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    assert plan("new", str(file), "--home", str(home.root)) == 0
    lines = file.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("noise_multiplier = "))
    lines[at] = "noise_multiplier = 0.01"
    file.write_text("\n".join(lines))
    capsys.readouterr()
    assert plan("check", str(file)) == 0
    shown = capsys.readouterr()
    assert "a lifetime budget of 8 allows 0 such runs" in shown.out
    assert "ringfence budget" not in shown.out + shown.err


@pytest.mark.parametrize(
    "arguments", [("--epsilon", "nan"), ("--epsilon", "-1"), ("--lifetime-epsilon", "0")]
)
def test_check_refuses_numbers_that_are_none(
    arguments: tuple[str, ...],
    home: CoordinatorHome,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = str(tmp_path / "plan.toml")
    assert plan("new", file, "--home", str(home.root)) == 0
    assert plan("check", file, *arguments) == 4
    assert "fix:" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "name = ", 'name = "x"\n', "[privacy]\nnoise_multiplier = nan\n"])
def test_what_is_no_plan_is_refused_by_name(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(content)
    assert plan("check", str(file)) == 4
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "solved", "expected"),
    [
        (("--epsilon", "2", "--rounds", "30"), "noise_multiplier", 77.27),
        (("--epsilon", "2", "--noise", "77.27"), "rounds", 30),
        (("--rounds", "30", "--noise", "77.27"), "epsilon", 2.0),
        (("--epsilon", "60", "--rounds", "1", "--noise", "50"), "sample_rate", 1.0),
    ],
)
def test_two_numbers_give_the_third(
    arguments: tuple[str, ...], solved: str, expected: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan("solve", *arguments, "--json") == 0
    data = data_of(capsys)
    assert data["solved"] == solved
    assert data[solved] == pytest.approx(expected, rel=1e-3)
    assert plan("solve", *arguments) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 25
    assert shown.count("<- worked out") == 1


def test_what_solve_suggests_writes_a_plan_with_that_epsilon(
    home: CoordinatorHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan("solve", "--epsilon", "1.5", "--rounds", "12", "--local-steps", "7", "-k", "3") == 0
    suggested = capsys.readouterr().out.splitlines()[-1].split("plan new FILE ")[1].split()
    file = tmp_path / "plan.toml"
    assert plan("new", str(file), *suggested, "--home", str(home.root)) == 0
    found = epsilon_of(load_plan(file)).epsilon
    assert found <= 1.5
    assert found == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize(
    "arguments", [(), ("--epsilon", "2"), ("--epsilon", "2", "--sample-rate", "0.5"), ("--epsilon", "0")]
)
def test_too_few_numbers_are_an_error_that_says_how_many(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan("solve", *arguments) == 4
    assert "two are needed" in capsys.readouterr().err
