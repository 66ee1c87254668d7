"""What left this member, when and where to: a log that only grows, and shows when somebody cut or changed it.

An entry is on disk before its answer leaves. So the log may hold an answer that a crash kept from leaving, and never
misses one that left. The newest entry's name is also kept in a second file, beside the ledger's own second place: without it
nobody could tell a log whose end was cut off from a shorter one. Whoever takes both away is found out by the ledger
(`ringfence.client.audit_against_ledger`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ringfence.client.agent_condition import agent_runs
from ringfence.client.audit_chain import (
    AuditBrokenError,
    AuditEntry,
    AuditHead,
    Departure,
    follow,
    next_entry,
    read_entry,
)
from ringfence.client.ledger_reading import anchor_file
from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import exclusive, sync_folder, write_atomically
from ringfence.model.errors import ConfigError


def _now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """The audit log of one member. Several processes may hold it; they write one after the other.

    Args:
        path: of the log; made with mode 0600 if neither it nor its head exists.
        head_path: of the second file; the log's own name with the ending ``.head`` by default.
        now: the present, UTC.

    Raises:
        AuditBrokenError: what is there is not what was written; nothing may leave until somebody knows why.
        ConfigError: the files cannot be opened. The member's to mend.
    """

    def __init__(
        self, path: Path, *, head_path: Path | None = None, now: Callable[[], datetime] = _now
    ) -> None:
        self.path = path
        self.head_path = head_path or audit_head_file(path)
        self._now = now
        self._head = AuditHead()
        self._size = 0
        with self._writing():
            if not path.exists() and not self.head_path.exists():
                # The head first: a log without its head has lost something, a head without a log only at 0.
                _write_head(self.head_path, AuditHead())
            self._catch_up()
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            sync_folder(path.parent)

    @classmethod
    def of(cls, home: MemberHome, *, for_agent: bool = False) -> AuditLog:
        """Return the log of a member's folder, made if there is none yet, with its second file in the ledger's second place.

        Args:
            home: the member's folder.
            for_agent: whether the caller is the agent that starts on the folder and holds it, so that no other agent uses the
                second file where it lies.

        Raises:
            AuditBrokenError, ConfigError: as the class; also ConfigError if the policy cannot be read, or names another second
                place than the agent that runs has.
        """
        return cls(audit_file(home), head_path=_head_in_its_place(home, for_agent=for_agent))

    @property
    def head(self) -> AuditHead:
        """Place and hash of the newest entry that this process knows."""
        return self._head

    def append(self, departure: Departure) -> AuditEntry:
        """Record what is about to leave; on disk when this returns.

        Raises:
            AuditBrokenError: the log was cut or changed since it was last read.
            ConfigError: it cannot be written, and so nothing may leave. The member's to mend.
        """
        with self._writing():
            self._catch_up()
            entry = next_entry(self._head, departure, now=self._now())
            line = entry.to_line()
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            try:
                if os.write(handle, line) != len(line):
                    raise OSError("the disk took a part of the line")
                os.fsync(handle)
            finally:
                os.close(handle)
            self._head = AuditHead(entry.seq, entry.hash)
            self._size += len(line)
            _write_head(self.head_path, self._head)
            return entry

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _only_writer(self.path):
                yield
        except OSError as error:
            raise ConfigError(
                "The audit log cannot be written, so nothing is sent.",
                hint="Check the disk and the folder's owner.",
            ) from error

    def _catch_up(self) -> None:
        """Read what was added since, and take away a line that a crash cut short: its answer never left."""
        known = max(_read_head(self.head_path), self._head, key=lambda head: head.seq)
        if self._size and (not self.path.exists() or self.path.stat().st_size < self._size):
            # From the start, to name the first entry that is missing.
            self._head, self._size = AuditHead(), 0
        *lines, torn = self._read_from(self._size).split(b"\n")
        self._head = follow(lines, after=self._head, known=known)
        self._size += sum(len(line) + 1 for line in lines)
        if torn:
            os.truncate(self.path, self._size)

    def _read_from(self, offset: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""


def audit_file(home: MemberHome) -> Path:
    """Return where a member's audit log lies."""
    return home.agent / "audit.jsonl"


def audit_head_place(home: MemberHome) -> Path:
    """Return where a member's log has its second file: beside the second place of the ledger's head.

    Raises:
        ConfigError: the policy cannot be read. The operator's to mend.
    """
    own, place = _beside(home.ledger_anchor_file), _beside(anchor_file(home))
    # From before there was a policy, as when the member joined; the next that writes takes it along.
    return own if own.exists() and not place.exists() else place


def audit_head_file(path: Path) -> Path:
    """Return where a log's second file lies that belongs to no member's folder."""
    return path.with_suffix(".head")


def audit_entries(path: Path) -> Iterator[AuditEntry]:
    """Yield the entries of a log, each verified against the one before; a line that a crash cut short is left out.

    Raises:
        AuditBrokenError: an entry does not follow.
        ConfigError: the log cannot be read. The operator's to mend.
    """
    head = AuditHead()
    for line in _whole_lines(path):
        entry = read_entry(line, after=head)
        head = AuditHead(entry.seq, entry.hash)
        yield entry


def verify_audit_log(path: Path, *, head_path: Path | None = None) -> AuditHead:
    """Return the newest entry's name, having verified the whole log and held it against its second file.

    Raises:
        AuditBrokenError: the first entry that is wrong or missing, by its place.
        ConfigError: the log cannot be read. The operator's to mend.
    """
    known = _read_head(head_path or audit_head_file(path))
    return follow(_whole_lines(path), after=AuditHead(), known=known)


def write_lost_head(path: Path, *, head_path: Path) -> AuditHead:
    """Write a log's second file anew from the log, which is verified by itself. Only where the file is missing or damaged.

    Raises:
        AuditBrokenError: the log is not sound in itself.
        ConfigError: there is a second file, or it cannot be written. The operator's to mend.
    """
    try:
        _read_head(head_path)
    except AuditBrokenError:
        head = follow(_whole_lines(path), after=AuditHead(), known=AuditHead())
    else:
        raise ConfigError("The audit log has its second file.", hint="Compare them: ringfence audit verify")
    try:
        _write_head(head_path, head)
    except OSError as error:
        raise ConfigError(
            f"Cannot write {head_path}: {error.strerror}", hint="Mount its disk, or check the folder's owner."
        ) from error
    return head


def _beside(anchor: Path) -> Path:
    return anchor.with_name(f"{anchor.name}.audit")


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Keep every other process from writing a log and its second file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(path.with_suffix(".lock")):
        yield


def _head_in_its_place(home: MemberHome, *, for_agent: bool) -> Path:
    """Return where the second file is, which is taken along if the policy names another place now; its folder is there.

    Raises:
        ConfigError: it cannot be moved, or not now: a running agent keeps the place that it started with.
    """
    place = _beside(anchor_file(home))
    try:
        with _only_writer(audit_file(home)):
            now_in = audit_head_place(home)
            if place.is_relative_to(home.root):
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if now_in != place:
                if not for_agent and agent_runs(home):
                    raise ConfigError(
                        f"{home.policy_file.name} names another anchor_path than the agent that runs has, whose audit log has "
                        f"its second file in {now_in.parent}. Nothing was moved.",
                        hint="Stop the agent, move the ledger's second place to the new anchor_path and start the agent, which "
                        "takes the file along; or put the old anchor_path back.",
                    )
                write_atomically(place, now_in.read_bytes())
                now_in.unlink()
    except OSError as error:
        raise ConfigError(
            f"The audit log's second file cannot be written to {place.parent}.",
            hint="Mount its disk, or check the folder's owner.",
        ) from error
    return place


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}", hint="Check the folder.") from error


def _write_head(path: Path, head: AuditHead) -> None:
    content = json.dumps({"seq": head.seq, "hash": head.hash}, sort_keys=True).encode()
    write_atomically(path, content + b"\n")


def _read_head(path: Path) -> AuditHead:
    try:
        values = json.loads(path.read_bytes())
        head = AuditHead(values["seq"], values["hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuditBrokenError(
            f"The audit log's second file, {path.name}, is missing or damaged.",
            entry=1,
            hint="Bring it back from where anchor_path of the policy pointed before. If its disk is lost, the ledger can vouch for "
            "the answers in the log: ringfence audit renew",
        ) from error
    if (
        set(values) != {"seq", "hash"}
        or type(head.seq) is not int
        or type(head.hash) is not str
        or head.seq < 0
    ):
        raise AuditBrokenError(f"The audit log's second file, {path.name}, is damaged.", entry=1)
    return head
