"""Finding the evidence of a release, and the plan that lies beside it."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.client.releases import ReleaseStore
from ringfence.model.errors import ConfigError, ReleaseError
from ringfence.model.evidence import PrivacyEvidence, parse_evidence
from ringfence.model.plan import Plan, load_plan, parse_plan
from ringfence.model.provenance import PROVENANCE_FILE

EVIDENCE_FILE = "privacy.json"


@dataclass(frozen=True, slots=True)
class FoundEvidence:
    """Evidence, and where it was found.

    Attributes:
        evidence: in the agreed form; its promise is that of its numbers.
        path: of ``privacy.json``.
        version: of the release whose signatures were verified, or None for a file of one's own choice.
    """

    evidence: PrivacyEvidence
    path: Path
    version: str | None


def find_evidence(home: MemberHome, named: str | None) -> FoundEvidence:
    """Return the evidence of an installed version (the one in use for None), of a file, or of a release's folder.

    Raises:
        ReleaseError: the release does not verify, or the evidence is not in the agreed form, or its promise is not that of
            its numbers.
        ConfigError: the file cannot be read. The operator's to mend.
    """
    if named is not None and ("/" in named or named.endswith(".json") or Path(named).exists()):
        path = Path(named) / EVIDENCE_FILE if Path(named).is_dir() else Path(named)
        version = None
    else:
        store = ReleaseStore(home)
        version = named or store.current().resolve().name
        path = store.verify(version).folder / EVIDENCE_FILE
    try:
        return FoundEvidence(parse_evidence(path.read_bytes()), path, version)
    except OSError as error:
        raise ConfigError(
            f"Cannot read {path}: {error.strerror}",
            hint="Name a version, a privacy.json or a release's folder.",
        ) from error


def find_plan(found: FoundEvidence, given: Path | None) -> Plan | None:
    """Return the plan that was given, or the one that the release's provenance carries, or None.

    Raises:
        ConfigError: the given file is no plan.
        ReleaseError: the provenance beside the evidence carries something else than a plan. The builder's fault.
    """
    if given is not None:
        return parse_plan(_read(given)) if given.suffix == ".json" else load_plan(given)
    provenance = found.path.parent / PROVENANCE_FILE
    if not provenance.is_file():
        return None
    try:
        statement = json.loads(base64.b64decode(json.loads(provenance.read_bytes())["payload"]))
        values = statement["predicate"]["buildDefinition"]["externalParameters"]["plan"]
        return Plan.model_validate_json(json.dumps(values))
    except (OSError, binascii.Error, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ReleaseError(
            f"{PROVENANCE_FILE} beside the evidence carries no plan in the agreed form.",
            hint="Do not use this release.",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read the plan {path}: {error.strerror}", hint="Check the path.") from error
