"""Member homes with a ledger in them, for tests of the commands that look at it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ringfence.client.member_home import MemberHome
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_charge import Charge, ChargeKind, release_key
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.renyi_filter import SampledGaussian

OPENED = 1_790_000_000.0
DAY_S = 86_400.0
ROUND = SampledGaussian(2, 1.0, 77.25, 30)
"""A tenth of a run that costs about epsilon 2."""
TERMS = LedgerTerms("conversations", fallback_epsilon=10.0, limits=LedgerLimits(returned_head_required=False))
PLAN = hashlib.sha256(b"plan").hexdigest()


def make_home(root: Path, *, terms: LedgerTerms = TERMS, now: float = OPENED) -> MemberHome:
    """Return a home whose ledger was just opened."""
    home = MemberHome(root)
    for folder in (root, home.ledger_file.parent, home.ledger_anchor_file.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Ledger.create(home.ledger_file, anchor_path=home.ledger_anchor_file, terms=terms, now=now).close()
    return home


def write_settings(home: MemberHome, *, member: str = "acme") -> None:
    """Write a ``member.toml`` that names a federation and no data."""
    home.settings_file.write_text(
        f'federation = "north"\nmember = "{member}"\nfleet_address = "a:1"\nrelease_address = "b:2"\nplan_public_key = ""\n'
    )


def open_home_ledger(home: MemberHome, *, now: float = OPENED + 1000 * DAY_S) -> Ledger:
    """Open the ledger as the agent does, with its lock."""
    return Ledger.open(
        home.ledger_file, anchor_path=home.ledger_anchor_file, lineage="conversations", now=now
    )


def charge_rounds(
    home: MemberHome,
    run: str,
    *,
    rounds: Sequence[int] = range(1, 11),
    at: float = OPENED,
    plan: str = PLAN,
    dataset: str = "d" * 64,
    mechanism: SampledGaussian = ROUND,
    own_noise: float | None = None,
    sent: bool = True,
    kind: ChargeKind = "charge",
) -> None:
    """Charge rounds of a run, and mark them as sent."""
    with open_home_ledger(home, now=at) as ledger:
        for number in rounds:
            key = release_key(f"north/{run}", round_number=number, attempt=1)
            if kind == "evaluate":
                key = f"run/north/{run}/evaluation/{number}"
            own = mechanism.noise_multiplier if own_noise is None else own_noise
            ledger.charge(
                Charge(key, plan, dataset, 3, mechanism, own),
                b"payload " + key.encode(),
                now=at + number,
                kind=kind,
            )
            if sent:
                ledger.mark_sent(key)
