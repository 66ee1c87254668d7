"""What the control plane tells Prometheus: runs as sums over the cohort, members only by when they last called.

No figure about an answer carries a member's name, nor a name of anything that only one member did.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ringfence.model.errors import RingfenceError
from ringfence.model.run_progress import NumberedEvent
from ringfence.server.members import MemberRegistry
from ringfence.server.run_feed import numbered
from ringfence.server.run_store import Run, RunStore

log = logging.getLogger("ringfence.control")
MOST_RUNS = 20
_COUNTERS: Mapping[str, str] = {
    "asked": "Members that were asked, summed over rounds.",
    "answered": "Answers that were used, summed over rounds.",
    "refused": "Answers that were a code instead of an update, summed over rounds.",
    "overdue": "Members that were asked and had not answered by the deadline, summed over rounds.",
    "bytes_sent": "Content of all questions.",
    "bytes_received": "Content of all answers.",
    "short": "Tries of a round that ended with too few answers.",
}


@dataclass(slots=True)
class _Totals:
    """What is known of one run; its history is read on from where it was read before."""

    seen: int = 0
    sums: Counter[str] | None = None
    last_seconds: float = 0.0
    last_answered: int = 0

    def take(self, events: list[NumberedEvent]) -> None:
        sums = self.sums if self.sums is not None else Counter()
        for event in events:
            self.seen = event.number
            if event.event == "short":
                sums["short"] += 1
            if event.event != "round":
                continue
            sums.update(
                asked=event.asked,
                answered=event.answered,
                refused=event.refused,
                overdue=max(0, event.asked - event.answered - event.refused),
                bytes_sent=event.bytes_sent,
                bytes_received=event.bytes_received,
            )
            self.last_seconds, self.last_answered = event.seconds, event.answered
        self.sums = sums


class ControlMetrics(Collector):
    """Collects at each scrape.

    Args:
        store: the runs.
        registry: all members.
        last_call_at: when each member last called the control plane.
        outcomes: calls by how they were met, of all callers together.
        certificate_expires_at: returns when the listeners' certificate runs out.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        registry: MemberRegistry,
        last_call_at: Mapping[str, datetime],
        outcomes: Mapping[str, int],
        certificate_expires_at: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._registry = registry
        self._last_call_at = last_call_at
        self._outcomes = outcomes
        self._certificate_expires_at = certificate_expires_at
        self._totals: dict[str, _Totals] = {}
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """Name nothing in advance: registering must not read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every figure; what cannot be read is left out and said by ringfence_storage_up."""
        calls = CounterMetricFamily(
            "ringfence_control_calls", "Calls of members, by how they were met.", labels=["outcome"]
        )
        for outcome, count in sorted(dict(self._outcomes).items()):
            calls.add_metric([outcome], count)
        yield calls
        last = GaugeMetricFamily(
            "ringfence_member_last_call_timestamp_seconds",
            "When a member last called the control plane, since this process serves.",
            labels=["member"],
        )
        for member, at in sorted(dict(self._last_call_at).items()):
            last.add_metric([member], at.timestamp())
        yield last
        up = True
        try:
            with self._lock:
                yield from [*self._of_members(), *self._of_runs()]
            yield GaugeMetricFamily(
                "ringfence_listener_certificate_expires_timestamp_seconds",
                "When the certificate that members see runs out.",
                value=self._certificate_expires_at().timestamp(),
            )
        except (RingfenceError, OSError, ValueError) as error:
            up = False
            log.error("figures cannot be read: %s", type(error).__name__)
        yield GaugeMetricFamily(
            "ringfence_storage_up", "1 if what the coordinator keeps could be read.", value=float(up)
        )

    def _of_members(self) -> Iterator[Metric]:
        counts = Counter(member.status for member in self._registry.all())
        family = GaugeMetricFamily("ringfence_members", "Members, by status.", labels=["status"])
        for status in ("active", "suspended", "removed"):
            family.add_metric([status], counts[status])
        yield family

    def _of_runs(self) -> Iterator[Metric]:
        runs = self._store.all()
        statuses = Counter(run.record().status for run in runs)
        family = GaugeMetricFamily("ringfence_runs", "Runs, by status.", labels=["status"])
        for status in ("created", "running", "completed", "failed", "stopped"):
            family.add_metric([status], statuses[status])
        yield family
        newest = runs[-MOST_RUNS:]
        self._totals = {run.name: self._totals_of(run) for run in newest}
        for name, words in _COUNTERS.items():
            counter = CounterMetricFamily(f"ringfence_run_{name}", words, labels=["run"])
            for run in newest:
                counter.add_metric([run.name], (self._totals[run.name].sums or Counter())[name])
            yield counter
        gauges: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
            ("rounds_done", "Rounds whose model is kept.", lambda run: run.rounds_done()),
            ("rounds", "Rounds that the plan asks for.", lambda run: run.signed_plan().plan.training.rounds),
            ("round_seconds", "How long the last round took.", lambda run: self._totals[run.name].last_seconds),
            ("round_answered", "Answers that the last round used.", lambda run: self._totals[run.name].last_answered),
        )  # fmt: skip
        for name, words, value in gauges:
            gauge = GaugeMetricFamily(f"ringfence_run_{name}", words, labels=["run"])
            for run in newest:
                gauge.add_metric([run.name], value(run))
            yield gauge

    def _totals_of(self, run: Run) -> _Totals:
        totals = self._totals.get(run.name) or _Totals()
        totals.take(numbered(run.events(after=totals.seen), after=totals.seen))
        return totals
