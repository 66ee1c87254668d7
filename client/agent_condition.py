"""How the agent is: written down for ``ringfence status``, and told to the service manager.

``agent/condition.json`` says what no other file does: since when the agent runs and is connected, and why it is not. What left
the member stands in the audit log, and what it cost in the ledger.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import RingfenceError
from ringfence.model.service_notice import ServiceNotice

log = logging.getLogger("ringfence.agent")


class AgentRecord(BaseModel):
    """What an agent wrote down about itself.

    Attributes:
        schema_version: of this form.
        pid: its process.
        started_at: UTC.
        connected_at: since when the coordinator serves it, UTC; None while it does not.
        trouble: why it is not connected; "" while it is.
        release_checked_at: when it last looked for a release, UTC.
        release_outcome: what came of it, in one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    pid: int
    started_at: AwareDatetime
    connected_at: AwareDatetime | None = None
    trouble: str = ""
    release_checked_at: AwareDatetime | None = None
    release_outcome: str = ""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AgentCondition:
    """Takes down how the agent is. A disk that cannot take it, or a manager that does not hear it, never stops the agent.

    Args:
        home: the member's folder.
        notice: of this process.
        now: returns the present, UTC.
    """

    def __init__(
        self, home: MemberHome, *, notice: ServiceNotice, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._path = condition_file(home)
        self._notice = notice
        self._now = now
        self._writing = threading.Lock()  # the agent and what follows releases both write
        self._record = AgentRecord(pid=os.getpid(), started_at=now())

    def started(self) -> None:
        """The agent's own files are in order; whether the coordinator is there does not count."""
        self._write()
        self._notice.ready("not connected yet")

    def alive(self) -> None:
        """The agent turns."""
        self._notice.alive()

    def connected(self, address: str) -> None:
        """The coordinator serves it."""
        self._write(connected_at=self._now(), trouble="")
        self._notice.status(f"connected to {address}")

    def disconnected(self, error: RingfenceError) -> None:
        """The connection broke, or did not come about."""
        if (self._record.connected_at, self._record.trouble) != (None, error.message):
            self._write(connected_at=None, trouble=error.message)
        self._notice.status(f"not connected: {error.message}")

    def looked_for_release(self, outcome: str) -> None:
        """A look for a release ended."""
        self._write(release_checked_at=self._now(), release_outcome=outcome)

    def stopping(self) -> None:
        """The agent was told to stop."""
        self._notice.stopping()

    def stopped(self) -> None:
        """The agent ends in order."""
        self._write(connected_at=None, trouble="stopped")

    def _write(self, **changes: object) -> None:
        with self._writing:
            self._record = self._record.model_copy(update=changes)
            try:
                write_atomically(self._path, self._record.model_dump_json(indent=2).encode() + b"\n")
            except OSError as error:
                log.warning("how the agent is could not be written down: %s", error.strerror)


def condition_file(home: MemberHome) -> Path:
    """Return where an agent writes down how it is."""
    return home.agent / "condition.json"


def read_condition(home: MemberHome) -> AgentRecord | None:
    """Return what the last agent of a folder wrote down, or None if there is nothing that can be read."""
    try:
        return AgentRecord.model_validate_json(condition_file(home).read_bytes())
    except (OSError, ValidationError):
        return None


def agent_runs(home: MemberHome) -> bool:
    """Return whether an agent holds this folder now."""
    try:
        with agent_lock_file(home).open("rb") as file:
            # Shared, so that two who ask at once do not take each other for an agent.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def agent_lock_file(home: MemberHome) -> Path:
    """Return the file that a running agent holds locked."""
    return home.agent / "agent.lock"
