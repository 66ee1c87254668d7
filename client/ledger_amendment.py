"""The file in which an amendment travels: asked for by the member, signed by the data-protection officer on another machine.

It holds all that the officer needs to decide: which ledger, what was spent in it, and the terms before and after. The
signature is over the ledger, its head and the terms after, so no other ledger and no later moment can use it.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import BudgetError, ConfigError
from ringfence.model.plan import Sha256, describe
from ringfence.privacy.ledger_amendment import amended_terms, sign_amendment
from ringfence.privacy.ledger_chain import LedgerHead
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import LedgerTerms, budget_in_units

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ringfence.client.policy import Policy
    from ringfence.privacy.ledger_chain import LedgerState

_LARGEST_BYTES = 64 * 1024


class Amendment(BaseModel):
    """An amendment as a file.

    Attributes:
        schema_version: of this form.
        ledger: hash of the ledger's first entry, which names it.
        seq: place of its newest entry.
        hash: of that entry.
        spent: share of the headline's budget that was used up by then, as the member says; it is not signed.
        present: terms that hold now, as the member says.
        wanted: terms that hold from then on. The same ones again vouch for the head.
        second_place_lost: the ledger's second place is to be made anew; not signed, for the head is what is vouched for.
        signature: the officer's, in hexadecimal; empty in a request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    ledger: Sha256
    seq: Annotated[int, Field(ge=1, lt=2**63)]
    hash: Sha256
    spent: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    present: dict[str, object]
    wanted: dict[str, object]
    second_place_lost: bool = False
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""

    @property
    def head(self) -> LedgerHead:
        """The ledger's head at which it holds."""
        return LedgerHead(self.ledger, self.seq, self.hash)

    @property
    def present_terms(self) -> LedgerTerms:
        """The terms before."""
        return _terms(self.present)

    @property
    def wanted_terms(self) -> LedgerTerms:
        """The terms after."""
        return _terms(self.wanted)


def ask_for_amendment(
    state: LedgerState, policy: Policy, *, same_terms: bool, second_place_lost: bool = False
) -> Amendment:
    """Return the request for what the policy says now, or for the present terms once more.

    Args:
        state: of the ledger.
        policy: the member's, already changed.
        same_terms: change nothing, and have the officer vouch for the head.
        second_place_lost: have the second place made anew when it is applied.

    Raises:
        BudgetError: the ledger names no key of an officer, or is closed.
        ConfigError: the policy asks for nothing new. The operator's to change.
    """
    if not state.amendable:
        raise refused(LedgerRefusal.NO_OFFICER)
    if state.closed:
        raise refused(LedgerRefusal.CLOSED)
    present = state.terms
    wanted = present if same_terms else amended_terms(present, policy.ledger_terms(present.lineage))
    if wanted == present and not same_terms:
        raise ConfigError(
            "The ledger's terms are those of the policy already.",
            hint="Change [budget] or [limits] in policy.toml first; or say --same-terms, and the signature only vouches for "
            "the ledger's head.",
        )
    return Amendment(
        ledger=state.head.ledger,
        seq=state.head.seq,
        hash=state.head.hash,
        spent=state.headline_units / budget_in_units(present.headline),
        present=present.as_body(),
        wanted=wanted.as_body(),
        second_place_lost=second_place_lost,
    )


def signed_by_officer(request: Amendment, *, key: Ed25519PrivateKey) -> Amendment:
    """Return a request with the officer's signature.

    Raises:
        ConfigError: the ledger names another key, or the request changes what stays for life. The officer's to refuse.
    """
    present, wanted = request.present_terms, request.wanted_terms
    if wanted.data_protection_key != key.public_key().public_bytes_raw().hex():
        raise ConfigError("The ledger names another data-protection key.", hint="Sign with that one.")
    if wanted != amended_terms(present, wanted):
        raise ConfigError(
            "The request changes what stays for life: lineage, delta, order or key.", hint="Do not sign it."
        )
    return request.model_copy(update={"signature": sign_amendment(request.head, wanted, key=key)})


def changes_of(amendment: Amendment) -> list[str]:
    """Return what changes, a line each; none if the signature only vouches for the head."""
    present, wanted = amendment.present_terms, amendment.wanted_terms
    pairs = [
        (name, getattr(present, name), getattr(wanted, name))
        for name in ("headline_epsilon", "fallback_epsilon")
    ]
    pairs += [
        (f"limits.{field.name}", getattr(present.limits, field.name), getattr(wanted.limits, field.name))
        for field in fields(wanted.limits)
    ]
    return [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]


def amendment_text(amendment: Amendment) -> str:
    """Return an amendment as a person reads it before deciding."""
    changes = changes_of(amendment)
    lines = [
        f"Ledger {amendment.ledger[:12]} of the data {amendment.wanted_terms.lineage!r}, after entry {amendment.seq}.",
        f"Used up by then, as the member says: {100 * amendment.spent:.1f} % of the lifetime budget.",
    ]
    if changes:
        return "\n".join([*lines, "It changes:", *(f"  {change}" for change in changes)])
    return "\n".join(
        [
            *lines,
            "It changes nothing. Signed, it vouches that this is the newest ledger of this data, not one that was restored",
            (
                "from a backup, although its second place is lost; that is made anew."
                if amendment.second_place_lost
                else "from a backup, although the coordinator does not return its head."
            ),
        ]
    )


def load_amendment(path: Path) -> Amendment:
    """Read a request or a signed amendment.

    Raises:
        ConfigError: there is none, or not in the agreed form. The operator's to mend.
    """
    try:
        with path.open("rb") as file:
            amendment = Amendment.model_validate_json(file.read(_LARGEST_BYTES))
        _ = amendment.present_terms, amendment.wanted_terms
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint="Check the path.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not an amendment: {describe(error)}", hint="Ask for one: ringfence budget amend"
        ) from error
    except BudgetError as error:
        raise ConfigError(
            f"{path} holds terms of another form.", hint="Ask for one: ringfence budget amend"
        ) from error
    return amendment


def save_amendment(path: Path, amendment: Amendment) -> None:
    """Write a request or a signed amendment.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    try:
        write_atomically(path, json.dumps(amendment.model_dump(mode="json"), indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}", hint="Choose another file.") from error


def _terms(body: dict[str, object]) -> LedgerTerms:
    return LedgerTerms.from_body(body)
