"""What a training run leaves behind for the release's provenance."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ringfence.model.plan import Plan

_BUILD_TYPE = "urn:ringfence:build:federated-training:v1"
# What shapes the model at the coordinator; members' own software is not the coordinator's to state.
_PACKAGES = ("flwr", "numpy", "onnx", "ringfence")


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """A training run that ended.

    Attributes:
        id: of the run.
        rounds_completed: aggregations that happened.
        started_at: with a time zone.
        finished_at: with a time zone.
    """

    id: str
    rounds_completed: int
    started_at: datetime
    finished_at: datetime


def slsa_predicate(
    run: CompletedRun, *, plan: Plan, version: str, inputs: Mapping[str, str]
) -> dict[str, object]:
    """Return SLSA provenance v1 of a release.

    Args:
        run: that trained it.
        plan: that the members agreed to; the whole of it is an external parameter.
        version: of the release.
        inputs: SHA-256 of every public input, by its name.

    Source: SLSA v1.0, "Provenance"; in-toto attestation framework v1.
    """
    packages = [
        {"name": name, "uri": f"pkg:pypi/{name}@{importlib.metadata.version(name)}"} for name in _PACKAGES
    ]
    materials = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(inputs.items())]
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {
                "plan": plan.model_dump(mode="json"),
                "planSha256": plan.digest(),
                "version": version,
            },
            "internalParameters": {"roundsCompleted": run.rounds_completed},
            "resolvedDependencies": [*materials, *packages],
        },
        "runDetails": {
            "builder": {
                "id": f"urn:ringfence:coordinator:{plan.federation}",
                "version": {"ringfence": importlib.metadata.version("ringfence")},
            },
            "metadata": {
                "invocationId": run.id,
                "startedOn": run.started_at.isoformat(timespec="seconds"),
                "finishedOn": run.finished_at.isoformat(timespec="seconds"),
            },
        },
    }
