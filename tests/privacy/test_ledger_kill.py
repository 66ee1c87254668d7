"""A process that is killed at any moment loses nothing, charges nothing twice, and sends the same bytes again."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_charge import release_key
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms, cost_in_units
from ringfence.privacy.renyi_filter import SampledGaussian

CHILD = Path(__file__).with_name("ledger_child.py")
MECHANISM = SampledGaussian(2, 1.0, 7000.0, 10)
MOMENTS_OF_OPENING = 25
"""Every statement of settings, schema and chain, and two around the anchor."""

MOMENTS_OF_A_CHARGE = 13
"""Eight statements of the charge, two around the anchor, three of marking it as sent."""

TERMS = LedgerTerms("acme", limits=LedgerLimits(returned_head_required=False))


class KilledMember:
    """A member whose agent is killed and started again; it remembers every payload that was handed out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[int, str] = {}
        Ledger.create(
            folder / "ledger.db", anchor_path=folder / "anchor", terms=TERMS, now=time.time()
        ).close()

    def run_until_killed(self, *, at_statement: int = -1, after_s: float | None = None) -> None:
        next_round = max(self.seen, default=0) + 1
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(self.folder), str(next_round), str(at_statement)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if after_s is not None:
            time.sleep(after_s)
            child.kill()
        output, errors = child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL, errors
        for line in output.splitlines():
            number, digest = line.split()
            if number == "opened":
                assert digest == str(MOMENTS_OF_OPENING), "the kills would miss moments"
                continue
            assert self.seen.setdefault(int(number), digest) == digest

    def check(self) -> None:
        with Ledger.open(
            self.folder / "ledger.db", anchor_path=self.folder / "anchor", lineage="acme", now=time.time()
        ) as ledger:
            charges = [entry for entry in ledger.entries() if entry.kind == "charge"]
            keys = [entry.key for entry in charges]
            assert len(set(keys)) == len(keys)
            for number, digest in self.seen.items():
                key = release_key("1", round_number=number, attempt=1)
                assert keys.count(key) == 1
                stored = ledger.released(key)
                assert stored is not None
                assert hashlib.sha256(stored).hexdigest() == digest
            # Nothing undercounted: every charge stands, and at most the last one was never handed out.
            assert len(self.seen) <= len(charges) <= len(self.seen) + 1
            assert ledger.state.headline_units == len(charges) * cost_in_units(TERMS.headline, MECHANISM)
            assert ledger.verify() == ledger.state


def test_fifty_kills_at_every_statement_of_opening_and_of_a_charge_lose_and_double_nothing(tmp_path):
    member = KilledMember(tmp_path)
    for moment in range(MOMENTS_OF_OPENING, MOMENTS_OF_OPENING + MOMENTS_OF_A_CHARGE):
        member.run_until_killed(at_statement=moment)
    assert len(member.seen) >= 3, "killed thrice between handing a payload out and marking it as sent"
    seen = dict(member.seen)
    for moment in range(MOMENTS_OF_OPENING):  # of a ledger with charges in it, which may not be lost either
        member.run_until_killed(at_statement=moment)
    assert member.seen == seen
    for _ in range(50 - MOMENTS_OF_OPENING - MOMENTS_OF_A_CHARGE):
        member.run_until_killed(after_s=random.uniform(0.1, 0.5))
    member.check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_kills_lose_and_double_nothing(tmp_path):
    for number in range(10):
        folder = tmp_path / f"member-{number}"
        folder.mkdir(mode=0o700)
        member = KilledMember(folder)
        for kill in range(100):
            if kill % 2:
                member.run_until_killed(after_s=random.uniform(0.05, 0.4))
            else:
                # Every moment of opening and of the two charges after it, in turn.
                moments = MOMENTS_OF_OPENING + 2 * MOMENTS_OF_A_CHARGE
                member.run_until_killed(at_statement=kill // 2 % moments)
        member.check()


def test_the_moments_of_a_charge_are_all_reached(tmp_path):
    """Killed at the last moment before a payload is handed out, the member has charged and sent nothing."""
    member = KilledMember(tmp_path)
    member.run_until_killed(at_statement=MOMENTS_OF_OPENING + MOMENTS_OF_A_CHARGE - 4)
    assert member.seen == {}
    with Ledger.open(
        tmp_path / "ledger.db", anchor_path=tmp_path / "anchor", lineage="acme", now=time.time()
    ) as ledger:
        assert ledger.unsent() == (release_key("1", round_number=1, attempt=1),)
    member.run_until_killed(at_statement=MOMENTS_OF_OPENING + MOMENTS_OF_A_CHARGE)
    assert len(member.seen) == 1
    member.check()
