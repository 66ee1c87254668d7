"""The round loop: ask members, wait with a bound, check each answer, aggregate, checkpoint, repeat.

Flower's strategies wait up to an hour for a lost message, end a run on one odd answer and forget everything on a crash.
This loop

* asks a member again when it may have lost the question; the member answers the same bytes again, at no privacy cost;
* leaves out who does not answer by the deadline, if enough others did, and does not wait for them again until they return;
* checks each answer by itself: a bad one is left out and counted;
* has each model on disk before the next round, and continues from there.

With open aggregation an update stays valid however the rest of the cohort fares, so that every question of a round
carries attempt 1 and a member is never asked to spend privacy twice on one round.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ringfence.model.errors import DeadlineError, PeerError, RingfenceError
from ringfence.model.plan import Plan
from ringfence.model.round_messages import Refusal, RefusalCode, TrainRequest, TrainUpdate
from ringfence.server.aggregation import RoundQuestion, average_updates, check_update, is_earlier
from ringfence.server.round_channel import Arrival, RoundChannel
from ringfence.server.run_store import Run, RunEvent, event_now

log = logging.getLogger("ringfence.rounds")
OPEN_ATTEMPT = 1
_POLL_S = 0.05
_MAX_PATIENCE_S = 15.0
_MAX_SILENCE_S = 30.0
_PAUSE_S = 1.0
"""Before a member that was reported as not connected is asked again."""


@dataclass(frozen=True, slots=True)
class RosterMember:
    """A member that may take part.

    Attributes:
        id: the member.
        size_class: its public size class, a power of two.
    """

    id: str
    size_class: int


class HeadKeeper(Protocol):
    """Keeps members' signed ledger heads for them; `ringfence.server.ledger_heads.LedgerHeads` is the real one."""

    def newest(self, member: str) -> bytes:
        """Return the newest head that is kept for a member, empty if none is."""
        ...

    def keep(self, member: str, signed_head: bytes) -> None:
        """Keep a head.

        Raises:
            PeerError: the member did not sign it. The member's fault.
        """
        ...


class NoHeads:
    """Keeps nothing: for simulations in one process, whose members have no ledger."""

    def newest(self, member: str) -> bytes:
        """Return nothing."""
        return b""

    def keep(self, member: str, signed_head: bytes) -> None:
        """Keep nothing."""


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class RunStoppedError(RingfenceError):
    """The coordinator stopped the run."""

    code = "run_stopped"


@dataclass(slots=True)
class _Round:
    """What is known of a round in progress, by node id."""

    question: RoundQuestion
    roster: Mapping[int, RosterMember]
    started_at: float
    asked_at: dict[int, float] = field(default_factory=dict)
    changes: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    cohort: set[int] = field(default_factory=set)
    bytes_sent: int = 0
    bytes_received: int = 0


class RoundLoop:
    """Carries a run from its latest checkpoint to its last round.

    Args:
        run: the run's folder, locked by the caller.
        channel: reaches the members.
        roster: returns the members that may take part now, by node id.
        heads: keeps members' ledger heads; `NoHeads` where they have no ledger.
        clock: time.
    """

    def __init__(
        self,
        run: Run,
        *,
        channel: RoundChannel,
        roster: Callable[[], Mapping[int, RosterMember]],
        heads: HeadKeeper | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._run = run
        self._channel = channel
        self._roster = roster
        self._heads = heads or NoHeads()
        self._clock = clock or SystemClock()
        self._signed = run.signed_plan()
        self._late: set[int] = set()

    def carry_out(self) -> NDArray[np.float64]:
        """Run every round that is left; return the model after the last, (d,) float64.

        Raises:
            DeadlineError: too few members answered, as often as the plan allows. The run can be resumed.
            RunStoppedError: the coordinator stopped the run.
        """
        history = self._run.history()
        plan = self._signed.plan
        if len(history) > 1:
            self._run.add_event(event_now("resumed", round=len(history) - 1))
        parameters = history[-1]
        for round_ in range(len(history), plan.training.rounds + 1):
            parameters = self._carry_out_round(round_, parameters, plan)
        return parameters

    def _carry_out_round(
        self, round_: int, parameters: NDArray[np.float64], plan: Plan
    ) -> NDArray[np.float64]:
        question = RoundQuestion(
            run=self._run.name, plan=plan, round=round_, attempt=OPEN_ATTEMPT, parameter_count=parameters.size
        )
        began = self._clock.monotonic()
        state = _Round(question=question, roster=self._roster(), started_at=began)
        for window in range(1, plan.cohort.attempts + 1):
            self._wait(state, parameters, deadline=self._clock.monotonic() + plan.cohort.round_deadline_s)
            if len(state.changes) >= plan.cohort.minimum:
                break
            answered = len(state.changes)
            detail = f"{answered} of at least {plan.cohort.minimum} members, try {window}"
            self._run.add_event(_line(state, "short", detail=detail))
            if self._hopeless(state):
                break
            # Asked anew in the next window, from their outboxes where they had answered.
            state.asked_at.clear()
            state.gone.clear()
        if len(state.changes) < plan.cohort.minimum:
            raise DeadlineError(
                f"Round {round_}: {len(state.changes)} of at least {plan.cohort.minimum} members answered"
                f"{_reasons(state)}.",
                hint="See which members are connected, then: ringfence-coordinator run resume "
                + self._run.name,
            )
        absent = {node for node in state.roster if node not in state.changes and node not in state.refused}
        self._late = absent
        model = average_updates(
            parameters,
            updates={state.roster[node].id: change for node, change in state.changes.items()},
            size_classes={member.id: member.size_class for member in state.roster.values()},
        )
        self._run.save_round(
            round_,
            model,
            contributors={state.roster[node].id: state.roster[node].size_class for node in state.changes},
            event=_line(state, "round", missing=len(absent), seconds=self._clock.monotonic() - began),
        )
        return model

    def _wait(self, state: _Round, parameters: NDArray[np.float64], *, deadline: float) -> None:
        """Ask and collect until everyone who is waited for has answered, or the deadline."""
        plan = state.question.plan
        silence_s = min(plan.cohort.round_deadline_s / 3, _MAX_SILENCE_S)
        patience_s = min(plan.cohort.round_deadline_s / 4, _MAX_PATIENCE_S)
        request = TrainRequest(
            run=self._run.name,
            plan=plan.canonical_json(),
            signature=self._signed.signature,
            round=state.question.round,
            attempt=state.question.attempt,
            parameters=parameters,
        )
        while True:
            if self._run.record().status not in ("created", "running"):
                raise RunStoppedError("The coordinator stopped the run, or gave it up.")
            now = self._clock.monotonic()
            self._follow_roster(state)
            online = self._channel.online() & set(state.roster)
            silent = {
                node
                for node in online - set(state.changes) - set(state.refused)
                if now - state.asked_at.get(node, -math.inf) > (_PAUSE_S if node in state.gone else silence_s)
            }
            if silent:
                requests = {
                    node: replace(request, known_head=self._heads.newest(state.roster[node].id))
                    for node in sorted(silent)
                }
                state.bytes_sent += self._channel.ask(requests, time_to_live_s=deadline - now + 60.0)
                state.cohort |= silent
                state.asked_at.update(dict.fromkeys(silent, now))
                state.gone -= silent
            for arrival in self._channel.collect():
                self._take(state, arrival)
            settled = set(state.changes) | set(state.refused) | self._late
            awaited = set(state.roster) - settled
            if self._clock.monotonic() - state.started_at > patience_s:
                awaited &= online - state.gone
            if (not awaited and len(state.changes) >= plan.cohort.minimum) or self._hopeless(state):
                return
            if self._clock.monotonic() >= deadline:
                return
            self._clock.sleep(_POLL_S)

    def _follow_roster(self, state: _Round) -> None:
        """Take in who was admitted since the round began, and leave out at once who was suspended."""
        roster = self._roster()
        for node in set(state.roster) - set(roster):
            state.changes.pop(node, None)
            state.refused.pop(node, None)
        state.roster = roster

    def _take(self, state: _Round, arrival: Arrival) -> None:
        """Count one answer, or the reason why it does not count."""
        node = arrival.node_id
        state.bytes_received += arrival.size_bytes
        if arrival.round != state.question.round and not isinstance(arrival.answer, TrainUpdate):
            return  # to a question of an earlier round; this round's question is still with the member
        if arrival.gone:
            state.gone.add(node)
            return
        if node in state.changes or node not in state.roster:
            return  # a second answer to a repeated question is the same answer; a suspended member has none
        if isinstance(arrival.answer, Refusal):
            if arrival.answer.code is RefusalCode.BUSY:
                state.asked_at[node] = self._clock.monotonic()
            else:
                state.refused[node] = arrival.answer.code.value
            return
        try:
            if arrival.answer is None:
                raise PeerError("The answer cannot be read.")
            if not isinstance(arrival.answer, TrainUpdate):
                raise PeerError("The answer is to a question of another kind.")
            if is_earlier(arrival.answer, question=state.question):
                # Of a round that went on without it. It was charged all the same, and its head is the member's newest.
                self._heads.keep(state.roster[node].id, arrival.answer.ledger_head)
                return
            change = check_update(arrival.answer, question=state.question)
            self._heads.keep(state.roster[node].id, arrival.answer.ledger_head)
            state.changes[node] = change
            state.refused.pop(node, None)  # the refusal was of the same question, asked before
            self._late.discard(node)
        except PeerError as error:
            log.warning("round %d: an answer is left out: %s", state.question.round, error.message)
            state.refused[node] = "invalid"

    def _hopeless(self, state: _Round) -> bool:
        """Return whether so many refused that the minimum is out of reach in this round."""
        possible = len(state.roster) - len(state.refused)
        return bool(state.roster) and bool(state.refused) and possible < state.question.plan.cohort.minimum


def _line(state: _Round, event: str, *, missing: int = 0, seconds: float = 0.0, detail: str = "") -> RunEvent:
    return event_now(
        event,
        round=state.question.round,
        asked=len(state.cohort),
        answered=len(state.changes),
        missing=missing,
        refused=len(state.refused),
        bytes_sent=state.bytes_sent,
        bytes_received=state.bytes_received,
        seconds=round(seconds, 3),
        detail=detail or _reasons(state).strip(" ()"),
    )


def _reasons(state: _Round) -> str:
    counts = Counter(state.refused.values())
    if not counts:
        return ""
    return " (" + ", ".join(f"{count} refused: {reason}" for reason, count in sorted(counts.items())) + ")"
