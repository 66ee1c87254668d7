"""The audit log held against the ledger: what was charged and left stands in both, or somebody has taken it out of one.

A log can be shortened together with its second file, or taken away with it, and then looks like one that never was longer.
The ledger, whose head others keep, says which answers left.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ringfence.client.audit_chain import CHARGED_KINDS, AuditBrokenError, AuditEntry, AuditHead
from ringfence.client.audit_log import (
    audit_entries,
    audit_file,
    audit_head_place,
    verify_audit_log,
    write_lost_head,
)
from ringfence.client.ledger_reading import has_ledger, open_ledger_reader
from ringfence.client.member_home import MemberHome

if TYPE_CHECKING:
    from ringfence.privacy.ledger_chain import LedgerEntry


def check_against_ledger(
    departures: Iterable[AuditEntry], *, charges: Iterable[LedgerEntry], sent: Iterable[str]
) -> None:
    """Hold an audit log against a ledger, both verified in themselves.

    A line of before the log named payloads is held against the charge of its run, round and attempt; none may follow a line
    that names one.

    Args:
        departures: every entry of the log.
        charges: every entry of the ledger, as it stood after the log was read.
        sent: keys of the answers that the ledger had marked as sent before the log was read.

    Raises:
        AuditBrokenError: an answer that left is not in the log, or the log has one that the ledger never charged so.
    """
    places: dict[str, int] = {}
    charged: dict[str, LedgerEntry] = {}
    answered: dict[str, list[LedgerEntry]] = {}
    for entry in charges:
        places[entry.hash] = entry.seq
        payload = entry.values.get("payload")
        if isinstance(payload, str):
            charged[payload] = entry
            answered.setdefault(_place_of_key(entry.key), []).append(entry)
    missing = set(sent)
    newest = 0
    payloads_are_named = False
    for departure in departures:
        newest = departure.seq
        if payloads_are_named and not departure.names_payload:
            raise AuditBrokenError(
                f"Entry {newest} of the audit log lacks what the entries before it have.", entry=newest
            )
        payloads_are_named = departure.names_payload
        if departure.kind not in CHARGED_KINDS:
            continue
        head = places.get(departure.ledger_head)
        charge = charged.get(departure.payload)
        if not departure.names_payload:
            known = [entry for entry in answered.get(_place(departure), ()) if entry.seq <= (head or 0)]
            charge = known[-1] if known else None  # the newest, if two federations had a run of one name
        if charge is None or head is None or head < charge.seq or not charge.key.endswith(_place(departure)):
            raise AuditBrokenError(
                f"Entry {newest} of the audit log is of an answer that the ledger has not charged so.",
                entry=newest,
            )
        missing.discard(charge.key)
    if missing:
        raise AuditBrokenError(
            f"By the ledger {len(missing)} answers left that the audit log does not hold: entries were cut off, or the log was "
            "taken away.",
            entry=newest + 1,
        )


def verify_departures(home: MemberHome, *, head_path: Path | None = None) -> AuditHead:
    """Return the newest entry's name, having verified a member's whole log by itself and against its ledger.

    Args:
        home: the member's folder.
        head_path: the log's second file, or a copy of it; that of `audit_head_place` by default.

    Raises:
        AuditBrokenError: the log is not the one that was written.
        BudgetError: the ledger is in doubt, and so says nothing about the log.
        ConfigError: a file cannot be read. The operator's to mend.
    """
    path, second = audit_file(home), head_path or audit_head_place(home)
    # What had left before the log is read must stand in it, and what stands in it was charged before the ledger is read
    # again: the agent may be at work.
    sent = _sent(home)
    head = AuditHead()
    if path.exists() or second.exists():
        head = verify_audit_log(path, head_path=second)
    _hold_against_ledger(home, sent=sent)
    return head


def renew_second_file(home: MemberHome) -> AuditHead:
    """Write the log's second file anew, where it was lost and the ledger agrees with every answer in the log.

    That nothing else was cut off the log's end, refusals or join requests, nobody can say any more.

    Raises:
        AuditBrokenError: the log is broken in itself, or the ledger contradicts it.
        BudgetError: the ledger is in doubt, and so vouches for nothing.
        ConfigError: the second file is there, or cannot be written. The operator's to mend.
    """
    _hold_against_ledger(home, sent=_sent(home))
    return write_lost_head(audit_file(home), head_path=audit_head_place(home))


def _hold_against_ledger(home: MemberHome, *, sent: frozenset[str]) -> None:
    departures = tuple(audit_entries(audit_file(home)))
    if not has_ledger(home):
        check_against_ledger(departures, charges=(), sent=sent)
        return
    with open_ledger_reader(home) as reader:
        reader.verified_state()
        check_against_ledger(departures, charges=reader.entries(), sent=sent)


def _sent(home: MemberHome) -> frozenset[str]:
    if not has_ledger(home):
        return frozenset()
    with open_ledger_reader(home) as reader:
        return reader.sent()


def _place_of_key(key: str) -> str:
    """Return a key of the ledger from its run on: of ``run/acme/7/round/3/attempt/1`` it is ``/7/round/3/attempt/1``."""
    return "".join(f"/{part}" for part in key.split("/")[2:])


def _place(departure: AuditEntry) -> str:
    """Return how the ledger's key of an answer ends; it begins with the federation's name."""
    if departure.kind == "evaluate-update":
        return f"/{departure.run}/evaluation"
    return f"/{departure.run}/round/{departure.round}/attempt/{departure.attempt}"
