"""The chain as a value: what follows, what does not, and that a cost is never rounded in the spender's favour."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.model.errors import BudgetError
from ringfence.privacy.ledger_chain import LedgerHead, follow, follow_all, next_entry
from ringfence.privacy.ledger_terms import (
    UNITS_PER_DIVERGENCE,
    LedgerTerms,
    budget_in_units,
    cost_in_units,
    epsilon_of_units,
)
from ringfence.privacy.renyi_filter import SampledGaussian

TERMS = LedgerTerms("acme")


def chain_of_three():
    opening = next_entry(
        None, kind="open", key="open", body={"time": 5, "terms": TERMS.as_body(), "nonce": "n"}
    )
    entries = [opening]
    for number in (1, 2):
        head = LedgerHead(opening.hash, entries[-1].seq, entries[-1].hash)
        body = {
            "time": 5 + number,
            "headline_units": 7,
            "fallback_units": 9,
            "headline_total": 7 * number,
            "fallback_total": 9 * number,
        }
        entries.append(next_entry(head, kind="charge", key=f"k{number}", body=body))
    return entries


def test_entries_add_up_to_a_state():
    entries = chain_of_three()
    state = follow_all(entries)
    assert state is not None
    assert (state.headline_units, state.fallback_units, state.newest_time) == (14, 18, 7)
    assert state.head == LedgerHead(entries[0].hash, 3, entries[2].hash)
    assert state.terms == TERMS
    assert follow_all([]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b, c: [b],
        lambda a, b, c: [a, c],
        lambda a, b, c: [a, c, b],
        lambda a, b, c: [a, a],
        lambda a, b, c: [a, b, b],
        lambda a, b, c: [a, b, replace(c, hash="f" * 64)],
        lambda a, b, c: [a, b, replace(c, body=c.body + " ")],
        lambda a, b, c: [a, b, with_other_past(c)],
        lambda a, b, c: [a, b, next_entry(LedgerHead(a.hash, 2, b.hash), kind="open", key="x", body={})],
        lambda a, b, c: [
            a,
            b,
            next_entry(LedgerHead(a.hash, 2, b.hash), kind="gift", key="x", body={"time": 6}),
        ],
        lambda a, b, c: [
            a,
            b,
            next_entry(LedgerHead(a.hash, 2, b.hash), kind="charge", key="x", body={"time": 6}),
        ],
        lambda a, b, c: [
            a,
            next_entry(LedgerHead(a.hash, 1, a.hash), kind="close", key="x", body={"time": 6}),
            c,
        ],
    ],
)
def test_what_does_not_follow_is_refused(wrong):
    with pytest.raises(BudgetError):
        follow_all(wrong(*chain_of_three()))


def with_other_past(entry):
    """Return the entry at the same place, sound in itself, after another entry than the one that is there."""
    return next_entry(
        LedgerHead("x", entry.seq - 1, "e" * 64), kind=entry.kind, key=entry.key, body=entry.values
    )


@pytest.mark.parametrize("known", [("other", 2), ("own", 9), ("changed", 2)])
def test_a_head_that_is_not_in_the_chain_is_refused(known):
    entries = chain_of_three()
    head = {
        "other": LedgerHead("f" * 64, 2, entries[1].hash),
        "own": LedgerHead(entries[0].hash, 9, entries[2].hash),
        "changed": LedgerHead(entries[0].hash, 2, "f" * 64),
    }[known[0]]
    with pytest.raises(BudgetError) as caught:
        follow_all(entries, known=[head])
    assert caught.value.code == "ledger_behind"
    for entry in entries:
        follow_all(entries, known=[LedgerHead(entries[0].hash, entry.seq, entry.hash)])


def test_nothing_follows_a_closed_ledger():
    entries = chain_of_three()
    state = follow_all(entries)
    closed = follow(state, next_entry(state.head, kind="close", key="close/4", body={"time": 9}))
    assert closed.closed
    with pytest.raises(BudgetError):
        follow(closed, next_entry(closed.head, kind="charge", key="z", body={"time": 9}))


@settings(max_examples=200, deadline=None)
@given(noise=st.integers(1, 10_000), steps=st.integers(1, 5), bound=st.integers(1, 8))
def test_a_cost_is_rounded_up_and_a_budget_down(noise, steps, bound):
    gate = TERMS.headline
    exact = Fraction(steps * gate.order * bound**2, 2 * noise**2) * UNITS_PER_DIVERGENCE
    try:
        units = cost_in_units(gate, SampledGaussian(bound, 1.0, float(noise), steps))
    except BudgetError:
        assert exact > budget_in_units(gate)
        return
    assert exact <= units <= exact * (1 + Fraction(1, 10**12)) + 2
    assert epsilon_of_units(gate, budget_in_units(gate)) <= gate.epsilon


def test_a_cost_beyond_any_budget_is_refused():
    with pytest.raises(BudgetError) as caught:
        cost_in_units(TERMS.headline, SampledGaussian(64, 0.5, 1e-3, 1))
    assert caught.value.code == "ledger_exhausted"
