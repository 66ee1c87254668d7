"""What a member sees of the federation's runs: where they stand, and their events as they happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from ringfence.model.channels import CALL_DEADLINE_S
from ringfence.model.errors import DeadlineError, PeerError
from ringfence.model.progress_messages import event_value, summary_value
from ringfence.model.run_progress import NumberedEvent, RunSummary
from ringfence.model.wire import federation_service_pb2 as wire
from ringfence.model.wire.federation_service_pb2_grpc import FederationServiceStub
from ringfence.model.wire_errors import from_call, is_transient

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_MOST_FAILURES = 20


@dataclass(frozen=True, slots=True)
class RunDetail:
    """One run and its finished rounds.

    Attributes:
        summary: where it stands.
        rounds: one event for each finished round.
    """

    summary: RunSummary
    rounds: tuple[NumberedEvent, ...]


class FederationClient:
    """The runs of the federation, over the member's own connection.

    Args:
        channel: to the coordinator's control plane.
        sleep: waits for some seconds.
    """

    def __init__(self, channel: grpc.Channel, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._stub = FederationServiceStub(channel)
        self._sleep = sleep

    def list_runs(self, *, limit: int = 0) -> tuple[RunSummary, ...]:
        """Return the newest runs, newest first; at most ``limit``, 0 for the coordinator's choice.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses.
        """
        try:
            response = self._stub.ListRuns(wire.ListRunsRequest(limit=limit), timeout=CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return tuple(summary_value(run) for run in response.runs)

    def get_run(self, name: str) -> RunDetail:
        """Return one run.

        Raises:
            RingfenceError: the coordinator cannot be reached or refuses, or there is no such run.
        """
        try:
            response = self._get_run(name)
        except grpc.RpcError as error:
            raise from_call(error) from error
        return RunDetail(summary_value(response.run), tuple(event_value(event) for event in response.rounds))

    def watch(self, run: str, *, after: int = 0, timeout_s: float) -> Iterator[NumberedEvent]:
        """Yield a run's events as they happen, until it has ended.

        When the connection breaks or the coordinator starts anew, the watch goes on after the last event that came: none is
        missed and none comes twice.

        Args:
            run: its name.
            after: number of the last event that the caller has.
            timeout_s: seconds to watch at most.

        Raises:
            DeadlineError: the run has not ended by then.
            RingfenceError: the coordinator refuses, or cannot be reached for long, or there is no such run.
        """
        deadline = time.monotonic() + timeout_s
        failures = 0
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(
                    f"The run {run} has not ended within {timeout_s:.0f} s; it goes on.",
                    hint=f"Follow it: ringfence runs watch {run}",
                )
            try:
                for event in self._stream(run, after=after, timeout_s=left_s):
                    if event.number != after + 1:
                        raise PeerError("The coordinator left out an event.", hint="Watch the run again.")
                    after, failures = event.number, 0
                    yield event
                if summary_value(self._get_run(run).run).has_ended:
                    return
                self._sleep(_FIRST_WAIT_S)  # the coordinator ended the watch, not the run: it starts anew
            except grpc.RpcError as error:
                failures += 1
                if not is_transient(error) or failures >= _MOST_FAILURES:
                    raise from_call(error) from error
                wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (failures - 1))
                self._sleep(max(0.0, min(wait_s, deadline - time.monotonic())))

    def _get_run(self, name: str) -> wire.GetRunResponse:
        return self._stub.GetRun(wire.GetRunRequest(name=name), timeout=CALL_DEADLINE_S)

    def _stream(self, run: str, *, after: int, timeout_s: float) -> Iterator[NumberedEvent]:
        # A watch may last longer than the longest deadline that the coordinator takes: it has none, and is ended from here.
        call = self._stub.WatchEvents(wire.WatchEventsRequest(run=run, after=after))
        ending = threading.Timer(timeout_s, call.cancel)
        ending.daemon = True
        ending.start()
        try:
            for message in call:
                yield event_value(message.event)
        finally:
            ending.cancel()
            call.cancel()  # type: ignore[no-untyped-call]  # the stubs forget its type
