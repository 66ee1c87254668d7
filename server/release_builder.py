"""A release folder: everything that a company needs to trust, check and run a detector, and no code.

The same input gives the same bytes, so that two people who build from one run can compare what they built. Nothing is
returned that was not checked: the folder is read back, scored, compared with its ONNX graph, and only then moved into place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.signer import Signer

from ringfence.model.conversation import Conversation
from ringfence.model.detector import FEATURES_FOLDER, Detector, FeatureSource
from ringfence.model.errors import ConfigError, ReleaseError
from ringfence.model.evidence import PrivacyEvidence, check_evidence_fits
from ringfence.model.onnx_export import export_onnx
from ringfence.model.onnx_scoring import check_parity
from ringfence.model.plan import Plan, describe
from ringfence.model.provenance import sign_provenance, verify_provenance
from ringfence.model.quality_report import QualityReport
from ringfence.model.release_examples import EXAMPLES, check_examples, write_examples
from ringfence.model.release_manifest import hash_folder
from ringfence.model.versions import parse_version
from ringfence.server.bill_of_materials import BILL_FILE, bill_of_materials
from ringfence.server.model_card import CARD_FILE, LIMITS, CardFacts, model_card
from ringfence.server.run_provenance import CompletedRun, slsa_predicate

RELEASE_NAME = "ringfence-detector"
ONNX_FILE = "model.onnx"
PRIVACY_FILE = "privacy.json"


def build_release(
    detector: Detector,
    *,
    version: str,
    plan: Plan,
    evidence: PrivacyEvidence | Mapping[str, object],
    run: CompletedRun,
    signer: Signer,
    created_at: datetime,
    out: Path,
    quality: QualityReport | None = None,
    examples: Sequence[Conversation] = EXAMPLES,
) -> Path:
    """Build ``ringfence-detector-<version>`` in a folder and return its path.

    Args:
        detector: what is released.
        version: SemVer on the meaning of the score; ``-rc.N`` for a candidate.
        plan: that the members agreed to.
        evidence: what ``privacy.json`` shall say; must state the plan's own terms.
        run: that trained the detector.
        signer: signs the provenance; Ed25519, so that the same input gives the same bytes.
        created_at: goes into card and bill; with a time zone.
        out: existing folder to build in.
        quality: figures for the card; the card says so if none were measured.
        examples: conversations that may be published; carried with their scores.

    Raises:
        ConfigError: the version, the time or the folder is wrong, or this version was already built. The caller's.
        ReleaseError: detector, plan and evidence do not belong together, or a check failed.
    """
    parse_version(version)
    stated = _evidence(evidence)
    _check_belongs_together(detector, plan=plan, evidence=stated)
    if created_at.tzinfo is None:
        raise ConfigError("The time of a release needs a time zone.", hint="Pass a time in UTC.")
    target = out / f"{RELEASE_NAME}-{version}"
    if target.exists():
        raise ConfigError(f"{target} exists already.", hint="A version is built once: choose the next one.")
    try:
        scratch = Path(tempfile.mkdtemp(dir=out, prefix=f".{target.name}."))
    except OSError as error:
        raise ConfigError(
            f"Cannot build in {out}: {error.strerror}.",
            hint="Choose a folder that exists and can be written.",
        ) from error
    try:
        facts = CardFacts(RELEASE_NAME, version, detector, plan, stated, quality, created_at)
        _write_detector(detector, scratch, examples)
        _write_documents(facts, scratch)
        predicate = slsa_predicate(run, plan=plan, version=version, inputs=_input_digests(facts))
        sign_provenance(scratch, predicate=predicate, signer=signer)
        _check_whole(scratch, examples=examples, signer=signer)
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _evidence(given: PrivacyEvidence | Mapping[str, object]) -> PrivacyEvidence:
    if isinstance(given, PrivacyEvidence):
        return given
    try:
        return PrivacyEvidence.model_validate(given)
    except ValidationError as error:
        raise ReleaseError(
            f"The evidence is not in the agreed form: {describe(error)}", hint="Correct the named fields."
        ) from error


def _check_belongs_together(detector: Detector, *, plan: Plan, evidence: PrivacyEvidence) -> None:
    training = plan.training
    pairs = {
        "architecture": (detector.architecture, training.architecture),
        "feature set": (detector.feature_set.name, training.feature_set),
        "feature set's fingerprint": (detector.feature_set.fingerprint, training.feature_set_sha256),
    }
    for name, (own, planned) in pairs.items():
        if own != planned:
            raise ReleaseError(
                f"The detector's {name} is not the plan's.", hint="Release what the run trained."
            )
    check_evidence_fits(evidence, plan=plan)
    if evidence.mechanism.dimension != detector.parameters.size:
        raise ReleaseError(
            "The evidence was made for another number of parameters.", hint="Release what the run trained."
        )


def _write_detector(detector: Detector, folder: Path, examples: Sequence[Conversation]) -> None:
    detector.save(folder)
    (folder / FEATURES_FOLDER).mkdir()
    for name, content in detector.feature_set.files.items():
        (folder / FEATURES_FOLDER / name).write_bytes(content)
    export_onnx(detector, folder / ONNX_FILE)
    write_examples(detector, folder, conversations=examples)


def _write_documents(facts: CardFacts, folder: Path) -> None:
    (folder / PRIVACY_FILE).write_text(facts.evidence.to_json(), encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
    # The bill names every file but itself and the provenance, which names the bill.
    bill = bill_of_materials(
        facts.detector,
        name=facts.name,
        version=facts.version,
        file_digests={name: file.sha256 for name, file in hash_folder(folder).items()},
        evidence=facts.evidence,
        quality=facts.quality,
        limits=LIMITS,
        created_at=facts.created_at,
    )
    (folder / BILL_FILE).write_text(bill, encoding="utf-8")


def _input_digests(facts: CardFacts) -> dict[str, str]:
    features: FeatureSource = facts.detector.feature_set
    stated = {item.name: item.sha256 for item in facts.evidence.public_inputs if item.sha256 is not None}
    return {**stated, f"feature set {features.name}": features.fingerprint}


def _check_whole(folder: Path, *, examples: Sequence[Conversation], signer: Signer) -> None:
    """Read the folder as a stranger would, and refuse it as a stranger would."""
    verify_provenance(folder, keys=[signer.public_key])
    loaded = Detector.load(folder)
    check_examples(loaded, folder)
    check_parity(loaded, folder / ONNX_FILE, examples)
