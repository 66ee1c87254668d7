"""A member bounds as the plan says, counts whole conversations for an evaluation, and says in its ledger which it used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.local_data import load_labelled
from ringfence.client.local_training import LocalTrainer
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import (
    DataSettings,
    MemberSettings,
    load_member_settings,
    save_member_settings,
)
from ringfence.model.bounds import Bounds
from ringfence.model.evaluation_messages import EvaluateRequest
from ringfence.model.feature_set import load_feature_set
from ringfence.model.key_files import raw_public_base64
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import TrainRequest
from ringfence.privacy import score_histogram, training
from ringfence.privacy.grouping import BOUNDS

KEY = Ed25519PrivateKey.generate()
PEOPLE = [("hub", "ann"), ("hub", "bob"), ("hub", "cat"), ("dan", "eve"), ("dan", "eve"), ("fay", "gus")]


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    home = MemberHome(tmp_path / "acme").create()
    lines = [
        {
            "id": f"c{n}",
            "label": n % 2,
            "messages": [{"author": who, "text": "good morning"} for who in people],
        }
        for n, people in enumerate(PEOPLE)
    ]
    (home.root / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = MemberSettings(
        federation="north",
        member="acme",
        fleet_address="127.0.0.1:1",
        release_address="127.0.0.1:2",
        plan_public_key=raw_public_base64(KEY.public_key()),
        size_class=8,
        data=DataSettings(files=("data.jsonl",)),
    )
    save_member_settings(home, settings=settings)
    return home


@pytest.mark.parametrize("bounds", BOUNDS)
def test_the_plans_bounds_choose_the_examples_and_an_evaluation_counts_whole_conversations(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch, bounds: Bounds
) -> None:
    plan = Plan(
        name="spring",
        federation="north",
        training=TrainingTerms(feature_set_sha256=load_feature_set("static-128").fingerprint, rounds=1),
        privacy=PrivacyTerms(
            contribution_bound=1, bounds=bounds, noise_multiplier=40.0, evaluation_noise_multiplier=40.0
        ),
    )
    used = []
    for module, name in ((training, "train_privately"), (score_histogram, "noised_score_histogram")):
        honest = getattr(module, name)

        def noting(*given: object, _honest: object = honest, **more: object) -> object:
            used.append(more["manifest"])
            return _honest(*given, **more)  # type: ignore[operator]

        monkeypatch.setattr(module, name, noting)
    content = plan.canonical_json()
    signature, model = KEY.sign(content), np.zeros(109)
    trainer = LocalTrainer(home, has_ledger=True)
    trained = trainer.answer(TrainRequest("spring-1", content, signature, 1, 1, model))
    evaluated = trainer.answer(EvaluateRequest("spring-1", content, signature, model))
    secret = contribution_secret(home)
    conversations = load_labelled(home, load_member_settings(home))
    expected = [
        BOUNDS[name](conversations, contribution_bound=1, secret=secret).manifest
        for name in (bounds, "greedy")
    ]
    assert used == expected
    assert [trained.dataset_digest, evaluated.dataset_digest] == [manifest.digest() for manifest in expected]
    assert (len(used[0].kept) > len(used[1].kept)) == (bounds != "greedy")
