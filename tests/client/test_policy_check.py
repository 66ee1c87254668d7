"""A plan outside of the policy is refused by the very line that it breaks, and whoever asks for more is refused as well."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.client import policy_check
from ringfence.client.policy import Policy, default_policy, parse_policy
from ringfence.client.policy_check import Spending, SpendingTally, check_plan, refusals_of, spending_of
from ringfence.client.policy_text import policy_text
from ringfence.model.errors import BudgetError, PolicyError
from ringfence.model.plan import Plan, PrivacyTerms
from ringfence.privacy.ledger_chain import LedgerEntry, next_entry
from ringfence.privacy.ledger_terms import LedgerTerms, budget_in_units
from ringfence.privacy.run_cost import RunCost, run_cost, runs_within

FEATURES = "a" * 64
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday

PERMITTED: dict[str, Any] = {
    "name": "spring",
    "federation": "chat",
    "training": {"feature_set_sha256": FEATURES, "rounds": 30, "local_steps": 10},
    "privacy": {"noise_multiplier": 78.0},
    "cohort": {"minimum": 3},
}


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = json.loads(json.dumps(values))
    for place, value in changes.items():
        section, _, key = place.rpartition(".")
        (result.setdefault(section, {}) if section else result)[key] = value
    return result


def plan(**changes: Any) -> Plan:
    return Plan.model_validate(changed(PERMITTED, {k.replace("__", "."): v for k, v in changes.items()}))


def policy(**changes: Any) -> Policy:
    """Return the default policy, read back from its commented text, with keys changed there."""
    lines = policy_text(default_policy(federation="chat")).splitlines()
    for key, value in changes.items():
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key} = "))
        lines[at] = f"{key} = {json.dumps(value)}"
    return parse_policy("\n".join(lines))


def unchecked(privacy: Mapping[str, float], **training: Any) -> Plan:
    """Return a plan past its own validation: the check must not rest on it."""
    base = plan()
    return base.model_copy(
        update={
            "privacy": PrivacyTerms.model_construct(**{**base.privacy.model_dump(), **privacy}),
            "training": base.training.model_copy(update=training),
        }
    )


def test_a_plan_within_the_policy_is_permitted() -> None:
    check_plan(plan(), policy=policy(), now=NOON)
    check_plan(plan(), policy=policy(), now=None, spent=Spending(order=4))


ROWS = [
    ("launched_by", {"launched_by": ["other"]}, plan(), "launch", "chat"),
    ("launched_by", {}, plan(federation="elsewhere"), "launch", "elsewhere"),
    ("purposes", {}, plan(purpose="advertising"), "launch", "advertising"),
    ("demonstration", {}, plan(demonstration=True), "launch", "a demonstration"),
    ("demonstration", {"demonstration": True}, plan(), "launch", "no demonstration"),
    ("architectures", {"architectures": ["linear-9"]}, plan(), "methods", "linear-109"),
    ("feature_sets", {}, plan(training__feature_set="other-128"), "methods", "other-128"),
    ("aggregation", {"aggregation": ["sealed"]}, plan(), "methods", "open"),
    ("noise", {"noise": ["shared"]}, plan(), "methods", "member"),
    ("bounds", {"bounds": ["greedy"]}, plan(privacy__bounds="grouped"), "methods", "grouped"),
    ("sampling", {"sampling": ["poisson"]}, plan(), "methods", "full-batch"),
    ("contribution_bound", {}, plan(privacy__contribution_bound=3), "limits", "3"),
    ("minimum_cohort", {}, plan(cohort__minimum=2), "limits", "2"),
    ("noise_floor", {}, plan(privacy__noise_multiplier=0.99), "limits", "0.99"),
    ("noise_floor", {}, plan(privacy__evaluation_noise_multiplier=0.5), "limits", "0.5"),
    ("rounds", {}, plan(training__rounds=201), "limits", "201"),
    ("local_steps", {}, plan(training__local_steps=51), "limits", "51"),
    ("delta", {}, plan(privacy__delta=1e-5), "budget", "1e-05"),
    ("windows", {"windows": ["sat,sun 00:00-24:00"]}, plan(), "hours", "Wed 12:00 UTC"),
    ("windows", {"windows": ["daily 22:00-06:00"]}, plan(), "hours", "Wed 12:00 UTC"),
    ("windows", {"windows": []}, plan(), "hours", "Wed 12:00 UTC"),
    ("run_epsilon", {}, plan(privacy__noise_multiplier=60.0), "budget", "2.6"),
    (
        "run_epsilon_fallback",
        {"run_epsilon": 1.5, "run_epsilon_fallback": 1.5},
        plan(),
        "budget",
        "1.979",
    ),
    ("run_epsilon_on_platforms", {"run_epsilon_on_platforms": 2.5}, plan(), "budget", "2.899"),
    ("lifetime_epsilon", {"lifetime_epsilon": 1.0}, plan(), "budget", "does not fit"),
    (
        "lifetime_epsilon_fallback",
        {"lifetime_epsilon": 1.0, "lifetime_epsilon_fallback": 1.0},
        plan(),
        "budget",
        "does not fit",
    ),
]


@pytest.mark.parametrize(
    ("key", "changes", "asked", "section", "plan_says"),
    ROWS,
    ids=[f"{row[0]}-{number}" for number, row in enumerate(ROWS)],
)
def test_each_line_of_the_policy_refuses_by_its_name_line_and_both_values(
    key: str, changes: dict[str, Any], asked: Plan, section: str, plan_says: str
) -> None:
    rules = policy(**changes)
    with pytest.raises(PolicyError) as refused:
        check_plan(asked, policy=rules, now=NOON)
    sentence = next(part for part in refused.value.message.split("; ") if f"] {key} = " in part)
    lines = policy_text(default_policy(federation="chat")).splitlines()
    number = next(at for at, line in enumerate(lines, start=1) if line.startswith(f"{key} = "))
    assert sentence.startswith(f"policy.toml, line {number}, [{section}] {key} = ")
    assert plan_says in sentence.partition(f"] {key} = ")[2]
    assert refused.value.hint


def test_every_key_that_a_plan_can_break_has_a_row() -> None:
    judged = {
        key
        for section in ("launch", "budget", "limits", "methods", "hours")
        for key in type(getattr(default_policy(), section)).model_fields
    }
    # These decide about other keys: how approval is asked for, for how many platforms epsilon is looked up, and how much of
    # the lifetime runs leave alone (tests/client/test_personalise.py).
    assert judged - {"approval", "platforms", "personalisation_share"} == {row[0] for row in ROWS}


def test_the_number_of_platforms_decides_which_epsilon_is_judged() -> None:
    limits = {"run_epsilon_on_platforms": 3.0}
    check_plan(plan(), policy=policy(platforms=2, **limits), now=NOON)
    with pytest.raises(PolicyError, match="run_epsilon_on_platforms"):
        check_plan(plan(), policy=policy(platforms=3, **limits), now=NOON)


def test_all_lines_that_refuse_are_named_at_once() -> None:
    asked = plan(purpose="advertising", privacy__contribution_bound=3, training__rounds=999)
    found = refusals_of(asked, policy=policy(), now=NOON)
    assert [key for key in ("purposes", "contribution_bound", "rounds") if f"] {key} = " in " ".join(found)]
    assert len(found) == 3


def test_a_rule_that_is_not_in_the_file_says_that_its_default_holds() -> None:
    bare = parse_policy('[launch]\nlaunched_by = ["chat"]\n')
    with pytest.raises(PolicyError, match=r"not written there, so the default holds, \[limits\] rounds"):
        check_plan(plan(training__rounds=999), policy=bare, now=NOON)


@pytest.mark.parametrize("sha256", [None, FEATURES, "b" * 64])
def test_a_plan_on_paper_with_other_hashes_is_refused_where_the_policy_pins_them(sha256: str | None) -> None:
    pinned = {"name": "static-128"} | ({"sha256": sha256} if sha256 else {})
    text = "[[methods.feature_sets]]\n" + "\n".join(f'{key} = "{value}"' for key, value in pinned.items())
    rules = parse_policy(f'[launch]\nlaunched_by = ["chat"]\n{text}\n')
    if sha256 in (None, FEATURES):
        check_plan(plan(), policy=rules, now=NOON)
    else:
        with pytest.raises(PolicyError, match=r"feature_sets = .*b{64}.*a{64}"):
            check_plan(plan(), policy=rules, now=NOON)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0])
@pytest.mark.parametrize(
    ("field", "key"),
    [("noise_multiplier", "noise_floor"), ("delta", "delta"), ("sample_rate", "run_epsilon")],
)
def test_numbers_that_are_none_are_refused_even_past_the_plans_own_validation(
    field: str, key: str, value: float
) -> None:
    with pytest.raises(PolicyError, match=rf"\] {key} = "):
        check_plan(unchecked({field: value}), policy=policy(), now=NOON)


@pytest.mark.parametrize("value", [0, -3])
@pytest.mark.parametrize("field", ["rounds", "local_steps"])
def test_counts_below_one_are_refused_even_past_the_plans_own_validation(field: str, value: int) -> None:
    with pytest.raises(PolicyError, match=field):
        check_plan(unchecked({}, **{field: value}), policy=policy(), now=NOON)
    with pytest.raises(PolicyError, match="contribution_bound"):
        check_plan(unchecked({"contribution_bound": value}), policy=policy(), now=NOON)


def test_a_larger_delta_does_not_buy_a_larger_epsilon() -> None:
    """Judged at its own delta, the smaller promise would be refused and the larger one permitted."""
    small, large = (plan(privacy__noise_multiplier=65.0, privacy__delta=delta) for delta in (1e-9, 1e-6))
    assert refusals_of(small, policy=policy(), now=NOON) == refusals_of(large, policy=policy(), now=NOON)


RULES = policy()
WORSE = st.fixed_dictionaries(
    {},
    optional={
        "less_noise": st.floats(0.01, 1.0),
        "more_rounds": st.integers(0, 300),
        "more_steps": st.integers(0, 60),
        "more_conversations": st.integers(0, 8),
        "fewer_members": st.integers(0, 5),
        "more_delta": st.floats(1.0, 100.0),
    },
)
ASKED = st.fixed_dictionaries(
    {
        "noise": st.floats(0.5, 400.0),
        "rounds": st.integers(1, 300),
        "steps": st.integers(1, 60),
        "k": st.integers(1, 4),
        "minimum": st.integers(1, 6),
        "delta": st.sampled_from([1e-8, 1e-6, 2e-6]),
    }
)


@settings(max_examples=200, deadline=None)
@given(asked=ASKED, worse=WORSE)
def test_whoever_asks_for_more_than_a_refused_plan_is_refused_too(
    asked: dict[str, Any], worse: dict[str, Any]
) -> None:
    def made(noise: float, rounds: int, steps: int, k: int, minimum: int, delta: float) -> Plan:
        return plan(
            privacy__noise_multiplier=noise,
            privacy__contribution_bound=k,
            privacy__delta=delta,
            training__rounds=rounds,
            training__local_steps=steps,
            cohort__minimum=minimum,
        )

    if refusals_of(made(**asked), policy=RULES, now=NOON):
        more = made(
            noise=asked["noise"] * worse.get("less_noise", 1.0),
            rounds=asked["rounds"] + worse.get("more_rounds", 0),
            steps=asked["steps"] + worse.get("more_steps", 0),
            k=asked["k"] + worse.get("more_conversations", 0),
            minimum=max(1, asked["minimum"] - worse.get("fewer_members", 0)),
            delta=min(9e-4, asked["delta"] * worse.get("more_delta", 1.0)),
        )
        assert refusals_of(more, policy=RULES, now=NOON)


def test_a_sampled_plan_beyond_the_lifetime_is_refused_without_working_out_its_tight_epsilon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its privacy loss distribution takes minutes and a gigabyte: nobody can tie up a member's agent with such plans."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("worked out")

    monkeypatch.setattr(policy_check, "epsilon_of", never)
    asked = {"sampling": "poisson", "sample_rate": 0.9, "noise_multiplier": 1.0}
    wide = policy(sampling=["full-batch", "poisson"], noise_floor=1.0, rounds=200, local_steps=50)
    greedy = plan(
        training__rounds=200, training__local_steps=50, **{f"privacy__{key}": v for key, v in asked.items()}
    )
    refusals = refusals_of(greedy, policy=wide, now=None)
    assert refusals
    assert all("lifetime_epsilon" in refusal for refusal in refusals)


def charge(entry: LedgerEntry | None, *, digest: str, units: int, number: int) -> LedgerEntry:
    from ringfence.privacy.ledger_chain import LedgerHead

    head = None if entry is None else LedgerHead("ledger", entry.seq, entry.hash)
    body = {"plan": digest, "headline_units": units, "fallback_units": 2 * units}
    return next_entry(head, kind="charge", key=f"run/x/round/{number}/attempt/1", body=body)


def test_spending_keeps_this_plan_apart_from_all_others() -> None:
    entries: list[LedgerEntry] = []
    for number, digest in enumerate(["mine", "other", "mine", "third", "mine"]):
        entries.append(
            charge(entries[-1] if entries else None, digest=digest, units=10 + number, number=number)
        )
    found = spending_of(entries, order=4, plan_digest="mine")
    assert found == Spending(order=4, other_headline_units=24, other_fallback_units=48, answers=3)


def test_an_entry_that_cannot_be_counted_is_not_passed_over_and_counts_for_nothing() -> None:
    first = charge(None, digest="mine", units=100, number=1)
    second = charge(first, digest="mine", units=10, number=2)
    tally = SpendingTally()
    for body in ("[]", '{"plan": ["mine"], "headline_units": 10, "fallback_units": 10}'):
        for _ in range(2):
            with pytest.raises((BudgetError, TypeError)):
                tally.add([entry for entry in (first, replace(second, body=body)) if entry.seq > tally.seq])
            assert tally.seq == first.seq
            assert tally.spending(order=4, plan_digest="mine") == Spending(4, answers=1)
            assert tally.spending(order=4, plan_digest="").other_headline_units == 100
    tally.add([second])
    assert tally.spending(order=4, plan_digest="").other_headline_units == 110
    assert tally.spending(order=4, plan_digest="mine").answers == 2


def test_a_plan_is_refused_when_the_ledger_has_no_room_left_for_all_of_it() -> None:
    rules, asked = policy(), plan()
    terms = rules.ledger_terms("data")
    cost = run_cost(asked, headline=terms.headline, fallback=terms.fallback)
    room = budget_in_units(terms.headline)

    def with_room_for(units: int) -> Spending:
        return Spending(order=terms.order, other_headline_units=room - units)

    check_plan(asked, policy=rules, now=NOON, spent=with_room_for(cost.headline_units))
    with pytest.raises(PolicyError, match=r"lifetime_epsilon = 8.0.*after everything that was charged"):
        check_plan(asked, policy=rules, now=NOON, spent=with_room_for(cost.headline_units - 1))


def test_a_run_may_be_finished_whatever_part_of_it_was_charged_already() -> None:
    for answers in (0, 1, 29):
        check_plan(plan(), policy=policy(), now=NOON, spent=Spending(order=4, answers=answers))


def test_asking_again_and_again_ends_at_the_runs_epsilon() -> None:
    """Each further attempt or run of one plan is judged as if the plan had had that many rounds."""
    rules = policy()
    permitted = [
        answers
        for answers in range(30, 90)
        if not refusals_of(plan(), policy=rules, now=NOON, spent=Spending(order=4, answers=answers))
    ]
    assert permitted == list(range(30, permitted[-1] + 1)), "from some number of answers on, never again"
    beyond = plan(training__rounds=permitted[-1] + 2)
    with pytest.raises(PolicyError, match=r"run_epsilon = 2.5: the plan's is 2\.5"):
        check_plan(beyond, policy=rules, now=NOON)
    check_plan(plan(training__rounds=permitted[-1] + 1), policy=rules, now=NOON)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_the_number_of_runs_in_a_lifetime_is_what_the_ledgers_arithmetic_admits(epsilon: float) -> None:
    from ringfence.privacy.plan_solving import FixedTerms, solve

    terms = LedgerTerms("data")
    noise = solve(FixedTerms(), epsilon=epsilon, rounds=30).noise_multiplier
    asked = plan(privacy__noise_multiplier=noise)
    runs, total, spent = 0, budget_in_units(terms.headline), 0
    each = run_cost(asked, headline=terms.headline, fallback=terms.fallback).headline_units
    while spent + each <= total:
        runs, spent = runs + 1, spent + each
    assert runs_within(terms, asked) == runs
    assert runs_within(terms, asked, spent=RunCost(spent, spent)) == 0
    if epsilon == 2.0:
        assert runs == 10, "ten runs of about 2 at k = 2 within a lifetime budget of 8"
