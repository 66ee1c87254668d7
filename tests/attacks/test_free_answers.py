"""Nothing that a coordinator gets without a charge says anything about what people wrote, and no answer escapes its record."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.client.answering import Answering
from ringfence.client.exclusions import load_exclusions, save_exclusions
from ringfence.client.flower_adapter import FleetTask
from ringfence.client.local_data import load_labelled
from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import open_member_ledger
from ringfence.client.member_settings import DataSettings, MemberSettings
from ringfence.client.policy import parse_policy
from ringfence.client.withdrawals import Withdrawals
from ringfence.client.worker import WorkerAnswer
from ringfence.model.errors import BudgetError, ConfigError, PeerError
from ringfence.model.key_files import make_signing_key, raw_public_base64
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import (
    APP_ID,
    TRAIN_ACTION,
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    request_from_records,
    request_to_records,
)
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_anchor import AnchorFile
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_refusals import LedgerRefusal, refused
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.server.candidate import build_candidate
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.run_store import RunStore, SignedPlan

NOW = 1_790_000_000.0
KEY = Ed25519PrivateKey.generate()
PLAN = Plan(
    name="first",
    federation="demo",
    demonstration=True,
    training=TrainingTerms(feature_set_sha256="ab" * 32, rounds=3),
    privacy=PrivacyTerms(noise_multiplier=50.0),
)
SETTINGS = MemberSettings(
    federation="demo",
    member="acme",
    fleet_address="127.0.0.1:1",
    release_address="127.0.0.1:2",
    demonstration=True,
    plan_public_key=raw_public_base64(KEY.public_key()),
    data=DataSettings(files=("conversations.jsonl",)),
)
REQUEST = TrainRequest(
    run="run-1",
    plan=PLAN.canonical_json(),
    signature=KEY.sign(PLAN.canonical_json()),
    round=1,
    attempt=1,
    parameters=np.zeros(4),
)
UPDATE = TrainUpdate("run-1", PLAN.digest(), 1, 1, np.array([1, 2, 3, 4], dtype=np.int64))


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    made = MemberHome(tmp_path / "acme").create()
    make_signing_key(made.identity_key_file)
    return made


@pytest.mark.parametrize("label", [0, 1])
def test_whether_both_labels_occur_does_not_decide_if_a_member_answers(home: MemberHome, label: int) -> None:
    lines = [
        json.dumps({"id": f"c{n}", "label": label, "messages": [{"author": f"p{n}", "text": "hello"}]})
        for n in range(4)
    ]
    (home.root / "conversations.jsonl").write_text("\n".join(lines))
    assert len(load_labelled(home, SETTINGS)) == 4


def test_bytes_whose_second_place_could_not_be_written_do_not_leave_when_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("ledger", "anchor")]
    for folder in folders:
        folder.mkdir(mode=0o700)
    terms = LedgerTerms("conversations", limits=LedgerLimits(returned_head_required=False))
    key = release_key("demo/run-1", round_number=1, attempt=1)
    charge = Charge(key, "a" * 64, "b" * 64, 3, SampledGaussian(2, 1.0, 50.0, 10), 50.0)
    with Ledger.create(
        folders[0] / "ledger.db", anchor_path=folders[1] / "head", terms=terms, now=NOW
    ) as ledger:
        with monkeypatch.context() as broken:
            broken.setattr(AnchorFile, "write", _full_disk)
            with pytest.raises(BudgetError):
                ledger.charge(charge, b"payload", now=NOW)
            with pytest.raises(BudgetError):
                ledger.released(key)
        assert ledger.released(key) == b"payload"
        assert ledger._anchor.read() == ledger.head


def _full_disk(*_: object) -> None:
    raise refused(LedgerRefusal.DISK)


class _Worker:
    """Trains at once, and has the member forget somebody while it does."""

    def __init__(self, forgets: MemberHome | None) -> None:
        self._forgets = forgets

    def answer(self, request: TrainRequest, *, timeout_s: float) -> WorkerAnswer:
        if self._forgets is not None:
            exclusions = load_exclusions(self._forgets).with_person("otter", day="2026-09-22")
            save_exclusions(self._forgets, exclusions=exclusions)
        return WorkerAnswer(UPDATE, dataset_digest="d" * 64)


@pytest.mark.parametrize("forgets", [False, True])
def test_an_answer_computed_while_somebody_was_forgotten_is_dropped_uncharged(
    home: MemberHome, forgets: bool
) -> None:
    with open_member_ledger(
        home,
        terms=LedgerTerms("conversations"),
        anchor_file=home.ledger_anchor_file,
        federation="demo",
        now=lambda: NOW,
    ) as ledger:
        answering = Answering(
            settings=SETTINGS,
            worker=_Worker(home if forgets else None),
            ledger=ledger,
            permit=lambda plan, asked="round": None,
            forgetting=Withdrawals(home, owner=ledger),
        )
        task = FleetTask(
            message=_Message(request_to_records(REQUEST)), action=TRAIN_ACTION, app_id=APP_ID, run_id=1
        )
        outgoing = answering.answer(task)
        charges = sum(entry.kind == "charge" for entry in ledger.entries())
        if forgets:
            assert outgoing.answer == Refusal(RefusalCode.BUSY)
            assert charges == 0
        else:
            assert isinstance(outgoing.answer, TrainUpdate)
            assert charges == 1


class _Message:
    def __init__(self, content: object) -> None:
        self.content = content


def test_a_second_place_whose_disk_is_not_mounted_is_not_made_up(home: MemberHome, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="second place"):
        open_member_ledger(
            home,
            terms=LedgerTerms("conversations"),
            anchor_file=tmp_path / "not-mounted" / "ledger.head",
            federation="demo",
            now=lambda: NOW,
        )
    assert not (tmp_path / "not-mounted").exists()


@pytest.mark.parametrize("run", ["", "A b", "run\nround 2: answered", "../run", "-run", "r" * 64])
def test_a_question_for_a_run_without_a_proper_name_is_refused_before_anything_is_spent(run: str) -> None:
    with pytest.raises(PeerError):
        request_from_records(request_to_records(replace(REQUEST, run=run)), action=TRAIN_ACTION)


def test_a_policy_whose_delta_would_outrun_the_tails_of_the_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match="delta"):
        parse_policy("[budget]\ndelta = 1e-9\n")


@pytest.mark.parametrize(("parts", "readable"), [(8, True), (33, False)])
def test_a_reply_of_a_thousand_parts_is_not_collected_part_by_part(parts: int, readable: bool) -> None:
    from flwr.proto.message_pb2 import ObjectTree
    from flwr.supercore.run import Run
    from flwr.superlink.grid import HttpGrid

    from ringfence.server.flower_adapter import ReplyCollector

    asked: list[str] = []

    class Client:
        def PullMessages(self, request: object) -> object:  # noqa: N802 - Flower's name
            message = SimpleNamespace(
                metadata=SimpleNamespace(message_id="reply", reply_to_message_id="question")
            )
            tree = ObjectTree(
                object_id="0", children=[ObjectTree(object_id=str(number)) for number in range(1, parts)]
            )
            return SimpleNamespace(messages_list=[message], message_object_trees=[tree])

        def PullObject(self, request: Any) -> object:  # noqa: N802 - Flower's name
            asked.append(request.object_id)
            return SimpleNamespace(object_found=True, object_available=False)

    grid = HttpGrid(token="-", insecure=True)
    grid._client = Client()  # type: ignore[assignment]
    grid._run = Run.create_empty(1)
    replies = ReplyCollector(grid).collect(["question"])
    if readable:
        assert len(asked) == 1, "the first part has not come yet, so the others are not asked for"
        assert replies == []
    else:
        assert asked == []
        assert [reply.message for reply in replies] == [None]


def test_two_runs_of_one_plan_make_no_candidate_because_the_evidence_of_one_would_say_too_little(
    tmp_path: Path,
) -> None:
    home = CoordinatorHome(tmp_path / "coordinator")
    initialise_coordinator(
        home,
        settings=CoordinatorSettings(federation=PLAN.federation),
        now=datetime.fromtimestamp(NOW, tz=UTC),
    )
    store = RunStore.of(home)
    for name in ("first-1", "first-2"):
        store.create(name, signed=SignedPlan(PLAN, b"s" * 64), initial=np.zeros(109))
    store.open("first-2").update(status="completed")
    with pytest.raises(ConfigError, match="first-1, first-2"):
        build_candidate(
            store.open("first-2"), version="0.1.0", home=home, now=datetime.fromtimestamp(NOW, tz=UTC)
        )
