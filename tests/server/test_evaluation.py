"""The cohort is asked once; what comes back is checked one by one; only the sum is kept, and it says how sure it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from databases import run_store
from round_table import FakeClock

from ringfence.model.errors import ConfigError
from ringfence.model.evaluation_messages import EvaluateRequest, EvaluateUpdate
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import Refusal, RefusalCode, RoundRequest, TrainUpdate
from ringfence.privacy.score_histogram import CELLS
from ringfence.server.evaluation import Evaluation
from ringfence.server.evaluation_record import (
    EVALUATION_FILE,
    EvaluationRecord,
    load_evaluation,
    quality_report,
)
from ringfence.server.round_channel import Arrival
from ringfence.server.round_loop import RosterMember, RunStoppedError
from ringfence.server.run_store import Run, SignedPlan

NOISE = 4.0
COUNTS = np.concatenate([np.arange(32, 16, -1) * 8, np.arange(16) * 4]).astype(np.int64)
ROSTER = {
    node: RosterMember(id=name, size_class=256) for node, name in enumerate(("acme", "beta", "gamma"), 1)
}
Said = EvaluateUpdate | TrainUpdate | Refusal | None
Behaviour = Callable[[EvaluateRequest], "Said | str"]


def plan(noise: float | None = NOISE) -> Plan:
    return Plan(
        name="spring",
        federation="test",
        training=TrainingTerms(feature_set_sha256="f" * 64, rounds=2, averaging="last"),
        privacy=PrivacyTerms(noise_multiplier=10.0, evaluation_noise_multiplier=noise),
        cohort=CohortTerms(minimum=2, round_deadline_s=60.0),
    )


def honest(request: EvaluateRequest) -> EvaluateUpdate:
    return EvaluateUpdate(request.run, hashlib.sha256(request.plan).hexdigest(), COUNTS)


def saying(answer: Said | str) -> Behaviour:
    return lambda request: answer


def changed(**changes: object) -> Behaviour:
    return lambda request: replace(honest(request), **changes)


@dataclass
class Channel:
    """Members that answer at once, or never ("silent"), or are not connected ("gone")."""

    behaviours: dict[int, Behaviour]
    asked: list[tuple[int, EvaluateRequest]] = field(default_factory=list)
    due: list[Arrival] = field(default_factory=list)

    def online(self) -> set[int]:
        return set(self.behaviours)

    def ask(self, requests: Mapping[int, RoundRequest], *, time_to_live_s: float) -> int:
        for node, request in requests.items():
            assert isinstance(request, EvaluateRequest)
            self.asked.append((node, request))
            said = self.behaviours[node](request)
            if said == "gone":
                self.due.append(Arrival(node, None, gone=True))
            elif said != "silent":
                self.due.append(Arrival(node, said))  # type: ignore[arg-type]
        return 0

    def collect(self) -> Iterable[Arrival]:
        arrived, self.due = self.due, []
        return arrived


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(tmp_path, plan())


def run_of(folder: Path, agreed: Plan) -> Run:
    made = run_store(folder).create(
        "spring-1", signed=SignedPlan(plan=agreed, signature=bytes(64)), initial=np.zeros(4)
    )
    for round_ in (1, 2):
        made.save_round(round_, np.full(4, float(round_)))
    made.add_contributors({member.id: member.size_class for member in ROSTER.values()})
    return made


def evaluate(
    run: Run, channel: Channel, roster: Callable[[], Mapping[int, RosterMember]] = lambda: ROSTER
) -> EvaluationRecord | None:
    return Evaluation(run, channel=channel, roster=roster, clock=FakeClock()).carry_out()


def test_the_sum_of_the_histograms_is_kept_and_nothing_of_any_one_member(run: Run) -> None:
    channel = Channel(dict.fromkeys(ROSTER, honest))
    record = evaluate(run, channel)
    assert record is not None
    assert record.histogram == tuple(3 * COUNTS)
    assert (record.members, record.noise_multiplier) == (3, NOISE)
    assert {node for node, _ in channel.asked} == set(ROSTER)
    for _, request in channel.asked:
        assert request.parameters.tolist() == [2.0] * 4  # what the run publishes
        assert request.plan == run.signed_plan().plan.canonical_json()
    written = json.loads(run.read_document(EVALUATION_FILE) or b"")
    assert set(written) == {*EvaluationRecord.model_fields, "quality"}
    assert not any(name in json.dumps(written) for name in ("acme", "beta", "gamma"))
    assert written["quality"]["auroc"]["low"] < written["quality"]["auroc"]["value"]
    assert [event.event for event in run.events()] == ["evaluated"]


def test_nobody_is_asked_twice_for_one_run(run: Run) -> None:
    first = evaluate(run, Channel(dict.fromkeys(ROSTER, honest)))
    again = Channel(dict.fromkeys(ROSTER, saying(None)))
    assert evaluate(run, again) == first == load_evaluation(run)
    assert again.asked == []


def test_a_plan_without_evaluation_asks_nobody(tmp_path: Path) -> None:
    run = run_of(tmp_path, plan(None))
    channel = Channel(dict.fromkeys(ROSTER, honest))
    assert evaluate(run, channel) is None
    assert channel.asked == []
    assert load_evaluation(run) is None


TRAINED = TrainUpdate("spring-1", plan().digest(), 2, 1, np.zeros(4, dtype=np.int64))


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(saying(Refusal(RefusalCode.BUDGET)), id="no budget left"),
        pytest.param(saying(None), id="cannot be read"),
        pytest.param(saying("silent"), id="never answers"),
        pytest.param(saying("gone"), id="not connected"),
        pytest.param(saying(TRAINED), id="a late update of the last round"),
        pytest.param(changed(run="spring-2"), id="another run"),
        pytest.param(changed(plan_digest="a" * 64), id="another plan"),
        pytest.param(changed(histogram=COUNTS[:-1]), id="a cell too few"),
        pytest.param(changed(histogram=COUNTS.astype(np.float64)), id="floats"),
        pytest.param(changed(histogram=COUNTS + 2**41), id="out of range"),
    ],
)
def test_one_odd_member_costs_its_own_part_only(run: Run, odd: Behaviour) -> None:
    record = evaluate(run, Channel({1: honest, 2: odd, 3: honest}))
    assert record is not None
    assert (record.members, record.histogram) == (2, tuple(2 * COUNTS))


@pytest.mark.parametrize("said", [Refusal(RefusalCode.BUDGET), None, TRAINED])
def test_what_comes_back_late_from_the_last_round_settles_nothing(
    run: Run, said: Refusal | TrainUpdate | None
) -> None:
    heard = iter(["lost on its way"])

    def when_asked_again(request: EvaluateRequest) -> Said | str:
        return "silent" if next(heard, None) else honest(request)

    channel = Channel({**dict.fromkeys(ROSTER, honest), 2: when_asked_again}, due=[Arrival(2, said, round=2)])
    record = evaluate(run, channel)
    assert record is not None
    assert record.members == 3


def test_a_count_beyond_a_members_size_is_cut(run: Run) -> None:
    liar = np.zeros(CELLS, dtype=np.int64)
    liar[0], liar[1] = 2**40, -(2**40)
    record = evaluate(run, Channel({1: honest, 2: honest, 3: changed(histogram=liar)}))
    assert record is not None
    assert record.histogram[0] == 2 * COUNTS[0] + 4 * 256 + 32
    assert record.histogram[1] == 2 * COUNTS[1] - 32


@pytest.mark.parametrize("odd", [saying(Refusal(RefusalCode.BUDGET)), saying("silent")])
def test_too_few_answers_leave_the_run_without_an_evaluation(run: Run, odd: Behaviour) -> None:
    assert evaluate(run, Channel({1: honest, 2: odd, 3: odd})) is None
    assert load_evaluation(run) is None
    assert [event.event for event in run.events()] == ["not-evaluated"]


def test_only_those_are_asked_who_took_part_and_still_do(run: Run) -> None:
    roster = {**ROSTER, 9: RosterMember(id="newcomer", size_class=256)}
    channel = Channel(dict.fromkeys(roster, honest))
    left = {node: member for node, member in roster.items() if node != 3}
    calls = iter([roster, roster])  # suspended after it has answered

    record = evaluate(run, channel, roster=lambda: next(calls, left))
    assert record is not None
    assert record.members == 2
    assert {node for node, _ in channel.asked} == {1, 2, 3}


def test_a_stopped_run_is_not_evaluated(run: Run) -> None:
    run.update(status="stopped")
    with pytest.raises(RunStoppedError):
        evaluate(run, Channel(dict.fromkeys(ROSTER, honest)))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"members": 0}'])
def test_a_damaged_evaluation_is_not_taken_for_none(run: Run, content: bytes) -> None:
    run.write_document(EVALUATION_FILE, content)
    with pytest.raises(ConfigError, match="evaluation"):
        load_evaluation(run)


def test_the_card_says_how_sure_the_figures_are_and_stays_silent_where_they_are_noise() -> None:
    record = EvaluationRecord(
        plan_sha256="a" * 64, members=3, noise_multiplier=NOISE, histogram=tuple(map(int, 3 * COUNTS))
    )
    report = quality_report(record)
    assert report is not None
    quality = record.quality()
    assert report.released().auroc == quality.auroc.value
    assert f"AUROC {quality.auroc.low:.3f} to {quality.auroc.high:.3f}" in report.method
    assert "3 companies" in report.data
    nothing = record.model_copy(update={"histogram": (0,) * CELLS})
    assert quality_report(nothing) is None
