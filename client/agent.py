"""The member agent: takes part in rounds, on the member's terms, for as long as it runs.

It opens no port. It pulls a message, checks it against the member's own rules, has the worker answer it, keeps the answer
on disk, has the firewall clear it, and only then sends it. The coordinator's bundle is never fetched and its words are never run. When the
connection breaks the agent comes back, a little later each time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ringfence.client.agent_condition import AgentCondition, agent_lock_file
from ringfence.client.answer_timing import SHARE_OF_DEADLINE, padded_until
from ringfence.client.answering import Answering, Outgoing
from ringfence.client.audit_against_ledger import verify_departures
from ringfence.client.audit_log import AuditLog
from ringfence.client.firewall import Cleared, Firewall, question_of
from ringfence.client.flower_adapter import FleetConnection, FleetTask, RunOverError
from ringfence.client.identity_expiry import require_valid
from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import MemberLedger, open_member_ledger
from ringfence.client.member_settings import MemberSettings, load_member_settings
from ringfence.client.policy import load_policy
from ringfence.client.policy_gate import PolicyGate
from ringfence.client.refusals import refusal_code
from ringfence.client.release_following import ReleaseFollower
from ringfence.client.renewal import renewing
from ringfence.client.retention import DAY_S, apply_retention
from ringfence.client.withdrawals import Withdrawals
from ringfence.client.worker import Worker
from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError, RingfenceError
from ringfence.model.round_messages import Refusal
from ringfence.model.service_notice import ServiceNotice

log = logging.getLogger("ringfence.agent")
_SHORTEST_SLOT_S = 30.0
_LONGEST_SLOT_S = 3600.0
_BEAT_S = 10.0
_LOCK_TRIES = 10
_NEVER = object()


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to wait before the next try: doubling, capped, with jitter so that members do not return in step.

    Attributes:
        base_s: before the second try.
        cap_s: the longest wait.
    """

    base_s: float = 0.5
    cap_s: float = 30.0

    def wait_s(self, failures: int, *, jitter: float) -> float:
        """Return the seconds to wait after this many failures in a row; ``jitter`` is in [0, 1)."""
        return float(min(self.cap_s, self.base_s * 2 ** min(failures - 1, 20))) * (0.5 + 0.5 * jitter)


class Agent:
    """One member's agent.

    Args:
        home: the member's folder.
        settings: the member's settings.
        answering: decides what shall leave.
        ledger: says what was charged, and is told what left.
        firewall: clears what shall leave, and records it.
        connect: opens the fleet connection.
        poll_s: least seconds between two questions to the coordinator for work that it had none for.
        retry: how to come back after a lost connection.
        pad_to_share: answers leave at the end of slots of this share of the round's deadline; 0 for no padding.
        condition: takes down how the agent is.
    """

    def __init__(
        self,
        home: MemberHome,
        *,
        settings: MemberSettings,
        answering: Answering,
        ledger: MemberLedger,
        firewall: Firewall,
        connect: Callable[[], AbstractContextManager[FleetConnection]],
        poll_s: float = 0.25,
        retry: Retry | None = None,
        pad_to_share: float = 0.0,
        condition: AgentCondition | None = None,
    ) -> None:
        self._home = home
        self._settings = settings
        self._answering = answering
        self._ledger = ledger
        self._firewall = firewall
        self._pad_to_share = pad_to_share
        self._connect = connect
        self._poll_s = poll_s
        self._retry = retry or Retry()
        self._withdrawals = Withdrawals(home, owner=ledger)
        self._looked_at: object = _NEVER
        self._house_due_at = 0.0
        self._condition = condition or AgentCondition(home, notice=ServiceNotice())

    def run(self, stop: threading.Event) -> None:
        """Take part until ``stop`` is set.

        Raises:
            ConfigError: the member's own files are not in order; trying again would not help.
            AuditBrokenError: what left before can no longer be proven, and so nothing more leaves.
        """
        failures = 0
        while not stop.is_set():
            # Also while the coordinator is away, for however long: what is over its time goes all the same.
            self._keep_house()
            try:
                with self._connect() as connection:
                    (self._home.agent / "node-id").write_text(str(connection.node_id))
                    log.info("connected to %s as %s", self._settings.fleet_address, self._settings.member)
                    self._condition.connected(self._settings.fleet_address)
                    failures = 0
                    self._take_part(connection, stop)
            except ConnectionFailedError as error:
                failures += 1
                wait_s = self._retry.wait_s(failures, jitter=random.random())  # noqa: S311 - not a secret
                log.warning("%s Next try in %.0f s. %s", error.message, wait_s, error.hint)
                self._condition.disconnected(error)
                self._pause(wait_s, stop=stop)

    def _take_part(self, connection: FleetConnection, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._condition.alive()
                self._keep_house()
                asked_at = time.monotonic()
                task = connection.receive(stop=stop)
                if task is None:
                    # A coordinator that holds no questions answers at once, and is not asked more often than this.
                    stop.wait(max(0.0, self._poll_s - (time.monotonic() - asked_at)))
                    continue
                asked_at = time.monotonic()
                outgoing = self._answering.answer(task)
                if self._wait_for_slot(outgoing, asked_at=asked_at, stop=stop):
                    self._send(connection, task, outgoing)
            except RunOverError as error:
                log.info("%s", error.message)
                stop.wait(self._poll_s)
            except ConnectionFailedError:
                raise
            except PeerError as error:
                log.warning("a message was left out: %s", error.message)
                stop.wait(self._poll_s)

    def _keep_house(self) -> None:
        """Withdraw what a request to forget somebody has left to the agent; once a day, remove what is over its time."""
        stamp = self._withdrawals.stamp()
        if stamp != self._looked_at:
            self._looked_at = stamp
            try:
                self._withdrawals.settle()
            except RingfenceError as error:
                # Said once; until it is mended nothing leaves, because every answer asks for it again.
                log.error("answers could not be withdrawn: %s %s", error.message, error.hint)
        now = time.time()
        if now < self._house_due_at:
            return
        self._house_due_at = now + DAY_S
        try:
            apply_retention(self._home, policy=load_policy(self._home), now=now, owner=self._ledger)
        except RingfenceError as error:
            log.warning("what is over its time could not be removed: %s %s", error.message, error.hint)

    def _wait_for_slot(self, outgoing: Outgoing, *, asked_at: float, stop: threading.Event) -> bool:
        """Wait until an answer may leave; return False if the agent is to stop instead. It will be asked again."""
        if outgoing.plan is None or not self._pad_to_share:
            return True  # without a checked plan it is a refusal that depends on nothing of this member's
        now = time.monotonic()
        # The plan sets the deadline, so it could set it to nothing, or to days.
        slot_s = min(
            max(outgoing.plan.cohort.round_deadline_s * self._pad_to_share, _SHORTEST_SLOT_S), _LONGEST_SLOT_S
        )
        return not self._pause(padded_until(now, asked_at=asked_at, slot_s=slot_s) - now, stop=stop)

    def _pause(self, seconds: float, *, stop: threading.Event) -> bool:
        """Wait so long, saying now and then that the agent turns; return whether it is to stop."""
        left_s = seconds
        while left_s > 0 and not stop.wait(min(left_s, _BEAT_S)):
            self._condition.alive()
            left_s -= _BEAT_S
        return stop.is_set()

    def _send(self, connection: FleetConnection, task: FleetTask, outgoing: Outgoing) -> None:
        connection.answer(task, self._cleared(outgoing))

    def _cleared(self, outgoing: Outgoing) -> Cleared:
        answer, request, plan = outgoing.answer, outgoing.request, outgoing.plan
        question = None if request is None or plan is None else question_of(request, plan=plan)
        try:
            if isinstance(answer, Refusal) or request is None:
                return self._firewall.clear(answer, question=question)
            # It may have waited for an hour: it is looked at as it stands now, while nobody can be forgotten.
            with self._withdrawals.held():
                cleared = self._firewall.clear(
                    answer, question=question, charged=self._ledger.charged(request)
                )
                # Before the first byte goes: a coordinator that breaks off at the last one must not keep an answer "unsent".
                self._ledger.mark_sent(request)
            return cleared
        except RingfenceError as error:
            log.error("an answer stays here: %s %s", error.message, error.hint)
            # If it is the audit log that is broken or cannot be written, this does not leave either.
            return self._firewall.clear(Refusal(refusal_code(error)), question=question)


def run_agent(home: MemberHome, *, stop: threading.Event, poll_s: float = 0.25) -> None:
    """Run the agent of a member's folder until ``stop`` is set.

    Raises:
        ConfigError: the member has not joined, or its files are not in order, or another agent runs on them.
        AuditBrokenError: the audit log is not the one that was written, or not that of the ledger.
    """
    settings = load_member_settings(home)
    for file in (home.key_file, home.certificate_file, home.ca_file):
        if not file.is_file():
            raise ConfigError(f"{file} is missing.", hint="Join first: ringfence join INVITATION")
    policy = load_policy(home)
    home.agent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def connect() -> FleetConnection:
        # Read anew each time: a renewed certificate is used from the next connection on, and one that ran out is named.
        require_valid(home, now=datetime.now(UTC))
        return FleetConnection(
            settings.fleet_address,
            ca_file=home.ca_file,
            certificate_file=home.certificate_file,
            key_file=home.key_file,
            last_node_id=_last_node_id(home.agent / "node-id"),
        )

    with ExitStack() as stack:
        stack.enter_context(_only_agent(agent_lock_file(home)))
        condition = AgentCondition(home, notice=ServiceNotice.from_environment())
        ledger = stack.enter_context(
            open_member_ledger(
                home,
                terms=policy.ledger_terms(settings.data.lineage),
                anchor_file=policy.anchor_file(home),
                federation=settings.federation,
                now=time.time,
            )
        )
        # Before a log is made where there is none: one that was taken away must not begin anew.
        verify_departures(home)
        firewall = Firewall(AuditLog.of(home, for_agent=True), destination=settings.fleet_address)
        gate = PolicyGate(home, ledger=ledger, now=lambda: datetime.now(UTC))
        worker = stack.enter_context(Worker(home, stop=stop, alive=condition.alive))
        answering = Answering(
            settings=settings,
            worker=worker,
            ledger=ledger,
            permit=gate.permit,
            forgetting=Withdrawals(home, owner=ledger),
        )
        stack.enter_context(renewing(home, now=lambda: datetime.now(UTC)))
        stack.enter_context(ReleaseFollower(home, report=condition.looked_for_release))
        condition.started()
        Agent(
            home,
            settings=settings,
            answering=answering,
            ledger=ledger,
            firewall=firewall,
            connect=connect,
            poll_s=poll_s,
            pad_to_share=SHARE_OF_DEADLINE if policy.answers.pad_timing else 0.0,
            condition=condition,
        ).run(stop)
        condition.stopping()
    condition.stopped()


def _last_node_id(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _only_agent(path: Path) -> AbstractContextManager[object]:
    import fcntl

    file = path.open("w")
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if tries_left:
                time.sleep(0.05)  # perhaps only somebody who asked for the status
                continue
            file.close()
            raise ConfigError(
                "Another agent runs on this folder.", hint="Stop it first, or use another --home."
            ) from error
    return file
