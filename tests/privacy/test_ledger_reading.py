"""Looking at a ledger beside its agent, and what a charge costs when the ledger is long."""

from __future__ import annotations

import pytest

from ringfence.model.errors import BudgetError
from ringfence.privacy.budget_summary import summarise_budget
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_reader import LedgerReader
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.renyi_filter import SampledGaussian

NOW = 1_800_000_000.0
RUN = SampledGaussian(2, 1.0, 77.25, 300)
TERMS = LedgerTerms("acme", limits=LedgerLimits(returned_head_required=False))


def charge(number: int, mechanism: SampledGaussian = RUN, own: float = 77.25) -> Charge:
    return Charge(release_key("r", round_number=number, attempt=1), "a" * 64, "d" * 64, 3, mechanism, own)


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(
        tmp_path / "ledger.db", anchor_path=tmp_path / "anchor", terms=TERMS, now=NOW
    ) as ledger:
        yield ledger


class TestTheSummary:
    def test_of_a_full_ledger_shows_the_price_of_a_sound_gate(self, ledger):
        small = SampledGaussian(2, 1.0, 77.25, 10)

        def charge_for_ever() -> None:
            for number in range(10_000):
                ledger.charge(charge(number, small), b"x", now=NOW)

        with pytest.raises(BudgetError, match="lifetime"):
            charge_for_ever()
        headline = summarise_budget(ledger.entries()).headline
        certificate = dict(headline.pld_epsilon_by_platforms)[1]
        assert headline.filter_epsilon == pytest.approx(8.0, rel=0.01)
        assert 8.0 / certificate == pytest.approx(1.075, abs=0.01)

    def test_after_four_runs_of_about_two_shows_what_they_come_to(self, ledger):
        for number in range(4):
            ledger.charge(charge(number), b"x", now=NOW)
        summary = summarise_budget(ledger.entries())
        assert dict(summary.headline.pld_epsilon_by_platforms)[1] == pytest.approx(4.32, rel=0.01)

    def test_with_shared_noise_tells_the_two_totals_apart(self, ledger):
        ledger.charge(charge(1, own=60.0), b"x", now=NOW)
        summary = summarise_budget(ledger.entries())
        assert summary.headline.filter_epsilon < summary.fallback.filter_epsilon


class TestReading:
    def test_works_beside_a_running_agent_which_goes_on(self, ledger, tmp_path):
        ledger.charge(charge(1), b"x", now=NOW)
        with LedgerReader.open(tmp_path / "ledger.db", anchor_path=tmp_path / "anchor") as reader:
            ledger.charge(charge(2), b"x", now=NOW)
            assert reader.verified_state().head.seq == 2
        assert ledger.head.seq == 3

    def test_works_when_no_agent_runs(self, ledger, tmp_path):
        ledger.charge(charge(1), b"x", now=NOW)
        state = ledger.state
        ledger.close()
        with LedgerReader.open(tmp_path / "ledger.db", anchor_path=tmp_path / "anchor") as reader:
            assert reader.verified_state() == state

    def test_refuses_what_opening_would_refuse(self, ledger, tmp_path):
        ledger.charge(charge(1), b"x", now=NOW)
        path, anchor = tmp_path / "ledger.db", tmp_path / "anchor"

        def read() -> None:
            with LedgerReader.open(path, anchor_path=anchor) as reader:
                reader.verified_state()

        for damage, code in (
            (lambda: anchor.write_bytes(b"junk" * 3000), "ledger_no_anchor"),
            (lambda: anchor.write_bytes(b""), "ledger_no_anchor"),
            (anchor.unlink, "ledger_no_anchor"),
            (lambda: path.chmod(0o644), "ledger_permissions"),
            (path.unlink, "ledger_missing"),
        ):
            damage()
            with pytest.raises(BudgetError) as caught:
                read()
            assert caught.value.code == code


def test_a_charge_does_as_much_work_after_two_thousand_entries_as_after_ten(ledger):
    """Counted in instructions of the database's machine, so that a busy computer does not matter."""
    small = SampledGaussian(2, 1.0, 9000.0, 1)
    work = {}

    def count() -> None:
        work["now"] += 1

    connection = ledger._storage._connection
    connection.execute("PRAGMA synchronous=OFF")
    for number in range(2000):
        work["now"] = 0
        connection.set_progress_handler(count if number in (10, 1999) else None, 1)
        ledger.charge(charge(number, small, own=9000.0), b"x" * 900, now=NOW)
        work[number] = work["now"]
    assert 0 < work[1999] <= 1.1 * work[10]
