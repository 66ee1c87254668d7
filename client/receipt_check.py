"""Are the ledger receipts of a release what the members signed, and is this member's own ledger among those that agree?"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ringfence.client.evidence_check import Checked
from ringfence.model.errors import ConfigError, PeerError
from ringfence.model.evidence import LedgerReceipt, PrivacyEvidence
from ringfence.privacy.ledger_anchor import read_signed_head
from ringfence.privacy.ledger_chain import CHARGED_KINDS, LedgerEntry, LedgerHead

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class GivenReceipts:
    """What members gave the reader themselves, apart from the release.

    Attributes:
        keys: member -> its identity key.
        heads: member -> a head that it signed.
    """

    keys: dict[str, Ed25519PublicKey]
    heads: dict[str, LedgerHead]


def load_given_receipts(folder: Path) -> GivenReceipts:
    """Read a folder of ``MEMBER.pem`` (identity key) and, where there are any, ``MEMBER.head`` (a signed ledger head).

    Raises:
        ConfigError: the folder holds no key, or a key or a head that cannot be read. The operator's to mend.
        PeerError: a head is not signed by its member's key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys: dict[str, Ed25519PublicKey] = {}
    heads: dict[str, LedgerHead] = {}
    try:
        for path in sorted(folder.glob("*.pem")):
            key = load_pem_public_key(path.read_bytes())
            if not isinstance(key, Ed25519PublicKey):
                raise ConfigError(
                    f"{path} is not an Ed25519 key.",
                    hint="Ask the member for what it writes with: ringfence budget receipt",
                )
            keys[path.stem] = key
        for path in sorted(folder.glob("*.head")):
            if path.stem not in keys:
                raise ConfigError(
                    f"{path} has no key beside it.",
                    hint=f"Put {path.stem}.pem there too: the member writes both with ringfence budget receipt.",
                )
            heads[path.stem] = read_signed_head(path.read_bytes(), key=keys[path.stem])
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{folder} holds a file that is not a public key.", hint="Ask the member for it again."
        ) from error
    if not keys:
        raise ConfigError(
            f"{folder} holds no member's key.",
            hint="Put there what each member writes with: ringfence budget receipt --out DIR",
        )
    return GivenReceipts(keys, heads)


def check_receipts(evidence: PrivacyEvidence, given: GivenReceipts | None) -> Iterator[Checked]:
    """Yield, for each receipt of the evidence, whether it is the member's word; and whether one is missing."""
    members = [receipt.member for receipt in evidence.receipts]
    enough = len(set(members)) == len(members) and len(members) == evidence.contributors
    stated = f"{len(members)} for {evidence.contributors} contributors"
    if evidence.demonstration and not members:
        yield Checked("receipts", stated, "none are needed in a demonstration", None)
    else:
        yield Checked("receipts", stated, "one of each contributor", enough)
    for receipt in evidence.receipts:
        yield _check_receipt(receipt, given)


def check_own_ledger(
    evidence: PrivacyEvidence, *, member: str, entries: Iterator[LedgerEntry]
) -> Iterator[Checked]:
    """Yield what this member's own ledger says: its receipt stands in its chain, and no more was charged than is stated.

    Args:
        evidence: of a release.
        member: who is asking.
        entries: of its own ledger, verified.
    """
    hashes: set[str] = set()
    steps, least_noise, largest_k, largest_rate = 0, float("inf"), 0, 0.0
    evaluations, least_evaluation_noise = 0, float("inf")
    for entry in entries:
        hashes.add(entry.hash)
        if entry.kind not in CHARGED_KINDS:
            continue
        values = entry.values
        if values.get("plan") != evidence.plan_sha256:
            continue
        if entry.kind == "evaluate":
            evaluations += 1
            least_evaluation_noise = min(least_evaluation_noise, _as_float(values, "fallback_noise"))
            continue
        steps += _as_int(values, "steps")
        least_noise = min(least_noise, _as_float(values, "fallback_noise"))
        largest_k = max(largest_k, _as_int(values, "contribution_bound"))
        largest_rate = max(largest_rate, _as_float(values, "sample_rate"))
    own = next((receipt for receipt in evidence.receipts if receipt.member == member), None)
    if own is None and steps == 0:
        yield Checked("own ledger", "no part in this run", "no charge for this plan", None)
        return
    if own is not None:
        yield Checked("own receipt", own.head[:16], "an entry of this member's ledger", own.head in hashes)
    mechanism = evidence.mechanism
    yield Checked(
        "own ledger: steps", str(mechanism.steps), f"{steps} charged here", 0 < steps <= mechanism.steps
    )
    stated_noise = mechanism.evaluation_noise_multiplier
    yield Checked(
        "own ledger: evaluation",
        "none" if stated_noise is None else f"one, noise {stated_noise:g}",
        f"{evaluations} charged here" + (f", noise {least_evaluation_noise:g}" if evaluations else ""),
        evaluations == 0
        or (
            stated_noise is not None
            and evaluations == 1
            and least_evaluation_noise >= stated_noise * (1 - 1e-9)
        ),
    )
    fits = (
        least_noise >= mechanism.noise_multiplier * (1 - 1e-9)
        and largest_k <= evidence.contribution_bound
        and largest_rate <= mechanism.sample_rate
    )
    yield Checked(
        "own ledger: terms",
        f"noise {mechanism.noise_multiplier:g}, k {evidence.contribution_bound}, rate {mechanism.sample_rate:g}",
        f"noise {least_noise:g}, k {largest_k}, rate {largest_rate:g}",
        fits,
    )


def _check_receipt(receipt: LedgerReceipt, given: GivenReceipts | None) -> Checked:
    name, stated = f"receipts.{receipt.member}", receipt.head[:16]
    try:
        signed = base64.b64decode(receipt.signature, validate=True)
        if json.loads(signed[_SIGNATURE_BYTES:])["hash"] != receipt.head:
            return Checked(name, stated, "signed another head", False)
    except (binascii.Error, ValueError, KeyError, TypeError):
        return Checked(name, stated, "holds no signed head", False)
    key = None if given is None else given.keys.get(receipt.member)
    if given is None or key is None:
        return Checked(name, stated, "not checked: no key was given", None)
    try:
        head = read_signed_head(signed, key=key)
    except PeerError:
        return Checked(name, stated, "not signed by this member", False)
    known = given.heads.get(receipt.member)
    if known is not None:
        forked = known.ledger != head.ledger or (known.seq == head.seq and known.hash != head.hash)
        if forked or known.seq < head.seq:
            found = (
                "the member's ledger is another one" if forked else "later than the head that the member gave"
            )
            return Checked(name, stated, found, False if forked else None)
    return Checked(name, stated, f"signed by {receipt.member}, entry {head.seq}", True)


def _as_int(values: dict[str, object], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0


def _as_float(values: dict[str, object], name: str) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
