"""A member's policy: what stands in the file is what holds, and what does not belong there is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.client.member_home import MemberHome
from ringfence.client.policy import Policy, default_policy, load_policy, parse_policy
from ringfence.client.policy_lines import line_numbers
from ringfence.client.policy_text import ensure_policy, policy_text, save_policy
from ringfence.model.errors import ConfigError
from ringfence.privacy.ledger_terms import LedgerLimits

POLICIES = {
    "real": default_policy(federation="chat-federation"),
    "demonstration": default_policy(federation="chat-federation", demonstration=True),
    "nobody": default_policy(),
}


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return MemberHome(tmp_path / "member").create()


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_written_policy_reads_back_as_the_same_policy(policy: Policy, home: MemberHome) -> None:
    save_policy(home, policy=policy)
    assert load_policy(home).model_dump() == policy.model_dump()
    assert home.policy_file.stat().st_mode & 0o777 == 0o600


def test_every_key_of_the_written_file_has_a_comment_and_a_line() -> None:
    policy = default_policy()
    lines = policy_text(policy).splitlines()
    numbers = line_numbers("\n".join(lines))
    keys = [
        f"{section}.{key}"
        for section in type(policy).model_fields
        if section != "schema_version"
        for key in type(getattr(policy, section)).model_fields
    ]
    assert len(keys) > 25
    for key in keys:
        at = numbers[key]
        assert lines[at - 1].startswith(key.partition(".")[2] + " = ")
        assert lines[at - 2].startswith("# ")
        assert len(lines[at - 2]) > 20, "a comment says something"


def test_the_default_is_on_the_safe_side() -> None:
    policy = default_policy()
    assert policy.launch.launched_by == ()
    assert policy.launch.approval == "manual"
    assert not policy.launch.demonstration
    assert (policy.budget.lifetime_epsilon, policy.budget.delta) == (8.0, 1e-6)
    assert policy.limits.contribution_bound == 2
    assert policy.methods.noise == ("member",)


def test_the_ledger_is_opened_with_the_policy_terms() -> None:
    terms = default_policy().ledger_terms("conversations")
    assert (terms.headline_epsilon, terms.fallback_epsilon, terms.delta) == (8.0, 10.0, 1e-6)
    assert terms.limits == LedgerLimits(noise_floor=1.0, contribution_bound=2, steps=50, minimum_cohort=3)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "anchor/ledger.head"),
        ("elsewhere/head", "elsewhere/head"),
        ("/mnt/other/head", "/mnt/other/head"),
    ],
)
def test_the_second_place_of_the_ledger_is_where_the_policy_says(
    path: str, expected: str, home: MemberHome
) -> None:
    policy = parse_policy(f'[ledger]\nanchor_path = "{path}"\n')
    assert policy.anchor_file(home) == home.root / expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[budget]\nrun_epsilom = 2.0\n", ("line 2", "budget.run_epsilom", "no such key")),
        ("\n\n[bugdet]\nrun_epsilon = 2.0\n", ("line 3", "bugdet", "no such key")),
        ("trust_everybody = true\n", ("line 1", "trust_everybody", "no such key")),
        ("[limits]\n# k\ncontribution_bound = 0\n", ("line 3", "limits.contribution_bound")),
        ("[limits]\nnoise_floor = -1.0\n", ("line 2", "limits.noise_floor")),
        ("[limits]\nnoise_floor = nan\n", ("line 2", "limits.noise_floor")),
        ("[limits]\nrounds = 3.5\n", ("line 2", "limits.rounds")),
        ("[budget]\nlifetime_epsilon = inf\n", ("line 2", "budget.lifetime_epsilon")),
        ("[budget]\nlifetime_epsilon = -8\n", ("line 2", "budget.lifetime_epsilon")),
        ("[budget]\nplatforms = 4\n", ("line 2", "budget.platforms")),
        ("[budget]\ndelta = 0.5\n", ("line 2", "budget.delta")),
        (
            "[budget]\nlifetime_epsilon_fallback = 1.0\n",
            ("line 1", "lifetime_epsilon_fallback must be at least"),
        ),
        ("[budget]\nrun_epsilon_fallback = 1.0\n", ("line 1", "run_epsilon_fallback must be at least")),
        ("[budget]\nrun_epsilon_on_platforms = 1\n", ("line 1", "run_epsilon_on_platforms must be")),
        ('[launch]\napproval = "never"\n', ("line 2", "launch.approval")),
        ('[launch]\nlaunched_by = "everybody"\n', ("line 2", "launch.launched_by")),
        ('[methods]\nfeature_sets = [\n  { nme = "x" },\n]\n', ("line 2", "methods.feature_sets", "nme")),
        ('[methods]\naggregation = ["shut"]\n', ("line 2", "methods.aggregation")),
        ('[hours]\nwindows = ["at night"]\n', ("line 2", "hours.windows", "mon-fri 22:00-06:00")),
        ('[ledger]\ndata_protection_key = "abc"\n', ("line 2", "ledger.data_protection_key")),
        ("[retention]\ncache_days = -1\n", ("line 2", "retention.cache_days")),
        ("budget = { run_epsilom = 2.0 }\n", ("line 1", "budget.run_epsilom")),
        ("[budget\n", ("is not TOML", "line 1")),
    ],
)
def test_a_wrong_or_unknown_key_is_refused_with_file_line_and_key(
    text: str, named: tuple[str, ...], home: MemberHome
) -> None:
    home.policy_file.write_text(text)
    home.policy_file.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        load_policy(home)
    for part in (str(home.policy_file), *named):
        assert part in refused.value.message
    assert refused.value.hint


def test_a_policy_that_others_may_write_to_is_not_the_members_own(home: MemberHome) -> None:
    save_policy(home, policy=default_policy())
    for mode in (0o620, 0o602):
        home.policy_file.chmod(mode)
        with pytest.raises(ConfigError, match="Others may write"):
            load_policy(home)


def test_a_missing_policy_names_the_command_that_writes_one(home: MemberHome) -> None:
    with pytest.raises(ConfigError) as refused:
        load_policy(home)
    assert "ringfence policy init" in refused.value.hint


def test_the_environment_cannot_widen_a_policy(home: MemberHome, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(home, policy=default_policy())
    for name in ("BUDGET", "RUN_EPSILON", "LAUNCH", "SCHEMA_VERSION"):
        monkeypatch.setenv(f"RINGFENCE_{name}", "7")
    assert load_policy(home).model_dump() == default_policy().model_dump()


def test_joining_writes_a_policy_once_and_never_over_a_persons_own(home: MemberHome) -> None:
    assert ensure_policy(home, federation="first", demonstration=False)
    assert load_policy(home).launch.launched_by == ("first",)
    home.policy_file.write_text('[launch]\nlaunched_by = ["mine"]\n')
    home.policy_file.chmod(0o600)
    assert not ensure_policy(home, federation="second", demonstration=True)
    assert load_policy(home).launch.launched_by == ("mine",)
    with pytest.raises(ConfigError, match="already"):
        save_policy(home, policy=default_policy())


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("[a]\nx = 1\n\n# note\ny = 2\n", "a.y", 5),
        ("[a]\nx = [\n 1,\n 2,\n]\ny = 2\n", "a.x", 2),
        ("[a]\nx = [\n 1,\n 2,\n]\ny = 2\n", "a.y", 6),
        ('[a]\nx = """\n[b]\ny = 1\n"""\n[b]\ny = 2', "b.y", 7),
        ("[b]\nx = 1\n[a]\nx = 2\n", "a.x", 4),
        ("a.x = 1\na.y = 2\n", "a.y", 2),
        ("a = { x = 1, y = 2 }\n", "a.y", 1),
        ('["a"]\n"x" = 1\n', "a.x", 2),
        ("[a]\r\nx = 1\r\ny = 2\r\n", "a.y", 3),
        ('[a]\nx = "one\u2028line"\ny = 2\n', "a.y", 3),
    ],
)
def test_a_line_is_found_however_the_key_is_written(text: str, key: str, line: int) -> None:
    assert line_numbers(text)[key] == line
