"""``bom.cdx.json``: what a release is made of, as a CycloneDX machine-learning bill of materials."""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Mapping
from datetime import datetime

from ringfence.model.detector import PARAMETERS_FILE, Detector
from ringfence.model.evidence import PrivacyEvidence
from ringfence.model.quality_report import SYSTEM_NAMES, QualityReport

BILL_FILE = "bom.cdx.json"
SPEC_VERSION = "1.6"

# What runs when a release is scored; the trainer's packages touch no release.
_RUNTIME_PACKAGES = ("numpy", "ringfence", "safetensors", "tokenizers")
# Names this form of number for serial numbers: the same release always has the same one.
_SERIAL_NAMESPACE = uuid.UUID("5b2d1c0e-6a56-5c0b-9b8e-0d2f6c1f7a11")

_Json = dict[str, object]


def bill_of_materials(
    detector: Detector,
    *,
    name: str,
    version: str,
    file_digests: Mapping[str, str],
    evidence: PrivacyEvidence,
    quality: QualityReport | None,
    limits: tuple[str, ...],
    created_at: datetime,
) -> str:
    """Return the bill of a release, JSON text in the CycloneDX 1.6 form.

    Args:
        detector: what is released.
        name: of the release.
        version: of the release.
        file_digests: SHA-256 of every other file of the release, by its path.
        evidence: names the public inputs.
        quality: the figures, if any were measured.
        limits: what a user must know, in sentences.
        created_at: when the release was built, with a time zone.
    """
    model_reference = f"{name}@{version}"
    inputs = [_public_input(index, item.model_dump()) for index, item in enumerate(evidence.public_inputs)]
    files = [_file(path, digest) for path, digest in sorted(file_digests.items()) if path != PARAMETERS_FILE]
    packages = [_package(package) for package in _RUNTIME_PACKAGES]
    components = [*inputs, *files, *packages]
    bill: _Json = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIAL_NAMESPACE, repr(sorted(file_digests.items())))}",
        "version": 1,
        "metadata": {
            "timestamp": created_at.isoformat(timespec="seconds"),
            "tools": {"components": [_tool()]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model_reference,
                "name": name,
                "version": version,
                "description": "Scores chat conversations for signs of grooming, for review by people.",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [_hash(file_digests[PARAMETERS_FILE])],
                "modelCard": _model_card(
                    detector, quality=quality, limits=limits, datasets=[item["bom-ref"] for item in inputs]
                ),
            },
        },
        "components": components,
        "dependencies": [
            {"ref": model_reference, "dependsOn": sorted(str(item["bom-ref"]) for item in components)}
        ],
    }
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def _model_card(
    detector: Detector, *, quality: QualityReport | None, limits: tuple[str, ...], datasets: list[object]
) -> _Json:
    card: _Json = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-classification",
            "architectureFamily": "small classifier on frozen public features",
            "modelArchitecture": f"{detector.architecture} on {detector.feature_set.name}",
            "datasets": [{"ref": reference} for reference in datasets],
            "inputs": [{"format": "a conversation: messages with author, time and text"}],
            "outputs": [{"format": "score and calibrated probability of one conversation"}],
        },
        "considerations": {
            "users": ["trust-and-safety reviewers of companies that run chat"],
            "useCases": ["ordering conversations for review by people"],
            "technicalLimitations": list(limits),
            "ethicalConsiderations": [
                {
                    "name": "A false alarm can harm a person.",
                    "mitigationStrategy": "A score is a reason for a person to look, never a verdict.",
                }
            ],
        },
    }
    if quality is not None:
        card["quantitativeAnalysis"] = {"performanceMetrics": _metrics(quality)}
    return card


def _metrics(quality: QualityReport) -> list[_Json]:
    return [
        {"type": kind, "value": f"{value:.3f}", "slice": SYSTEM_NAMES[row.system]}
        for row in quality.rows
        for kind, value in (("AUROC", row.auroc), ("average precision", row.average_precision))
    ]


def _public_input(index: int, item: _Json) -> _Json:
    component: _Json = {
        "type": "data",
        "bom-ref": f"input-{index}",
        "name": item["name"],
        "description": f"{item['origin']}",
        "licenses": [{"license": {"name": item["licence"]}}],
    }
    if item["sha256"] is not None:
        component["hashes"] = [_hash(str(item["sha256"]))]
    return component


def _file(path: str, digest: str) -> _Json:
    return {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": [_hash(digest)]}


def _package(name: str) -> _Json:
    version = importlib.metadata.version(name)
    address = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address}


def _tool() -> _Json:
    return {"type": "application", "name": "ringfence", "version": importlib.metadata.version("ringfence")}


def _hash(digest: str) -> _Json:
    return {"alg": "SHA-256", "content": digest}
