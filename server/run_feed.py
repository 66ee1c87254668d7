"""Following runs on behalf of everybody who watches: each history is read once a moment, however many watch it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ringfence.model.errors import ConfigError, NotFoundError, PeerError, RingfenceError
from ringfence.model.run_progress import UNDER_WAY, NumberedEvent, RunSummary
from ringfence.server.run_store import Run, RunEvent, RunStore

log = logging.getLogger("ringfence.control")
POLL_S = 0.5


def summarise(run: Run) -> RunSummary:
    """Return where a run stands.

    Raises:
        ConfigError: it cannot be read. The operator's to mend.
    """
    record, plan = run.record(), run.signed_plan().plan
    return RunSummary(
        name=run.name,
        status=record.status,
        rounds_done=run.rounds_done(),
        rounds=plan.training.rounds,
        purpose=plan.purpose,
        plan_digest=plan.digest(),
        reason=record.reason,
    )


def numbered(events: list[RunEvent], *, after: int = 0) -> list[NumberedEvent]:
    """Return events with their places in the history, the first being number ``after + 1``."""
    return [
        NumberedEvent(
            number=number,
            at=event.at,
            event=event.event,
            round=event.round,
            asked=event.asked,
            answered=event.answered,
            missing=event.missing,
            refused=event.refused,
            seconds=event.seconds,
            bytes_sent=event.bytes_sent,
            bytes_received=event.bytes_received,
            detail=event.detail,
        )
        for number, event in enumerate(events, start=after + 1)
    ]


@dataclass(slots=True)
class _Followed:
    """One run that somebody watches."""

    run: Run
    events: list[NumberedEvent] = field(default_factory=list)
    has_ended: bool = False
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self) -> None:
        """Take in what happened since the last time, and tell who waits for it."""
        async with self.lock:
            # The status first: events that come after it is read are found in the next turn.
            status = (await asyncio.to_thread(self.run.record)).status
            new = await asyncio.to_thread(lambda: self.run.events(after=len(self.events)))
            self.events += numbered(new, after=len(self.events))
            ended = status not in UNDER_WAY
            if new or ended != self.has_ended:
                self.has_ended = ended
                changed, self.changed = self.changed, asyncio.Event()
                changed.set()


class RunFeed:
    """Yields the events of runs as they happen. Belongs to one event loop.

    Args:
        store: the runs.
        poll_s: seconds between two looks at a run that is watched.
    """

    def __init__(self, store: RunStore, *, poll_s: float = POLL_S) -> None:
        self._store = store
        self._poll_s = poll_s
        self._followed: dict[str, _Followed] = {}
        self._closed = asyncio.Event()

    def open(self, name: str) -> Run:
        """Return a run.

        Raises:
            NotFoundError: there is none of that name. The caller's fault.
        """
        try:
            return self._store.open(name)
        except ConfigError as error:
            raise NotFoundError("There is no such run.", hint="List the runs.") from error

    async def follow(self, name: str, *, after: int) -> AsyncIterator[NumberedEvent]:
        """Yield a run's events from a place in its history on, until the run has ended or the feed is closed.

        Args:
            name: of the run.
            after: number of the last event that the caller has, 0 for none.

        Raises:
            NotFoundError: there is no such run. The caller's fault.
            PeerError: the history has no event of that number. The caller's fault.
        """
        followed = await self._attach(name)
        try:
            if after > len(followed.events):
                await followed.read()  # the caller may have read the history itself, later than this feed
            if not 0 <= after <= len(followed.events):
                raise PeerError("The run's history has no such event.", hint="Watch it from its start.")
            while True:
                changed, ended = followed.changed, followed.has_ended
                new = followed.events[after:]
                for event in new:
                    yield event
                after += len(new)
                if ended or self._closed.is_set():
                    return
                if changed is followed.changed:
                    await self._either(changed)
        finally:
            self._detach(followed)

    async def close(self) -> None:
        """End every watch: the listener goes, and a watcher comes back to the next one with the last number it has."""
        self._closed.set()
        for followed in list(self._followed.values()):
            await _stop(followed)
        self._followed.clear()

    async def _attach(self, name: str) -> _Followed:
        followed = self._followed.get(name)
        if followed is None or followed.has_ended:
            # A run that has ended may have been resumed: it is looked at anew.
            followed = _Followed(await asyncio.to_thread(self.open, name))
            await followed.read()
            if not followed.has_ended and not self._closed.is_set():
                known = self._followed.get(name)
                if known is not None and not known.has_ended:
                    followed = known  # another watcher came first while this one read
                else:
                    self._followed[name] = followed
                    followed.reading = asyncio.create_task(self._keep_reading(followed))
        followed.watchers += 1
        return followed

    def _detach(self, followed: _Followed) -> None:
        followed.watchers -= 1
        if not followed.watchers:
            if followed.reading is not None:
                followed.reading.cancel()
            if self._followed.get(followed.run.name) is followed:
                del self._followed[followed.run.name]

    async def _keep_reading(self, followed: _Followed) -> None:
        while not followed.has_ended:
            await asyncio.sleep(self._poll_s)
            try:
                await followed.read()
            except (RingfenceError, OSError) as error:
                # Watchers wait: the next look may succeed, and they have bounds of their own.
                log.error("the history of run %s cannot be read: %s", followed.run.name, type(error).__name__)

    async def _either(self, changed: asyncio.Event) -> None:
        waits = {asyncio.create_task(event.wait()) for event in (changed, self._closed)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _stop(followed: _Followed) -> None:
    if followed.reading is not None:
        followed.reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await followed.reading
