"""A plan is one agreed text: it reads back to the same bytes, and every field outside its terms is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.model.errors import ConfigError
from ringfence.model.plan import (
    CohortTerms,
    Plan,
    PrivacyTerms,
    TrainingTerms,
    load_plan,
    parse_plan,
)
from ringfence.model.settings_file import toml_text

MINIMAL: dict[str, object] = {
    "name": "first",
    "federation": "demo",
    "training": {"feature_set_sha256": "ab" * 32},
    "privacy": {"noise_multiplier": 10.0},
}

name = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
plans = st.builds(
    Plan,
    name=name,
    federation=name,
    purpose=name,
    demonstration=st.booleans(),
    training=st.builds(
        TrainingTerms,
        architecture=name,
        feature_set_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        rounds=st.integers(1, 1000),
        local_steps=st.integers(1, 1000),
        learning_rate=st.floats(1e-9, 100),
        momentum=st.floats(0, 1, exclude_max=True),
        weight_decay=st.floats(0, 0.01),
        positive_weight=st.floats(1e-9, 1000),
        prefixes=st.lists(st.floats(1e-6, 1), min_size=1, max_size=16).map(tuple),
        averaging=st.sampled_from(["last", "last-half"]),
    ),
    privacy=st.one_of(
        st.builds(
            PrivacyTerms,
            contribution_bound=st.integers(1, 64),
            bounds=st.sampled_from(["greedy", "fractional", "grouped"]),
            delta=st.floats(1e-12, 1e-3, exclude_max=True),
            noise_multiplier=st.floats(1e-6, 1e4),
        ),
        st.builds(
            PrivacyTerms,
            sampling=st.just("poisson"),
            sample_rate=st.floats(1e-6, 1, exclude_max=True),
            noise_multiplier=st.floats(1e-6, 1e4),
        ),
    ),
    cohort=st.builds(
        CohortTerms,
        minimum=st.integers(1, 10_000),
        round_deadline_s=st.floats(1e-3, 7 * 86_400),
        attempts=st.integers(1, 20),
    ),
)


@given(plans)
def test_a_plan_reads_back_to_the_same_bytes(plan: Plan) -> None:
    again = parse_plan(plan.canonical_json())
    assert again == plan
    assert again.canonical_json() == plan.canonical_json()
    assert again.digest() == plan.digest()


@given(plans)
def test_a_plan_written_as_toml_is_the_same_plan(plan: Plan) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.toml"
        file.write_text(toml_text(plan.model_dump(mode="json")))
        assert load_plan(file) == plan


@given(plans, plans)
def test_two_plans_have_one_digest_only_if_they_are_one(one: Plan, two: Plan) -> None:
    assert (one.digest() == two.digest()) == (one == two)


def test_the_order_in_which_a_plan_was_written_does_not_change_it() -> None:
    backwards = json.dumps(dict(reversed(MINIMAL.items())), indent=3)
    assert parse_plan(backwards).canonical_json() == Plan.model_validate(MINIMAL).canonical_json()


def test_every_process_gives_the_same_bytes() -> None:
    plan = Plan.model_validate(MINIMAL)
    program = (
        "import sys; from ringfence.model.plan import parse_plan; print(parse_plan(sys.argv[1]).digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(MINIMAL)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == plan.digest()


def test_steps_are_rounds_times_local_steps() -> None:
    plan = Plan.model_validate(MINIMAL)
    assert plan.steps == plan.training.rounds * plan.training.local_steps == 300


def _with(path: str, value: object) -> dict[str, object]:
    values = json.loads(json.dumps(MINIMAL))
    where = values
    *sections, last = path.split(".")
    for section in sections:
        where = where.setdefault(section, {})
    where[last] = value
    return values


REFUSED = [
    ("schema_version", 2),
    ("name", "Upper"),
    ("name", ""),
    ("name", "a" * 64),
    ("name", "../escape"),
    ("name", "name\n"),
    ("federation", "with space"),
    ("purpose", None),
    ("demonstration", "perhaps"),
    ("unknown", 1),
    ("training.unknown", 1),
    ("training.architecture", "/etc/passwd"),
    ("training.feature_set", "../other"),
    ("training.feature_set_sha256", "ab"),
    ("training.feature_set_sha256", "AB" * 32),
    ("training.rounds", 0),
    ("training.rounds", 1001),
    ("training.rounds", 2.5),
    ("training.local_steps", 0),
    ("training.local_steps", 1001),
    ("training.learning_rate", 0),
    ("training.learning_rate", -1),
    ("training.learning_rate", float("nan")),
    ("training.learning_rate", float("inf")),
    ("training.momentum", 1),
    ("training.momentum", -0.1),
    ("training.positive_weight", 0),
    ("training.prefixes", []),
    ("training.prefixes", [0]),
    ("training.prefixes", [1.1]),
    ("training.prefixes", [0.5] * 17),
    ("training.averaging", "best"),
    ("privacy.contribution_bound", 0),
    ("privacy.contribution_bound", 65),
    ("privacy.delta", 0),
    ("privacy.delta", 1e-3),
    ("privacy.clip_norm", 0),
    ("privacy.noise_multiplier", 0),
    ("privacy.noise_multiplier", -1),
    ("privacy.noise_multiplier", float("nan")),
    ("privacy.noise_multiplier", float("inf")),
    ("privacy.bounds", "none"),
    ("training.weight_decay", -0.1),
    ("privacy.clip_norm", 1e-7),
    ("training.weight_decay", float("nan")),
    ("privacy.noise", "none"),
    ("privacy.sampling", "shuffle"),
    ("privacy.sampling", "poisson"),  # at rate 1
    ("privacy.sample_rate", 0.5),  # with full batch
    ("privacy.sample_rate", 0),
    ("cohort.minimum", 0),
    ("cohort.round_deadline_s", 0),
    ("cohort.round_deadline_s", 8 * 86_400),
    ("cohort.attempts", 0),
    ("cohort.attempts", 21),
]


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_a_field_outside_its_terms_is_refused_by_name(path: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_plan(json.dumps(_with(path, value)))
    assert path.split(".")[0] in caught.value.message


@pytest.mark.parametrize("path", ["name", "federation", "training", "privacy", "privacy.noise_multiplier"])
def test_a_field_without_a_default_must_be_there(path: str) -> None:
    values = _with(path, None)
    with pytest.raises(ConfigError, match=path.split(".")[-1]):
        parse_plan(json.dumps(values))


def test_a_decay_that_makes_weights_grow_is_refused() -> None:
    training = {"feature_set_sha256": "ab" * 32, "learning_rate": 100.0, "weight_decay": 0.5}
    with pytest.raises(ConfigError, match="weight_decay"):
        parse_plan(json.dumps(_with("training", training)))


@pytest.mark.parametrize("bounds", ["fractional", "grouped"])
def test_bounds_that_hold_for_the_full_batch_are_refused_where_conversations_are_sampled(bounds: str) -> None:
    sampled = MINIMAL["privacy"] | {"bounds": bounds, "sampling": "poisson", "sample_rate": 0.5}
    with pytest.raises(ConfigError, match='bounds must be "greedy"'):
        parse_plan(json.dumps(_with("privacy", sampled)))


def test_terms_that_were_added_later_leave_the_digest_of_plans_without_them_alone() -> None:
    """Releases, ledgers and approvals name plans by their digest."""
    plan = Plan.model_validate(MINIMAL)
    assert b"bounds" not in plan.canonical_json()
    assert b"weight_decay" not in plan.canonical_json()
    said = Plan.model_validate(_with("privacy", MINIMAL["privacy"] | {"bounds": "greedy"}))
    assert said.digest() == plan.digest()
    for path, value in (("privacy.bounds", "grouped"), ("training.weight_decay", 0.003)):
        other = Plan.model_validate(_with(path, value))
        assert path.split(".")[1].encode() in other.canonical_json()
        assert parse_plan(other.canonical_json()) == other


def test_the_noise_of_a_plan_is_never_a_default() -> None:
    assert PrivacyTerms.model_fields["noise_multiplier"].is_required()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"name": "a", "name": "b"}', b"[" * 5000]
)
def test_what_is_not_a_plan_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_plan(content)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"name = 'first'"])
def test_a_file_that_is_not_a_plan_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "plan.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan\.toml"):
        load_plan(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_plan(tmp_path / "nowhere.toml")


def test_a_refusal_does_not_repeat_what_was_written() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_plan(json.dumps(_with("training.averaging", "planted-words")))
    assert "planted-words" not in caught.value.message
