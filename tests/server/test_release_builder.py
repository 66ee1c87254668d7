"""The release folder: whole, checked, the same bytes for the same input, and refused where its parts do not agree."""

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from securesystemslib.signer import CryptoSigner

from ringfence.model.calibration import Calibration
from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.errors import ConfigError, ReleaseError, RingfenceError
from ringfence.model.evidence import ADVERSARIES, parse_evidence
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.plan import Plan
from ringfence.model.provenance import verify_provenance
from ringfence.model.quality_report import QualityReport
from ringfence.server import release_builder
from ringfence.server.release_builder import build_release
from ringfence.server.run_provenance import CompletedRun

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SIGNER = CryptoSigner.generate_ed25519()
RUN = CompletedRun(id="run-1", rounds_completed=30, started_at=NOW, finished_at=NOW)
QUALITY = QualityReport.model_validate(
    {
        "data": 'held-out conversations of the demonstration, "stages" over real chat',
        "capacity": 0.05,
        "rows": [
            {"system": "public-head", "auroc": 0.931, "average_precision": 0.702},
            {
                "system": "federated-with-privacy",
                "auroc": 0.968,
                "average_precision": 0.851,
                "precision_at_capacity": 0.94,
            },
        ],
    }
)
FILES = {
    "README.md",
    "bom.cdx.json",
    "calibration.json",
    "config.json",
    "examples.jsonl",
    "examples.scores.jsonl",
    "features",
    "model.onnx",
    "model.safetensors",
    "privacy.json",
    "provenance.intoto.json",
}


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


@pytest.fixture(scope="module")
def plan(features: FeatureSet) -> Plan:
    return Plan.model_validate(
        {
            "name": "spring",
            "federation": "example",
            "demonstration": True,
            "training": {"feature_set_sha256": features.fingerprint},
            "privacy": {"noise_multiplier": 45.0},
        }
    )


@pytest.fixture(scope="module")
def detector(features: FeatureSet) -> Detector:
    calibration = Calibration(slope=0.9, high_recall=0.31, high_precision=0.77, fitted_on="public simulation")
    return Detector(features, features.warm_start, calibration=calibration)


def evidence_for(plan: Plan, **changes: Any) -> dict[str, Any]:
    return {
        "demonstration": plan.demonstration,
        "plan_sha256": plan.digest(),
        "contribution_bound": 2,
        "platforms": 2,
        "delta": 1e-6,
        "guarantees": [
            {"adversary": name, "epsilon": 2.53, "noise_multiplier": 45.0} for name in ADVERSARIES
        ],
        "per_conversation_epsilon": 0.91,
        "epsilon_by_platforms": {1: 1.72, 2: 2.53},
        "mechanism": {
            "aggregation": "open",
            "noise": "member",
            "sampling": "full-batch",
            "sample_rate": 1.0,
            "steps": 300,
            "clip_norm": 1.0,
            "noise_multiplier": 45.0,
            "size_classes": (256, 256, 256),
            "dimension": 109,
            "grid_step": 2.0**-20,
        },
        "accountant": {"name": "exact Gaussian trade-off", "version": "1"},
        "contributors": 3,
        "public_inputs": [
            {"name": "chat | part", "origin": "chitchat-dataset 0.9.0", "licence": "MIT", "sha256": "a" * 64},
            {"name": "phrases", "origin": "written for this project", "licence": "Apache-2.0"},
        ],
        "known_limits": ["A demonstration: no ledger was charged."],
        **changes,
    }


@pytest.fixture
def build(detector: Detector, plan: Plan, tmp_path: Path) -> Callable[..., Path]:
    def build_with(**changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "version": "0.1.0",
            "plan": plan,
            "evidence": evidence_for(changes.get("plan", plan)),
            "run": RUN,
            "signer": SIGNER,
            "created_at": NOW,
            "out": tmp_path,
            "quality": QUALITY,
        } | changes
        return build_release(arguments.pop("detector", detector), **arguments)

    return build_with


def test_a_release_holds_what_was_agreed_and_nothing_else(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build()
    assert folder == tmp_path / "ringfence-detector-0.1.0"
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "no scratch folder is left"
    assert all(stat.S_ISREG(p.lstat().st_mode) or p.is_dir() for p in folder.rglob("*"))
    verify_provenance(folder, keys=[SIGNER.public_key])


def test_a_release_scores_by_itself_as_the_detector_did(
    build: Callable[..., Path], detector: Detector
) -> None:
    loaded = Detector.load(build())
    conversation = Conversation("c", (Message("a", "hello there"), Message("b", "hi, how are you?")))
    assert loaded.score(conversation) == detector.score(conversation)


def test_the_same_input_gives_the_same_bytes(build: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = build(), build(out=tmp_path / "again")
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


def test_the_bill_of_materials_is_valid_cyclonedx_and_names_every_other_file(
    build: Callable[..., Path],
) -> None:
    folder = build()
    text = (folder / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    named = {item["name"] for item in bill["components"] if item["type"] == "file"}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert named == present - {"bom.cdx.json", "provenance.intoto.json", "model.safetensors"}
    metrics = bill["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "AUROC", "value": "0.968", "slice": "federated, with privacy: this release"} in metrics


def test_the_bill_is_valid_without_figures_too(build: Callable[..., Path]) -> None:
    folder = build(quality=None)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((folder / "bom.cdx.json").read_text()) is None
    assert "No quality was measured" in (folder / "README.md").read_text()


def test_the_card_says_the_promise_the_figures_and_the_limits(build: Callable[..., Path]) -> None:
    folder = build()
    card = (folder / "README.md").read_text()
    evidence = parse_evidence((folder / "privacy.json").read_text())
    assert card.startswith("---\nlanguage: [en]\n")
    sections = re.findall(r'^## .*<a id="(\w+)">', card, flags=re.MULTILINE)
    assert sections == [
        "trainingData",
        "policyAndTaxonomy",
        "annotationMethodology",
        "performanceBenchmarks",
        "biasAndLimitations",
        "implementationGuidance",
        "relevantLinks",
    ]
    for part in (
        evidence.promise(),
        "(2.53, 1e-06)",
        "| 0.968 | 0.851 | 0.940 |",
        "| 0.931 | 0.702 | not measured |",
        "probability 0.310",
        "demonstration federation",
        "never a verdict",
        "No figure here comes from real grooming language.",
        "A demonstration: no ledger was charged.",
        "chat \\| part",
    ):
        assert part in card
    everything = card + (folder / "bom.cdx.json").read_text() + (folder / "privacy.json").read_text()
    assert "anonym" not in everything.lower()


def test_the_front_matter_is_yaml_whatever_the_description_holds(build: Callable[..., Path]) -> None:
    import yaml

    card = (build() / "README.md").read_text()
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["model-index"][0]["results"][0]["dataset"]["name"] == QUALITY.data
    assert matter["model-index"][0]["results"][0]["metrics"][0] == {"type": "roc_auc", "value": 0.968}


def test_the_provenance_names_plan_run_and_features(
    build: Callable[..., Path], plan: Plan, features: FeatureSet
) -> None:
    import base64

    envelope = json.loads((build() / "provenance.intoto.json").read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["planSha256"] == plan.digest()
    assert {"name": "feature set static-128", "digest": {"sha256": features.fingerprint}} in definition[
        "resolvedDependencies"
    ]
    assert statement["predicate"]["runDetails"]["metadata"]["invocationId"] == "run-1"


OTHER = Plan.model_validate(
    {
        "name": "other",
        "federation": "example",
        "demonstration": True,
        "training": {"feature_set_sha256": "0" * 64},
        "privacy": {"noise_multiplier": 45.0},
    }
)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"version": "1.0"}, ConfigError, "not a version"),
        ({"version": "v1.0.0"}, ConfigError, "not a version"),
        ({"version": "../1.0.0"}, ConfigError, "not a version"),
        ({"version": "01.0.0"}, ConfigError, "not a version"),
        ({"created_at": NOW.replace(tzinfo=None)}, ConfigError, "time zone"),
        ({"out": Path("/nonexistent/folder")}, ConfigError, "Cannot build in"),
        ({"plan": OTHER}, ReleaseError, "fingerprint is not the plan's"),
        ({"evidence": {}}, ReleaseError, "evidence is not in the agreed form"),
        ({"evidence": evidence_for(OTHER)}, ReleaseError, "plan_sha256 is not the plan's"),
        ({"examples": ()}, RingfenceError, "examples"),
    ],
)
def test_parts_that_do_not_agree_are_refused_and_leave_nothing_behind(
    build: Callable[..., Path],
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[RingfenceError],
    expected: str,
) -> None:
    with pytest.raises(error, match=expected):
        build(**changes)
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_built_once(build: Callable[..., Path]) -> None:
    folder = build()
    before = (folder / "README.md").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        build(quality=None)
    assert (folder / "README.md").read_bytes() == before


def test_evidence_of_another_number_of_parameters_is_refused(build: Callable[..., Path], plan: Plan) -> None:
    evidence = evidence_for(plan)
    evidence["mechanism"] = evidence["mechanism"] | {"dimension": 1000}
    with pytest.raises(ReleaseError, match="another number of parameters"):
        build(evidence=evidence)


def test_nothing_is_released_whose_onnx_graph_scores_otherwise(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = release_builder.export_onnx

    def export_another(detector: Detector, path: Path) -> None:
        export(replace(detector, parameters=detector.parameters + np.eye(109)[3] * 1e-3), path)

    monkeypatch.setattr(release_builder, "export_onnx", export_another)
    with pytest.raises(ReleaseError, match=r"model\.onnx does not score as the detector does"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_candidate_may_be_built_with_a_release_candidates_version(build: Callable[..., Path]) -> None:
    assert build(version="1.2.0-rc.1").name == "ringfence-detector-1.2.0-rc.1"
