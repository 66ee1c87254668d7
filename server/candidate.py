"""From a completed run to a candidate: the detector, what it promises, and who may evaluate it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from ringfence.model.detector import Detector
from ringfence.model.errors import ConfigError
from ringfence.model.evidence import LedgerReceipt
from ringfence.model.feature_set import load_feature_set
from ringfence.privacy.update_grid import UPDATE_BOUND
from ringfence.server.aggregation import published_model
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.evaluation_record import load_evaluation, quality_report
from ringfence.server.ledger_heads import LedgerHeads
from ringfence.server.release_builder import build_release
from ringfence.server.run_evidence import describe_features, evidence_of_run
from ringfence.server.run_provenance import CompletedRun
from ringfence.server.run_store import Run, RunStore
from ringfence.server.signing_keys import load_coordinator_key


def build_candidate(run: Run, *, version: str, home: CoordinatorHome, now: datetime) -> Path:
    """Build the release folder of a completed run and return its path.

    Args:
        run: completed.
        version: that the release shall have once it is stable, such as ``0.1.0``.
        home: the coordinator's, for the key that signs the provenance.
        now: the present, UTC.

    Raises:
        ConfigError: the run is not complete, another run carried out the same plan, or the version was built before. The
            operator's to mend.
        ReleaseError: a check of the built folder failed.
    """
    if run.record().status != "completed":
        raise ConfigError(
            f"The run {run.name} is {run.record().status}, not completed.",
            hint=f"Follow it first: ringfence-coordinator run watch {run.name}",
        )
    plan = run.signed_plan().plan
    again = [
        other.name for other in RunStore.of(home).all() if other.signed_plan().plan.digest() == plan.digest()
    ]
    if len(again) > 1:
        raise ConfigError(
            f"The runs {', '.join(again)} carried out one plan, so the evidence of one of them would say too little.",
            hint="Give the plan another name, and run it again.",
        )
    features = load_feature_set(plan.training.feature_set)
    parameters = published_model(run.history(), averaging=plan.training.averaging)
    contributors = run.contributors()
    evaluation = load_evaluation(run)
    out = home.runs / run.name / "release"
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    return build_release(
        Detector(feature_set=features, architecture=plan.training.architecture, parameters=parameters),
        version=version,
        plan=plan,
        evidence=evidence_of_run(
            plan,
            dimension=parameters.size,
            contributors=len(contributors),
            size_classes=list(contributors.values()),
            public_inputs=[describe_features(features)],
            clamp=UPDATE_BOUND,
            receipts=release_receipts(
                sorted(contributors),
                heads=LedgerHeads(open_database(home)),
            ),
        ),
        run=_completed(run, rounds=plan.training.rounds),
        signer=CryptoSigner(load_coordinator_key(home, name="candidate")),
        created_at=now,
        out=out,
        quality=None if evaluation is None else quality_report(evaluation),
    )


def release_receipts(members: Sequence[str], *, heads: LedgerHeads) -> list[LedgerReceipt]:
    """Return each contributor's newest signed ledger head: its word that the run was charged.

    A contributor that has given its word with its present key on no head yet has none: the evidence counts it as missing.
    """
    receipts = []
    for member in members:
        vouched = heads.vouched(member)
        if vouched is not None:
            head, signed = vouched
            signature = base64.b64encode(signed).decode("ascii")
            receipts.append(LedgerReceipt(member=member, head=head.hash, signature=signature))
    return receipts


def _completed(run: Run, *, rounds: int) -> CompletedRun:
    events = run.events()
    return CompletedRun(
        id=run.name, rounds_completed=rounds, started_at=events[0].at, finished_at=events[-1].at
    )
