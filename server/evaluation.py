"""After the last round: the cohort is asked once how well the published model does, and answers with noised histograms.

Their sum is all that is kept. One member's histogram cannot end the run or drown the others': it is checked, and each count
is cut to what a member of that public size could have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ringfence.model.errors import PeerError
from ringfence.model.evaluation_messages import EvaluateRequest, EvaluateUpdate
from ringfence.model.plan import Plan
from ringfence.model.round_messages import Refusal, RefusalCode
from ringfence.privacy.score_histogram import CELLS, LARGEST_COUNT
from ringfence.server.aggregation import published_model
from ringfence.server.evaluation_record import EvaluationRecord, load_evaluation, save_evaluation
from ringfence.server.round_channel import Arrival, RoundChannel
from ringfence.server.round_loop import (
    Clock,
    HeadKeeper,
    NoHeads,
    RosterMember,
    RunStoppedError,
    SystemClock,
)
from ringfence.server.run_store import Run, event_now

log = logging.getLogger("ringfence.rounds")
_POLL_S = 0.05
_MAX_SILENCE_S = 30.0
_NOISE_DEVIATIONS = 8.0
_ROOM_TO_GROW = 4


@dataclass(slots=True)
class _Asked:
    """What is known of an evaluation in progress, by node id."""

    members: Mapping[int, RosterMember]
    asked_at: dict[int, float] = field(default_factory=dict)
    histograms: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)


class Evaluation:
    """Asks those who contributed to a run how well its model does, once.

    Args:
        run: the run's folder, locked by the caller; its rounds are done.
        channel: reaches the members.
        roster: returns the members that may take part now, by node id.
        heads: keeps members' ledger heads.
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

    def carry_out(self) -> EvaluationRecord | None:
        """Return what the cohort's histograms add up to, on disk; None where the plan has no evaluation or too few answered.

        Too few answers do not fail the run: its model is what it is, and the release says that nothing was measured.

        Raises:
            RunStoppedError: the coordinator stopped the run.
        """
        signed = self._run.signed_plan()
        noise = signed.plan.privacy.evaluation_noise_multiplier
        if noise is None:
            return None
        if (known := load_evaluation(self._run)) is not None:
            return known
        # The same model after every crash, so that members who answered before send the same bytes again.
        parameters = published_model(self._run.history(), averaging=signed.plan.training.averaging)
        request = EvaluateRequest(
            run=self._run.name,
            plan=signed.plan.canonical_json(),
            signature=signed.signature,
            parameters=parameters,
        )
        began = self._clock.monotonic()
        state = self._ask_all(request, plan=signed.plan)
        answered = len(state.histograms)
        if answered < signed.plan.cohort.minimum:
            self._run.add_event(
                event_now("not-evaluated", answered=answered, missing=len(state.members) - answered)
            )
            return None
        record = EvaluationRecord(
            plan_sha256=signed.plan.digest(),
            members=answered,
            noise_multiplier=noise,
            histogram=tuple(int(count) for count in np.sum(list(state.histograms.values()), axis=0)),
        )
        save_evaluation(self._run, record=record)
        self._run.add_event(
            event_now(
                "evaluated",
                answered=answered,
                missing=len(state.members) - answered,
                seconds=round(self._clock.monotonic() - began, 3),
            )
        )
        return record

    def _ask_all(self, request: EvaluateRequest, *, plan: Plan) -> _Asked:
        deadline_s = plan.cohort.round_deadline_s
        deadline = self._clock.monotonic() + deadline_s
        silence_s = min(deadline_s / 3, _MAX_SILENCE_S)
        state = _Asked(members=self._contributors())
        while True:
            if self._run.record().status not in ("created", "running"):
                raise RunStoppedError("The coordinator stopped the run, or gave it up.")
            now = self._clock.monotonic()
            state.members = self._contributors()
            waiting = set(state.members) - set(state.histograms) - state.settled
            if not waiting or now >= deadline:
                break
            silent = {
                node
                for node in waiting & self._channel.online()
                if now - state.asked_at.get(node, -silence_s) >= silence_s
            }
            if silent:
                requests = {
                    node: replace(request, known_head=self._heads.newest(state.members[node].id))
                    for node in sorted(silent)
                }
                self._channel.ask(requests, time_to_live_s=deadline - now + 60.0)
                state.asked_at.update(dict.fromkeys(silent, now))
            for arrival in self._channel.collect():
                self._take(state, arrival, request=request, plan=plan)
            self._clock.sleep(_POLL_S)
        # A member that was suspended meanwhile does not count.
        state.histograms = {
            node: counts for node, counts in state.histograms.items() if node in state.members
        }
        return state

    def _contributors(self) -> dict[int, RosterMember]:
        contributed = self._run.contributors()
        return {node: member for node, member in self._roster().items() if member.id in contributed}

    def _take(self, state: _Asked, arrival: Arrival, *, request: EvaluateRequest, plan: Plan) -> None:
        node, answer = arrival.node_id, arrival.answer
        if arrival.round and not isinstance(answer, EvaluateUpdate):
            return  # to a question of the last round; this one is still with the member
        if arrival.gone:
            state.asked_at.pop(node, None)
            return
        if node in state.histograms or node not in state.members:
            return
        if isinstance(answer, Refusal):
            if answer.code is not RefusalCode.BUSY:
                state.settled.add(node)
            return
        try:
            if not isinstance(answer, EvaluateUpdate):
                raise PeerError("The answer cannot be read, or is of another kind.")
            member = state.members[node]
            counts = check_histogram(answer, run=request.run, plan=plan, size_class=member.size_class)
            self._heads.keep(member.id, answer.ledger_head)
            state.histograms[node] = counts
        except PeerError as error:
            log.warning("evaluation: an answer is left out: %s", error.message)
            state.settled.add(node)


def check_histogram(update: EvaluateUpdate, *, run: str, plan: Plan, size_class: int) -> NDArray[np.int64]:
    """Return a member's counts, ``(CELLS,)`` int64, each cut to what a member of its public size could have.

    Raises:
        PeerError: it answers another question, or is no histogram. The member's fault.
    """
    if (update.run, update.plan_digest) != (run, plan.digest()):
        raise PeerError("The histogram belongs to another run or plan.")
    counts = update.histogram
    if counts.shape != (CELLS,) or counts.dtype != np.int64 or (np.abs(counts) > LARGEST_COUNT).any():
        raise PeerError("The histogram has another shape.")
    slack = int(np.ceil(_NOISE_DEVIATIONS * (plan.privacy.evaluation_noise_multiplier or 0.0)))
    cut: NDArray[np.int64] = np.clip(counts, -slack, _ROOM_TO_GROW * size_class + slack)
    return cut
