"""Where a member's ledger lies, and reading it beside the agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ringfence.client.member_home import MemberHome
from ringfence.client.policy import load_policy
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from ringfence.privacy.ledger_reader import LedgerReader


def open_ledger_reader(home: MemberHome) -> LedgerReader:
    """Open a member's ledger for reading, without the lock that its agent holds.

    Raises:
        ConfigError: no budget was ever opened here, or the policy cannot be read. The operator's to mend.
        BudgetError: the ledger or its second place is missing, or others can reach the ledger.
    """
    from ringfence.privacy.ledger_reader import LedgerReader

    if not has_ledger(home):
        raise ConfigError(
            f"No privacy budget was opened in {home.root} yet.", hint="Open it, once: ringfence budget open"
        )
    return LedgerReader.open(home.ledger_file, anchor_path=anchor_file(home))


def has_ledger(home: MemberHome) -> bool:
    """Return whether there is, or was, a ledger: one of its two places is enough to say so."""
    return home.ledger_file.exists() or anchor_file(home).exists()


def personalisation_share(home: MemberHome) -> float:
    """Return the share of the lifetime budget that runs leave alone: the policy's, or none where there is no policy yet.

    Raises:
        ConfigError: the policy cannot be read. The operator's to mend.
    """
    return load_policy(home).budget.personalisation_share if home.policy_file.exists() else 0.0


def anchor_file(home: MemberHome) -> Path:
    """Return the ledger's second place: the policy's, or the home's own where there is no policy yet.

    Raises:
        ConfigError: the policy cannot be read. The operator's to mend.
    """
    return load_policy(home).anchor_file(home) if home.policy_file.exists() else home.ledger_anchor_file
