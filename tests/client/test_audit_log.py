"""The audit log holds what left, survives any crash, and names the first entry that somebody changed or cut off."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledger_homes import write_settings
from pydantic import ValidationError

from ringfence.client.audit_chain import GENESIS, AuditBrokenError, AuditEntry, AuditHead, Departure
from ringfence.client.audit_log import AuditLog, audit_entries, audit_file, verify_audit_log
from ringfence.client.command_line import application
from ringfence.client.member_home import MemberHome
from ringfence.model.console import run_application
from ringfence.model.errors import ConfigError

DEPARTURE = Departure(
    destination="coordinator.example:8443",
    kind="train-update",
    purpose="grooming-risk-detection",
    digest="a" * 64,
    size_bytes=872,
    plan_digest="b" * 64,
    run="spring-1",
    round=1,
    attempt=1,
    ledger_head="c" * 64,
    payload="e" * 64,
)


def clock() -> datetime:
    return datetime(2026, 3, 1, 9, 30, 15, 999, tzinfo=UTC)


def filled(folder: Path, entries: int = 5) -> AuditLog:
    log = AuditLog(folder / "audit.jsonl", now=clock)
    for round_ in range(1, entries + 1):
        log.append(replace(DEPARTURE, round=round_))
    return log


def lines_of(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_an_entry_says_what_left_and_names_the_one_before(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    first, second = audit_entries(log.path)
    assert (first.seq, first.previous, first.round, first.time) == (1, GENESIS, 1, "2026-03-01T09:30:15Z")
    assert (second.seq, second.previous, second.round) == (2, first.hash, 2)
    assert (second.destination, second.run, second.size_bytes) == (
        "coordinator.example:8443",
        "spring-1",
        872,
    )
    assert verify_audit_log(log.path) == log.head == AuditHead(2, second.hash)
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_it_stopped(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    again = AuditLog(tmp_path / "audit.jsonl")
    again.append(DEPARTURE)
    assert [entry.seq for entry in audit_entries(again.path)] == [1, 2, 3]


def test_two_holders_write_one_chain(tmp_path: Path) -> None:
    one, two = AuditLog(tmp_path / "audit.jsonl"), AuditLog(tmp_path / "audit.jsonl")
    for writer in (one, two, two, one, two):
        writer.append(DEPARTURE)
    assert verify_audit_log(one.path).seq == 5


def rewrite(change: Callable[[dict[str, object]], None], place: int) -> Callable[[AuditLog], None]:
    """Return a forger that changes one entry and leaves its hash as it was."""

    def forge(log: AuditLog) -> None:
        lines = lines_of(log)
        values = json.loads(lines[place - 1])
        change(values)
        lines[place - 1] = json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        log.path.write_bytes(b"".join(lines))

    return forge


def keep(choose: Callable[[list[bytes]], list[bytes]]) -> Callable[[AuditLog], None]:
    return lambda log: log.path.write_bytes(b"".join(choose(lines_of(log)))) and None


def forge_with_new_hashes(log: AuditLog) -> None:
    """Rewrite the third entry and every hash after it: a chain that is sound in itself."""
    chain = AuditLog(log.path.with_name("forged.jsonl"), now=clock)
    for entry in audit_entries(log.path):
        values = {name: getattr(entry, name) for name in Departure.__dataclass_fields__}
        values["size_bytes"] += entry.seq == 3
        chain.append(Departure(**values))
    log.path.write_bytes(chain.path.read_bytes())


FORGERIES = [
    pytest.param(rewrite(lambda entry: entry.update(size_bytes=1), 2), 2, id="a size changed"),
    pytest.param(rewrite(lambda entry: entry.update(time="2026-03-01T09:30:16Z"), 5), 5, id="a time changed"),
    pytest.param(rewrite(lambda entry: entry.update(note="x"), 3), 3, id="a field added"),
    pytest.param(rewrite(lambda entry: entry.pop("run"), 3), 3, id="a field removed"),
    pytest.param(rewrite(lambda entry: entry.update(hash="0" * 64), 4), 4, id="a hash changed"),
    pytest.param(keep(lambda lines: lines[1:]), 1, id="the first cut off"),
    pytest.param(keep(lambda lines: lines[:2] + lines[3:]), 3, id="one cut out"),
    pytest.param(keep(lambda lines: lines[:2] + lines[1:]), 3, id="one doubled"),
    pytest.param(keep(lambda lines: [lines[1], lines[0], *lines[2:]]), 1, id="two exchanged"),
    pytest.param(keep(lambda lines: lines[:4]), 5, id="the last cut off"),
    pytest.param(keep(lambda lines: lines[:1]), 2, id="all but the first cut off"),
    pytest.param(keep(lambda lines: []), 1, id="all cut off"),
    pytest.param(keep(lambda lines: [*lines[:4], lines[4][:-1]]), 5, id="the last one's end cut off"),
    pytest.param(keep(lambda lines: [*lines[:2], b"\n", *lines[2:]]), 3, id="an empty line"),
    pytest.param(keep(lambda lines: [lines[0].replace(b"\n", b"\r"), *lines[1:]]), 1, id="another line end"),
    pytest.param(keep(lambda lines: [lines[0].replace(b",", b", "), *lines[1:]]), 1, id="a space"),
    pytest.param(forge_with_new_hashes, 5, id="a whole chain rewritten"),
]


@pytest.mark.parametrize(("forge", "broken_at"), FORGERIES)
def test_verification_names_the_first_broken_entry(
    tmp_path: Path, forge: Callable[[AuditLog], None], broken_at: int
) -> None:
    log = filled(tmp_path)
    forge(log)
    with pytest.raises(AuditBrokenError) as verified:
        verify_audit_log(log.path)
    assert verified.value.entry == broken_at
    evidence = log.path.read_bytes()
    with pytest.raises(AuditBrokenError):
        AuditLog(log.path)
    assert log.path.read_bytes() == evidence


@pytest.mark.parametrize(("forge", "broken_at"), FORGERIES[9:13])
def test_a_running_agent_notices_that_its_log_was_cut(
    tmp_path: Path, forge: Callable[[AuditLog], None], broken_at: int
) -> None:
    log = filled(tmp_path)
    forge(log)
    log.head_path.write_text(json.dumps({"seq": 0, "hash": GENESIS}))
    with pytest.raises(AuditBrokenError) as noticed:
        log.append(DEPARTURE)
    assert noticed.value.entry == broken_at


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[]", b'{"seq": "5", "hash": ""}', b'{"seq": -1, "hash": ""}', b"\xff"]
)
def test_a_second_file_that_is_missing_or_damaged_is_not_made_anew(
    tmp_path: Path, content: bytes | None
) -> None:
    log = filled(tmp_path)
    log.head_path.unlink() if content is None else log.head_path.write_bytes(content)
    for act in (lambda: verify_audit_log(log.path), lambda: AuditLog(log.path)):
        with pytest.raises(AuditBrokenError, match="second file"):
            act()


def test_a_log_behind_its_head_in_another_place_is_refused(tmp_path: Path) -> None:
    """A backup of the folder is restored, and the second file lies elsewhere."""
    second = tmp_path / "elsewhere.head"
    log = AuditLog(tmp_path / "audit.jsonl", head_path=second)
    log.append(DEPARTURE)
    backup = log.path.read_bytes()
    log.append(DEPARTURE)
    log.path.write_bytes(backup)
    with pytest.raises(AuditBrokenError, match="cut off") as refused:
        AuditLog(log.path, head_path=second)
    assert refused.value.entry == 2


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b'{"attempt":1,"desti', id="in the middle of a line"),
        pytest.param(None, id="between the line and the second file"),
    ],
)
def test_a_crash_while_an_entry_is_written_loses_nothing(tmp_path: Path, after: bytes | None) -> None:
    log = filled(tmp_path, 3)
    if after is None:
        head = log.head_path.read_bytes()
        log.append(DEPARTURE)
        log.head_path.write_bytes(head)
    else:
        log.path.write_bytes(log.path.read_bytes() + after)
    expected = 3 if after else 4
    assert verify_audit_log(log.path).seq == expected
    again = AuditLog(log.path)
    again.append(DEPARTURE)
    assert verify_audit_log(log.path).seq == expected + 1


def test_nothing_is_recorded_twice_or_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    """The child says what it has recorded; after each kill all of that stands in the log, in order."""
    path = tmp_path / "audit.jsonl"
    said: list[int] = []
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        said += [int(child.stdout.readline()) for _ in range(3)]
        child.kill()
        said += [int(line) for line in child.stdout.read().splitlines()]
        child.wait()
        child.stdout.close()
    found = [entry.seq for entry in audit_entries(path)]
    assert verify_audit_log(path).seq == len(found)
    assert found == list(range(1, len(found) + 1))
    assert set(said) <= set(found)
    assert len(found) <= len(said) + 5


_WRITER = """
import sys
from pathlib import Path
from ringfence.client.audit_chain import Departure
from ringfence.client.audit_log import AuditLog
log = AuditLog(Path(sys.argv[1]))
while True:
    entry = log.append(Departure("h:1", "refusal", "", "a" * 64, 6))
    print(entry.seq, flush=True)
"""


def write_line_of_before(log: AuditLog, *, round_: int, kind: str = "train-update") -> None:
    """Add an entry as it was written before an entry named its payload."""
    values = {
        "seq": log.head.seq + 1,
        "time": "2026-03-01T09:30:15Z",
        "destination": "coordinator.example:8443",
        "kind": kind,
        "purpose": "grooming-risk-detection",
        "digest": "a" * 64,
        "size_bytes": 872,
        "plan_digest": "b" * 64,
        "run": "spring-1",
        "round": round_,
        "attempt": 1,
        "ledger_head": "c" * 64,
        "previous": log.head.hash,
    }
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    values["hash"] = hashlib.sha256(canonical).hexdigest()
    line = json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with log.path.open("ab") as file:
        file.write(line)
    log.head_path.write_text(json.dumps({"seq": values["seq"], "hash": values["hash"]}))


def test_a_log_of_before_entries_named_payloads_is_whole_and_goes_on(tmp_path: Path) -> None:
    for round_ in (1, 2):
        write_line_of_before(AuditLog(tmp_path / "audit.jsonl"), round_=round_)
    path = tmp_path / "audit.jsonl"
    before = path.read_bytes()
    assert b"payload" not in before
    log = AuditLog(path)
    log.append(replace(DEPARTURE, round=3))
    assert verify_audit_log(path) == AuditHead(3, log.head.hash)
    assert path.read_bytes().startswith(before)
    assert [entry.to_line() for entry in audit_entries(path)] == lines_of(log)
    assert [entry.payload for entry in audit_entries(path)] == ["", "", "e" * 64]
    assert [entry.names_payload for entry in audit_entries(path)] == [False, False, True]


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_line_of_before_that_was_changed_is_named(tmp_path: Path, place: int) -> None:
    for round_ in (1, 2, 3):
        write_line_of_before(AuditLog(tmp_path / "audit.jsonl"), round_=round_)
    log = AuditLog(tmp_path / "audit.jsonl")
    for change in (lambda entry: entry.update(size_bytes=1), lambda entry: entry.update(payload="")):
        whole = log.path.read_bytes()
        rewrite(change, place)(log)
        with pytest.raises(AuditBrokenError) as found:
            verify_audit_log(log.path)
        assert found.value.entry == place
        log.path.write_bytes(whole)


def test_what_was_never_recorded_without_a_payload_is_no_line_of_before(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    write_line_of_before(log, round_=1, kind="approval")
    with pytest.raises(AuditBrokenError, match="cannot be read"):
        verify_audit_log(log.path)


@pytest.mark.parametrize(
    "words",
    [
        {"run": "Please keep this secret"},
        {"purpose": "hello there"},
        {"destination": "the blue heron"},
        {"kind": "note"},
        {"digest": "z" * 64},
        {"ledger_head": "heron"},
        {"payload": "heron"},
        {"plan_digest": "heron"},
    ],
)
def test_an_entry_has_no_room_for_words(tmp_path: Path, words: dict[str, str]) -> None:
    log = filled(tmp_path, 1)
    before = log.path.read_bytes()
    with pytest.raises(ValidationError):
        log.append(replace(DEPARTURE, **words))
    assert log.path.read_bytes() == before
    assert not any(field.annotation is object for field in AuditEntry.model_fields.values())


def test_a_log_that_cannot_be_written_stops_the_sending(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="nothing is sent"):
            log.append(DEPARTURE)
    log.append(DEPARTURE)
    assert verify_audit_log(log.path) == log.head


def test_an_entry_is_on_disk_before_its_answer_may_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(tmp_path, 1)
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    log.append(DEPARTURE)
    assert synced[0] == "audit.jsonl"
    assert len(synced) >= 3  # then the second file, and its folder


def test_the_commands_list_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = MemberHome(tmp_path)
    write_settings(home)
    assert run_application(application, ["audit", "verify", "--home", str(tmp_path)]) == 0
    assert "Nothing has left" in capsys.readouterr().out
    log = AuditLog.of(home)
    for size in (1, 2, 3):
        log.append(Departure("coordinator.example:8443", "refusal", "", "a" * 64, size))
    assert run_application(application, ["audit", "list", "--last", "2", "--home", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["entry", "2", "3"]
    assert run_application(application, ["audit", "list", "--json", "--home", str(tmp_path)]) == 0
    listed = json.loads(capsys.readouterr().out)["data"]["entries"]
    assert [entry["size_bytes"] for entry in listed] == [1, 2, 3]
    assert run_application(application, ["audit", "verify", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == {"entries": 3, "head": log.head.hash}
    audit_file(home).write_bytes(b"".join(lines_of(log)[:2]))
    assert run_application(application, ["audit", "verify", "--json", "--home", str(tmp_path)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["error_code"], "entries from 3 on were cut off" in told["message"]) == ("audit_broken", True)


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_folder_that_is_no_members_is_refused_and_not_said_to_have_sent_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run_application(application, ["audit", command, "--home", str(tmp_path / "mistyped")]) == 4
    answered = capsys.readouterr()
    assert "member.toml" in answered.err
    assert "Nothing has left" not in answered.out
    assert not (tmp_path / "mistyped").exists()
