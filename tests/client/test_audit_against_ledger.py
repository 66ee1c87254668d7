"""An audit log that lost entries, or all of itself, is found out by the ledger, which knows what was charged and left."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation_harness import make_federation
from ledger_homes import charge_rounds, make_home, open_home_ledger, write_settings

from ringfence.client import audit_log
from ringfence.client.agent import _only_agent, run_agent
from ringfence.client.agent_condition import agent_lock_file, agent_runs
from ringfence.client.audit_against_ledger import verify_departures
from ringfence.client.audit_chain import AuditBrokenError, Departure
from ringfence.client.audit_log import AuditLog, audit_file, audit_head_place
from ringfence.client.command_line import application
from ringfence.client.departures import record_departure
from ringfence.client.member_home import MemberHome
from ringfence.client.stored_answer import StoredAnswer, stored_bytes
from ringfence.model.console import run_application
from ringfence.model.errors import BudgetError, ConfigError
from ringfence.model.round_messages import TrainUpdate
from ringfence.privacy.ledger_chain import LedgerEntry

ROUNDS = 3
Forgery = Callable[[MemberHome], None]
Change = Callable[[dict[str, object]], None]


def charges(home: MemberHome) -> list[LedgerEntry]:
    with open_home_ledger(home) as ledger:
        return [entry for entry in ledger.entries() if entry.kind in ("charge", "evaluate")]


def departure(charge: LedgerEntry) -> Departure:
    """What the log says of an answer that was sent as soon as it was charged."""
    _, _, run, *place = charge.key.split("/")
    return Departure(
        destination="coordinator.example:8443",
        kind="evaluate-update" if charge.kind == "evaluate" else "train-update",
        purpose="grooming-risk-detection",
        digest="a" * 64,
        size_bytes=872,
        plan_digest="b" * 64,
        run=run,
        round=int(place[1]) if charge.kind == "charge" else 0,
        attempt=int(place[3]) if charge.kind == "charge" else 0,
        ledger_head=charge.hash,
        payload=str(charge.values["payload"]),
    )


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    """A member three answers of which left, with all that was written of them."""
    home = make_home(tmp_path / "home").create()
    write_settings(home)
    charge_rounds(home, "spring", rounds=range(1, ROUNDS + 1))
    log = AuditLog.of(home)
    for charge in charges(home):
        log.append(departure(charge))
    return home


def verify(home: MemberHome) -> int:
    return run_application(application, ["audit", "verify", "--json", "--home", str(home.root)])


def test_a_log_that_agrees_with_the_ledger_is_whole(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    charge_rounds(home, "later", rounds=[1], sent=False)  # an answer that has not left needs no entry
    assert verify(home) == 0
    assert json.loads(capsys.readouterr().out)["data"]["entries"] == ROUNDS


def test_an_evaluation_and_a_repeated_answer_agree_too(home: MemberHome) -> None:
    with open_home_ledger(home) as ledger:
        answered = next(entry for entry in ledger.entries() if entry.kind == "charge")
    again = replace(departure(answered), ledger_head=charges(home)[-1].hash)
    AuditLog.of(home).append(again)  # sent once more, when the ledger had grown
    assert verify_departures(home).seq == ROUNDS + 1


def _remove_both(home: MemberHome) -> None:
    audit_file(home).unlink()
    audit_head_place(home).unlink()


def _remove_the_agents_folder_and_the_second_file(home: MemberHome) -> None:
    shutil.rmtree(home.agent)
    audit_head_place(home).unlink()


def _cut_both(keep: int) -> Callable[[MemberHome], None]:
    """Cut the log and its second file to the same, shorter log: sound in itself."""

    def cut(home: MemberHome) -> None:
        lines = audit_file(home).read_bytes().splitlines(keepends=True)
        audit_file(home).write_bytes(b"".join(lines[:keep]))
        last = json.loads(lines[keep - 1]) if keep else {"seq": 0, "hash": "0" * 64}
        audit_head_place(home).write_text(json.dumps({"seq": last["seq"], "hash": last["hash"]}))

    return cut


def _write_anew(change: Callable[[int, Departure], Departure | None]) -> Callable[[MemberHome], None]:
    """Write the whole log and its second file anew, with something else in it: sound in itself."""

    def forge(home: MemberHome) -> None:
        _remove_both(home)
        log = AuditLog.of(home)
        for place, charge in enumerate(charges(home), start=1):
            forged = change(place, departure(charge))
            if forged is not None:
                log.append(forged)

    return forge


FORGERIES = [
    pytest.param(_remove_both, 1, id="log and second file removed"),
    pytest.param(_remove_the_agents_folder_and_the_second_file, 1, id="the whole folder removed"),
    pytest.param(_cut_both(0), 1, id="both cut to nothing"),
    pytest.param(_cut_both(2), 3, id="both cut by one"),
    pytest.param(_write_anew(lambda n, it: None if n == 2 else it), 3, id="one left out"),
    pytest.param(_write_anew(lambda n, it: replace(it, payload="f" * 64)), 1, id="another answer"),
    pytest.param(_write_anew(lambda n, it: replace(it, payload="") if n == 2 else it), 2, id="not charged"),
    pytest.param(_write_anew(lambda n, it: replace(it, ledger_head="f" * 64)), 1, id="another ledger"),
    pytest.param(_write_anew(lambda n, it: replace(it, round=it.round % 3 + 1)), 1, id="rounds exchanged"),
    pytest.param(_write_anew(lambda n, it: replace(it, run="pring")), 1, id="another run"),
    pytest.param(_write_anew(lambda n, it: replace(it, attempt=2)), 1, id="another attempt"),
    pytest.param(_write_anew(lambda n, it: replace(it, kind="refusal")), 4, id="answers called refusals"),
]


@pytest.mark.parametrize(("forge", "broken_at"), FORGERIES)
def test_a_log_that_the_ledger_contradicts_is_broken_however_sound_it_is_in_itself(
    home: MemberHome,
    forge: Callable[[MemberHome], None],
    broken_at: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forge(home)
    with pytest.raises(AuditBrokenError) as found:
        verify_departures(home)
    assert found.value.entry == broken_at
    assert verify(home) == 1
    assert json.loads(capsys.readouterr().out)["error_code"] == "audit_broken"


def test_a_charge_is_not_older_than_the_head_that_its_answer_carried(home: MemberHome) -> None:
    first, second, _ = charges(home)
    _write_anew(lambda n, it: replace(it, ledger_head=first.hash) if it.round == 2 else it)(home)
    with pytest.raises(AuditBrokenError) as found:
        verify_departures(home)
    assert (found.value.entry, second.seq > first.seq) == (2, True)


def _without_payloads(which: Collection[int], change: Change = lambda values: None) -> Forgery:
    """Write the log anew with some lines as they were before an entry named its payload, and a second file that fits."""

    def forge(home: MemberHome) -> None:
        lines, previous = [], "0" * 64
        for number, line in enumerate(audit_file(home).read_bytes().splitlines(), start=1):
            values = json.loads(line)
            del values["hash"]
            if number in which:
                values.pop("payload", None)
                change(values)
            values["previous"] = previous
            previous = hashlib.sha256(_canonical(values)).hexdigest()
            lines.append(_canonical({**values, "hash": previous}) + b"\n")
        audit_file(home).write_bytes(b"".join(lines))
        audit_head_place(home).write_text(json.dumps({"seq": len(lines), "hash": previous}))

    return forge


def _canonical(values: dict[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def test_answers_of_before_entries_named_payloads_agree_by_their_place(home: MemberHome) -> None:
    for which in ([1], [1, 2], [1, 2, 3]):
        _without_payloads(which)(home)
        assert verify_departures(home).seq == ROUNDS
    charge_rounds(home, "later", rounds=[1])
    AuditLog.of(home).append(departure(charges(home)[-1]))
    assert verify_departures(home).seq == ROUNDS + 1


@pytest.mark.parametrize(
    ("forge", "broken_at"),
    [
        (_without_payloads([2]), 2),
        (_without_payloads([1, 2, 3], lambda values: values.update(run="pring")), 1),
        (_without_payloads([1, 2, 3], lambda values: values.update(attempt=2)), 1),
        (_without_payloads([1, 2, 3], lambda values: values.update(ledger_head="f" * 64)), 1),
        (_without_payloads([1, 2, 3], lambda values: values.update(round=1)), 4),
        (_without_payloads([1, 2, 3], lambda values: values.update(kind="refusal")), 4),
    ],
    ids=[
        "after one that names it",
        "another run",
        "another attempt",
        "another ledger",
        "one doubled",
        "refusals",
    ],
)
def test_answers_of_before_that_the_ledger_contradicts_are_found_out(
    home: MemberHome, forge: Forgery, broken_at: int
) -> None:
    forge(home)
    with pytest.raises(AuditBrokenError) as found:
        verify_departures(home)
    assert found.value.entry == broken_at


def test_answers_whose_bytes_are_gone_by_their_time_are_still_asked_for(home: MemberHome) -> None:
    with open_home_ledger(home) as ledger:
        for charge in [entry for entry in ledger.entries() if entry.kind == "charge"]:
            ledger.withdraw(charge.key)
    assert verify_departures(home).seq == ROUNDS
    _cut_both(2)(home)
    with pytest.raises(AuditBrokenError):
        verify_departures(home)


def test_a_log_whose_ledger_is_gone_is_not_called_whole(home: MemberHome) -> None:
    shutil.rmtree(home.ledger_file.parent)
    with pytest.raises(BudgetError):
        verify_departures(home)
    home.ledger_anchor_file.unlink()
    with pytest.raises(AuditBrokenError):
        verify_departures(home)


def name_another_second_place(home: MemberHome, tmp_path: Path) -> Path:
    """Have the policy name one; return its folder."""
    other_disk = tmp_path / "other-disk"
    other_disk.mkdir()
    home.policy_file.write_text(f'[ledger]\nanchor_path = "{other_disk}/acme.head"\n')
    home.policy_file.chmod(0o600)
    return other_disk


def test_the_second_file_lies_beside_the_ledgers_second_place(home: MemberHome, tmp_path: Path) -> None:
    assert audit_head_place(home).parent == home.ledger_anchor_file.parent
    other_disk = name_another_second_place(home, tmp_path)
    shutil.move(home.ledger_anchor_file, other_disk / "acme.head")
    assert verify_departures(home).seq == ROUNDS, "nothing has written since; it lies where it lay"
    AuditLog.of(home)
    assert {path.name for path in other_disk.iterdir()} == {"acme.head", "acme.head.audit"}
    assert not list(home.ledger_anchor_file.parent.glob("*.audit"))
    assert verify_departures(home).seq == ROUNDS


def test_the_second_file_is_moved_while_nobody_else_writes(
    home: MemberHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_disk = name_another_second_place(home, tmp_path)
    locked: dict[Path, bool] = {}
    honest = audit_log.write_atomically

    def noting(path: Path, content: bytes) -> None:
        handle = os.open(audit_file(home).with_suffix(".lock"), os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked[path] = False
        except BlockingIOError:
            locked[path] = True
        finally:
            os.close(handle)
        honest(path, content)

    monkeypatch.setattr(audit_log, "write_atomically", noting)
    AuditLog.of(home)
    assert locked == {other_disk / "acme.head.audit": True}


def test_the_second_file_is_not_moved_away_from_an_agent_that_runs(home: MemberHome, tmp_path: Path) -> None:
    with _only_agent(agent_lock_file(home)):
        of_the_agent = AuditLog.of(home, for_agent=True)
        other_disk = name_another_second_place(home, tmp_path)
        with pytest.raises(ConfigError, match="another anchor_path than the agent that runs") as found:
            record_departure(home, kind="leave", destination="coordinator.example:8443")
        assert "Stop the agent" in found.value.hint
        assert list(other_disk.iterdir()) == []
        of_the_agent.append(departure(charges(home)[0]))
    shutil.move(home.ledger_anchor_file, other_disk / "acme.head")
    with _only_agent(agent_lock_file(home)):
        AuditLog.of(home, for_agent=True)
    assert {path.name for path in other_disk.iterdir()} == {"acme.head", "acme.head.audit"}
    record_departure(home, kind="leave", destination="coordinator.example:8443")
    assert verify_departures(home).seq == ROUNDS + 2


def test_an_agent_that_starts_takes_the_second_file_along(
    home: MemberHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    honest = AuditLog.of

    def of(home: MemberHome, **more: bool) -> AuditLog:
        taken.append(agent_runs(home))
        honest(home, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(AuditLog, "of", of)
    agent_home = make_federation(tmp_path / "federation", members=("acme",), conversations=2).members["acme"]
    for name in ("ledger", "anchor", "agent"):
        shutil.rmtree(agent_home.root / name, ignore_errors=True)
        shutil.copytree(home.root / name, agent_home.root / name)
    other_disk = tmp_path / "other-disk"
    other_disk.mkdir()
    shutil.move(agent_home.ledger_anchor_file, other_disk / "acme.head")
    policy = agent_home.policy_file.read_text() if agent_home.policy_file.exists() else ""
    with_anchor = re.sub(r"(?m)^anchor_path = .*$", f'anchor_path = "{other_disk}/acme.head"', policy)
    agent_home.policy_file.write_text(with_anchor)
    with pytest.raises(KeyboardInterrupt):
        run_agent(agent_home, stop=threading.Event())
    assert taken == [True]
    assert {path.name for path in other_disk.iterdir()} == {"acme.head", "acme.head.audit"}


def renew(home: MemberHome) -> int:
    return run_application(application, ["audit", "renew", "--yes", "--json", "--home", str(home.root)])


def test_a_lost_second_file_is_written_anew_if_the_ledger_agrees(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renew(home) == 4, "it is there"
    audit_head_place(home).unlink()
    assert verify(home) == 1
    assert "ringfence audit renew" in capsys.readouterr().err
    assert renew(home) == 0
    assert verify_departures(home).seq == ROUNDS
    AuditLog.of(home).append(departure(charges(home)[0]))


def test_a_log_that_the_ledger_contradicts_gets_no_new_second_file(home: MemberHome) -> None:
    lines = audit_file(home).read_bytes().splitlines(keepends=True)
    for content in (b"".join(lines[:2]), b"".join(lines[1:])):
        audit_file(home).write_bytes(content)
        audit_head_place(home).unlink(missing_ok=True)
        assert renew(home) == 1
        assert not audit_head_place(home).exists()


def test_an_agent_whose_log_was_taken_away_does_not_begin_a_new_one(tmp_path: Path) -> None:
    home = make_federation(tmp_path, members=("acme",), conversations=2).members["acme"]
    terms_home = make_home(tmp_path / "other")
    # A ledger that an answer left from, in the place of the one that the agent would make.
    charge_rounds(terms_home, "spring", rounds=[1])
    shutil.copytree(terms_home.ledger_file.parent, home.ledger_file.parent)
    shutil.copytree(terms_home.ledger_anchor_file.parent, home.ledger_anchor_file.parent)
    with pytest.raises(AuditBrokenError):
        run_agent(home, stop=threading.Event())
    assert not audit_file(home).exists()


def test_the_digest_of_a_stored_answer_is_that_of_its_charge() -> None:
    """What the firewall compares is what the ledger hashed: the stored bytes, question and header included."""
    update = TrainUpdate("spring-1", "b" * 64, 3, 1, np.arange(5, dtype=np.int64))
    stored = StoredAnswer(question="c" * 64, update=update).encode()
    again = stored_bytes(
        "c" * 64, run="spring-1", plan_digest="b" * 64, place=(3, 1), numbers=update.update.tobytes()
    )
    assert hashlib.sha256(stored).digest() == hashlib.sha256(again).digest()
    assert StoredAnswer.decode(stored).question == "c" * 64
