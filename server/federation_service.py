"""FederationService: how training runs come along, to active members. Counts over the cohort, nothing of one member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ringfence.model.errors import PeerError
from ringfence.model.progress_messages import (
    event_message,
    for_members,
    summary_for_members,
    summary_message,
)
from ringfence.model.wire import federation_service_pb2 as wire
from ringfence.model.wire import federation_service_pb2_grpc as wire_grpc
from ringfence.server.call_guard import Context, calling_member
from ringfence.server.run_feed import RunFeed, numbered, summarise
from ringfence.server.run_store import RunStore

MOST_RUNS = 100


class FederationService(wire_grpc.FederationServiceServicer):
    """Tells of the runs of one coordinator.

    Args:
        store: the runs.
        feed: follows them.
    """

    def __init__(self, store: RunStore, *, feed: RunFeed) -> None:
        self._store = store
        self._feed = feed

    async def ListRuns(  # noqa: N802 - the name in the .proto file
        self, request: wire.ListRunsRequest, context: Context
    ) -> wire.ListRunsResponse:
        """List the newest runs."""
        calling_member()
        if request.limit < 0:
            raise PeerError("A limit is 0 or more.")
        newest = min(request.limit or MOST_RUNS, MOST_RUNS)

        def read() -> wire.ListRunsResponse:
            runs = self._store.all()[-newest:]
            return wire.ListRunsResponse(
                runs=[summary_message(summary_for_members(summarise(run))) for run in reversed(runs)]
            )

        return await asyncio.to_thread(read)

    async def GetRun(  # noqa: N802 - the name in the .proto file
        self, request: wire.GetRunRequest, context: Context
    ) -> wire.GetRunResponse:
        """Return one run with its finished rounds."""
        calling_member()

        def read() -> wire.GetRunResponse:
            run = self._feed.open(request.name)
            rounds = [event for event in numbered(run.events()) if event.event == "round"]
            return wire.GetRunResponse(
                run=summary_message(summary_for_members(summarise(run))),
                rounds=[event_message(for_members(event)) for event in rounds],
            )

        return await asyncio.to_thread(read)

    async def WatchEvents(  # noqa: N802 - the name in the .proto file
        self, request: wire.WatchEventsRequest, context: Context
    ) -> AsyncIterator[wire.WatchEventsResponse]:
        """Stream a run's events from a place in its history until it has ended."""
        calling_member()
        async for event in self._feed.follow(request.run, after=request.after):
            yield wire.WatchEventsResponse(event=event_message(for_members(event)))
