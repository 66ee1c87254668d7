"""How the terms of a ledger may change: only by a signature of the data-protection officer, for one ledger and one place."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from ringfence.privacy.ledger_refusals import LedgerRefusal, refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ringfence.privacy.ledger_chain import LedgerHead, LedgerState
    from ringfence.privacy.ledger_terms import LedgerTerms

_SIGNED_PURPOSE = b"ringfence ledger amendment v1\n"


def amendment_content(head: LedgerHead, terms: LedgerTerms) -> bytes:
    """Return what is signed: the new terms, for exactly the next place of exactly this ledger."""
    content = {
        "ledger": head.ledger,
        "after": head.hash,
        "seq": head.seq + 1,
        "terms": terms.as_body(),
    }
    return (
        _SIGNED_PURPOSE + json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    )


def sign_amendment(head: LedgerHead, terms: LedgerTerms, *, key: Ed25519PrivateKey) -> str:
    """Return the officer's signature, in hexadecimal.

    Args:
        head: of the ledger, as it stands; the officer needs no more of it.
        terms: that hold from then on. The present ones again vouch for the head: no more was spent than it says.
        key: the officer's.
    """
    return key.sign(amendment_content(head, terms)).hex()


def amended_terms(present: LedgerTerms, wanted: LedgerTerms) -> LedgerTerms:
    """Return the present terms with what an amendment may change taken from others."""
    return replace(
        present,
        headline_epsilon=wanted.headline_epsilon,
        fallback_epsilon=wanted.fallback_epsilon,
        limits=wanted.limits,
    )


def check_amendment(state: LedgerState, terms: LedgerTerms, *, signature: str) -> None:
    """Refuse an amendment that the officer did not sign, or that changes what is fixed for life.

    Lineage, delta, Renyi order and the officer's key never change; the lifetime epsilons and the limits may.

    Raises:
        BudgetError: the signature or the terms do not fit.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not state.amendable:
        raise refused(LedgerRefusal.NO_OFFICER)
    if terms != amended_terms(state.terms, terms):
        raise refused(LedgerRefusal.BAD_AMENDMENT)
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(state.terms.data_protection_key))
        key.verify(bytes.fromhex(signature), amendment_content(state.head, terms))
    except (InvalidSignature, ValueError) as error:
        raise refused(LedgerRefusal.BAD_AMENDMENT) from error
