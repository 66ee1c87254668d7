"""What the coordinator keeps in order while it serves: members known to Flower, runs with somebody at work on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError, StorageError
from ringfence.server.flower_adapter import FlowerControl
from ringfence.server.members import Member, MemberRegistry
from ringfence.server.run_launch import Launcher
from ringfence.server.run_store import Run

log = logging.getLogger("ringfence.coordinator")
_MAX_RESTARTS = 5
_ORPHAN_CHECKS = 8
"""Looks at a run without a worker, one a tick, before Flower is asked whether somebody is on the way to it."""
_STARTING_CHECKS = 240
"""The same, before somebody who is on the way is given up: on a busy machine a server app takes many seconds to start."""


def register_members(registry: MemberRegistry, *, control: FlowerControl) -> None:
    """Have Flower know the node key of every active member, and of no stranger.

    A member that is suspended or removed stays known to Flower: a key that was unregistered once is never registered again,
    so that it could not come back. The gateway refuses its every call, and no round counts on it, because only active members do.

    Raises:
        ConnectionFailedError: the fleet service does not answer.
    """
    known = control.node_ids()
    members = registry.all()
    for stranger in set(known) - {member.certificate_public_key.encode() for member in members}:
        control.unregister_node(known[stranger])
        log.warning("a node that is no member's is removed from the fleet")
    for member in members:
        try:
            _register(member, registry=registry, control=control, known=known)
        except ConnectionFailedError:
            raise
        except PeerError as error:
            # One member's trouble, such as a key that it had given up before, is not everybody's.
            log.warning("member %s is not in the fleet: %s", member.id, error.message)


def _register(
    member: Member, *, registry: MemberRegistry, control: FlowerControl, known: Mapping[bytes, int]
) -> None:
    key = member.certificate_public_key.encode()
    node_id = known.get(key)
    if member.status == "active":
        if node_id is None:
            node_id = control.register_node(key, name=member.id)
            log.info("member %s is admitted to the fleet", member.id)
        if member.node_id != node_id:
            registry.set_node_id(member.id, node_id=node_id)
    elif member.node_id is not None:
        registry.set_node_id(member.id, node_id=None)
        log.info("member %s takes no more part in the fleet", member.id)


@dataclass(slots=True)
class RunKeeper:
    """Starts a run again when the process that worked on it died.

    Attributes:
        launcher: starts runs.
        since: when this coordinator began to serve; whoever was on the way to a run before that is gone.
    """

    launcher: Launcher
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _unattended: dict[str, int] = field(default_factory=dict)
    _attended: dict[str, int | None] = field(default_factory=dict)
    _restarts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _damaged: set[str] = field(default_factory=set)

    def tick(self) -> None:
        """Look at every run once; call about once a second.

        Raises:
            ConnectionFailedError: the fleet service does not answer.
        """
        for run in self.launcher.runs.all():
            try:
                self._attend(run)
            except StorageError:
                raise
            except ConfigError as error:
                # A run that cannot be read must not keep the others from being looked after.
                if run.name not in self._damaged:
                    log.error("run %s is left alone: %s", run.name, error.message)
                self._damaged.add(run.name)

    def _attend(self, run: Run) -> None:
        record = run.record()
        if record.status != "running" or run.has_worker():
            self._unattended.pop(run.name, None)
            self._attended[run.name] = record.flower_run_id
            return
        checks = self._unattended.get(run.name, 0) + 1
        self._unattended[run.name] = checks
        if checks >= _ORPHAN_CHECKS and (checks >= _STARTING_CHECKS or not self._is_starting(run)):
            self._unattended.pop(run.name)
            self._restart(run)

    def _is_starting(self, run: Run) -> bool:
        """Return whether a server app is on its way to the run."""
        started_at = max((event.at for event in run.events() if event.event == "started"), default=None)
        flower_run_id = run.record().flower_run_id
        if started_at is None or started_at < self.since or flower_run_id is None:
            return False
        if self._attended.get(run.name) == flower_run_id:
            return False  # it came, and is gone: Flower would miss it only after a minute
        state = self.launcher.control().run_state(flower_run_id)
        return state is not None and state.status != "finished"

    def _restart(self, run: Run) -> None:
        reached = len(run.history())
        tries, at = self._restarts.get(run.name, (0, reached))
        tries = tries + 1 if at == reached else 1  # progress since the last restart clears the count
        if tries > _MAX_RESTARTS:
            reason = f"It stopped {_MAX_RESTARTS} times after round {reached - 1}."
            self.launcher.give_up(run, reason=reason)
            return
        log.warning("run %s has nobody at work on it: starting it again from round %d", run.name, reached - 1)
        try:
            # Since it was looked at, an operator may have stopped it: starting it then would be resuming it.
            self.launcher.start(run, expected="running")
        except (ConnectionFailedError, StorageError):
            raise  # the coordinator's own trouble is no fault of the run, and counts for nothing
        except (ConfigError, PeerError) as error:
            log.warning("run %s: %s", run.name, error.message)
        self._restarts[run.name] = (tries, reached)
