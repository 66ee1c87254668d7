"""What the ledger does for a member that keeps to the rules: charge once, send the stored bytes, end at the budget."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.model.errors import BudgetError, PeerError
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_amendment import sign_amendment
from ringfence.privacy.ledger_anchor import read_signed_head, sign_head
from ringfence.privacy.ledger_chain import KINDS
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_schema import SCHEMA
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms, budget_in_units, cost_in_units
from ringfence.privacy.renyi_filter import SampledGaussian

NOW = 1_800_000_000.0
OFFICER = Ed25519PrivateKey.generate()
RUN = SampledGaussian(2, 1.0, 77.25, 300)
TERMS = LedgerTerms(
    "acme",
    data_protection_key=OFFICER.public_key().public_bytes_raw().hex(),
    limits=LedgerLimits(returned_head_required=False),
)


def charge(number: int, *, mechanism: SampledGaussian = RUN, own: float | None = None, **changes) -> Charge:
    values = {
        "key": release_key("r", round_number=number, attempt=1),
        "plan_digest": "a" * 64,
        "dataset_digest": "d" * 64,
        "cohort": 3,
        "mechanism": mechanism,
        "own_noise_multiplier": mechanism.noise_multiplier if own is None else own,
    }
    return Charge(**{**values, **changes})


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(terms: LedgerTerms = TERMS) -> Ledger:
        ledger = Ledger.create(tmp_path / "ledger.db", anchor_path=tmp_path / "anchor", terms=terms, now=NOW)
        opened.append(ledger)
        return ledger

    yield make
    for ledger in opened:
        ledger.close()


def reopen(ledger: Ledger, tmp_path, *, now: float = NOW) -> Ledger:
    ledger.close()
    return Ledger.open(tmp_path / "ledger.db", anchor_path=tmp_path / "anchor", lineage="acme", now=now)


class TestACharge:
    def test_returns_the_bytes_to_send_and_adds_its_cost(self, make):
        ledger = make()
        assert ledger.charge(charge(1), b"payload", now=NOW) == b"payload"
        assert ledger.state.headline_units == cost_in_units(TERMS.headline, RUN)
        assert ledger.unsent() == (charge(1).key,)

    def test_with_the_same_key_returns_the_first_bytes_and_costs_nothing(self, make, tmp_path):
        ledger = make()
        ledger.charge(charge(1), b"first", now=NOW)
        spent = ledger.state
        assert ledger.charge(charge(1), b"second, with new noise", now=NOW) == b"first"
        ledger = reopen(ledger, tmp_path)
        assert ledger.charge(charge(1), b"third", now=NOW) == b"first"
        assert ledger.released(charge(1).key) == b"first"
        assert ledger.state == spent
        ledger.close()

    def test_of_an_attempt_that_answered_another_plan_is_refused(self, make):
        ledger = make()
        ledger.charge(charge(1), b"first", now=NOW)
        with pytest.raises(BudgetError) as caught:
            ledger.charge(charge(1, plan_digest="b" * 64), b"other", now=NOW)
        assert caught.value.code == "ledger_key_reused"

    def test_of_an_aborted_attempt_stays_and_the_next_attempt_is_charged_again(self, make):
        ledger = make()
        ledger.charge(charge(1), b"first", now=NOW)
        ledger.charge(charge(1, key=release_key("r", round_number=1, attempt=2)), b"again", now=NOW)
        assert ledger.state.headline_units == 2 * cost_in_units(TERMS.headline, RUN)

    def test_is_remembered_across_restarts(self, make, tmp_path):
        ledger = make()
        for number in range(3):
            ledger.charge(charge(number), b"x", now=NOW + number)
        state = ledger.state
        ledger = reopen(ledger, tmp_path, now=NOW + 9)
        assert ledger.state == state
        ledger.close()

    def test_is_refused_when_the_lifetime_budget_is_used_up_after_ten_runs_of_about_two(self, make, tmp_path):
        ledger = make()
        for number in range(10):
            ledger.charge(charge(number), b"x", now=NOW)
        for _ in range(2):
            with pytest.raises(BudgetError) as caught:
                ledger.charge(charge(99), b"x", now=NOW + 10 * 365 * 86_400)
            assert caught.value.code == "ledger_exhausted"
            ledger = reopen(ledger, tmp_path)
        assert ledger.charge(charge(3), b"y", now=NOW) == b"x"
        assert ledger.released(charge(99).key) is None
        ledger.close()

    def test_never_takes_the_total_over_the_budget_however_small_the_steps(self, make):
        terms = replace(TERMS, headline_epsilon=0.5, fallback_epsilon=0.5, order=0)
        ledger = make(terms)
        small = SampledGaussian(2, 1.0, 400.0, 37)

        def charge_for_ever() -> None:
            for number in range(10_000):
                ledger.charge(charge(number, mechanism=small), b"x", now=NOW)

        with pytest.raises(BudgetError, match="lifetime"):
            charge_for_ever()
        budget, cost = budget_in_units(terms.headline), cost_in_units(terms.headline, small)
        assert budget - cost < ledger.state.headline_units <= budget

    def test_of_shared_noise_counts_more_in_the_fallback_than_in_the_headline(self, make):
        ledger = make(replace(TERMS, headline_epsilon=2.5, fallback_epsilon=8.0, order=0))
        shared = charge(1, mechanism=SampledGaussian(2, 1.0, 77.25, 300), own=40.0)
        ledger.charge(shared, b"x", now=NOW)
        assert ledger.state.fallback_units > 3 * ledger.state.headline_units

    def test_is_refused_when_only_the_fallback_is_used_up(self, make):
        ledger = make(replace(TERMS, headline_epsilon=8.0, fallback_epsilon=8.0))
        shared = charge(1, mechanism=SampledGaussian(2, 1.0, 770.0, 300), own=15.0)
        with pytest.raises(BudgetError) as caught:
            ledger.charge(shared, b"x", now=NOW)
        assert caught.value.code == "ledger_exhausted"

    def test_of_an_evaluation_has_its_own_kind(self, make):
        ledger = make()
        ledger.charge(
            charge(1, mechanism=SampledGaussian(2, 1.0, 20.0, 1)), b"histogram", now=NOW, kind="evaluate"
        )
        assert [entry.kind for entry in ledger.entries()] == ["open", "evaluate"]

    def test_of_sampled_steps_costs_what_the_filter_says(self, make):
        ledger = make()
        sampled = SampledGaussian(2, 0.0256, 2.49, 400)
        ledger.charge(charge(1, mechanism=sampled), b"x", now=NOW)
        exact = TERMS.headline.cost_of(sampled) * 2**40
        assert 0 <= ledger.state.headline_units - exact < 8

    def test_goes_on_with_one_budget_when_the_data_set_grows(self, make):
        ledger = make()
        ledger.charge(charge(1), b"x", now=NOW)
        ledger.charge(charge(2, dataset_digest="e" * 64), b"x", now=NOW)
        assert ledger.state.headline_units == 2 * cost_in_units(TERMS.headline, RUN)

    def test_records_nothing_of_a_person(self, make):
        ledger = make()
        ledger.charge(charge(1), b"x", now=NOW)
        body = json.loads(list(ledger.entries())[-1].body)
        assert set(body) == {
            "time", "plan", "dataset", "cohort", "contribution_bound", "sample_rate", "steps", "headline_noise",
            "fallback_noise", "headline_units", "fallback_units", "headline_total", "fallback_total", "payload",
        }  # fmt: skip


class TestTheOutbox:
    def test_lists_what_was_not_sent_in_the_order_of_the_charges(self, make):
        ledger = make()
        for number in (10, 2, 7):
            ledger.charge(charge(number), b"x", now=NOW)
        ledger.mark_sent(charge(2).key)
        ledger.mark_sent(charge(2).key)
        assert ledger.unsent() == (charge(10).key, charge(7).key)

    def test_forgets_a_withdrawn_payload_for_good_and_keeps_its_charge(self, make):
        ledger = make()
        ledger.charge(charge(1), b"x", now=NOW)
        spent = ledger.state
        ledger.withdraw(charge(1).key)
        for attempt in (
            lambda: ledger.charge(charge(1), b"y", now=NOW),
            lambda: ledger.released(charge(1).key),
        ):
            with pytest.raises(BudgetError) as caught:
                attempt()
            assert caught.value.code == "ledger_withdrawn"
        assert ledger.verify() == spent


class TestAnAmendment:
    wider = replace(TERMS, headline_epsilon=16.0, fallback_epsilon=16.0)

    def test_signed_by_the_officer_changes_the_lifetime_budget_but_not_the_order(self, make, tmp_path):
        ledger = make()
        for number in range(10):
            ledger.charge(charge(number), b"x", now=NOW)
        signature = sign_amendment(ledger.head, self.wider, key=OFFICER)
        ledger.amend(self.wider, signature=signature, now=NOW)
        ledger.charge(charge(11), b"x", now=NOW)
        ledger = reopen(ledger, tmp_path)
        assert ledger.state.terms.headline.order == TERMS.order
        assert ledger.state.terms.headline_epsilon == 16.0
        ledger.close()

    def test_signed_for_another_place_or_by_another_key_is_refused(self, make):
        ledger = make()
        early = sign_amendment(ledger.head, self.wider, key=OFFICER)
        ledger.charge(charge(1), b"x", now=NOW)
        forged = sign_amendment(ledger.head, self.wider, key=Ed25519PrivateKey.generate())
        for signature in (early, forged, "", "zz", "00" * 64):
            with pytest.raises(BudgetError) as caught:
                ledger.amend(self.wider, signature=signature, now=NOW)
            assert caught.value.code == "ledger_bad_amendment"

    @pytest.mark.parametrize(
        "change",
        [{"lineage": "other"}, {"delta": 1e-5}, {"order": 7}, {"data_protection_key": "00" * 32}],
        ids=lambda change: next(iter(change)),
    )
    def test_of_what_is_fixed_for_life_is_refused_even_when_signed(self, make, change):
        ledger = make()
        terms = replace(self.wider, **change)
        with pytest.raises(BudgetError):
            ledger.amend(terms, signature=sign_amendment(ledger.head, terms, key=OFFICER), now=NOW)

    def test_is_impossible_when_no_officer_was_named(self, make):
        ledger = make(replace(TERMS, data_protection_key=""))
        terms = replace(ledger.state.terms, headline_epsilon=9.0, fallback_epsilon=9.0)
        with pytest.raises(BudgetError) as caught:
            ledger.amend(terms, signature=sign_amendment(ledger.head, terms, key=OFFICER), now=NOW)
        assert caught.value.code == "ledger_no_officer"

    @pytest.mark.parametrize("named", [True, False])
    def test_is_spoken_of_at_the_end_of_the_budget_only_where_somebody_could_sign_it(self, make, named):
        ledger = make(TERMS if named else replace(TERMS, data_protection_key=""))
        with pytest.raises(BudgetError) as caught:
            ledger.charge(charge(1, mechanism=SampledGaussian(2, 1.0, 5.0, 300)), b"x", now=NOW)
        assert caught.value.code == "ledger_exhausted"
        assert ("ringfence budget amend" in caught.value.hint) is named
        assert ("names no data-protection key" in caught.value.hint) is not named


def test_a_ledger_that_was_closed_for_good_charges_nothing_and_still_hands_out_what_was_charged(
    make, tmp_path
):
    ledger = make()
    ledger.charge(charge(1), b"x", now=NOW)
    ledger.close_for_good(now=NOW)
    ledger = reopen(ledger, tmp_path)
    for attempt in (
        lambda: ledger.charge(charge(2), b"x", now=NOW),
        lambda: ledger.close_for_good(now=NOW),
        lambda: ledger.amend(TERMS, signature=sign_amendment(ledger.head, TERMS, key=OFFICER), now=NOW),
    ):
        with pytest.raises(BudgetError) as caught:
            attempt()
        assert caught.value.code == "ledger_closed"
    assert ledger.charge(charge(1), b"y", now=NOW) == b"x"
    ledger.close()


class TestASignedHead:
    def test_comes_back_as_it_went(self, make):
        member = Ed25519PrivateKey.generate()
        head = make().head
        assert read_signed_head(sign_head(head, key=member), key=member.public_key()) == head

    def test_that_somebody_else_signed_or_changed_is_refused(self, make):
        member, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        signed = sign_head(make().head, key=member)
        for wrong in (b"", signed[:40], signed[:-1] + b" "):
            with pytest.raises(PeerError):
                read_signed_head(wrong, key=member.public_key())
        with pytest.raises(PeerError):
            read_signed_head(signed, key=other.public_key())


def test_the_schema_knows_every_kind_of_entry():
    assert all(f"'{kind}'" in SCHEMA for kind in KINDS)


@pytest.mark.parametrize("reason", list(LedgerRefusal))
def test_every_refusal_has_a_code_a_message_and_a_hint(reason):
    error = refused(reason)
    assert error.code == reason.value
    assert error.message.endswith(".")
    assert error.hint.endswith(".")
