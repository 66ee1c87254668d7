"""Where a release came from: an in-toto statement with SLSA provenance, signed in a DSSE envelope.

The statement names every other file of the release by its SHA-256, so that one signature covers the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer

from ringfence.model.errors import ConfigError, TamperedError
from ringfence.model.release_manifest import hash_folder

PROVENANCE_FILE = "provenance.intoto.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"

_MAX_BYTES = 4 * 1024 * 1024
_REFUSE = "Do not use this release; pull it again, and tell the coordinator if it stays so."


def sign_provenance(folder: Path, *, predicate: Mapping[str, object], signer: Signer) -> None:
    """Write the signed provenance of a folder's files into it.

    Args:
        folder: a release, complete but for this file.
        predicate: SLSA provenance v1.
        signer: whoever built the release.

    Raises:
        ConfigError: something in the folder is not a plain file. Whoever filled it.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in _digests(folder).items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    envelope = Envelope(json.dumps(statement, sort_keys=True).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    content = json.dumps(envelope.to_dict(), indent=2, sort_keys=True) + "\n"
    (folder / PROVENANCE_FILE).write_text(content, encoding="utf-8")


def verify_provenance(folder: Path, *, keys: Sequence[Key]) -> None:
    """Refuse a folder whose provenance nobody known signed, or whose files are not the ones that it names.

    Args:
        folder: a release.
        keys: of those who may build releases; one signature suffices.

    Raises:
        TamperedError: the signature, the statement or a file is not what it must be.
    """
    statement = _signed_statement(folder / PROVENANCE_FILE, keys)
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != PREDICATE_TYPE:
        raise TamperedError("The provenance is not an in-toto statement of SLSA provenance.", hint=_REFUSE)
    try:
        named = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}  # type: ignore[attr-defined]
    except (KeyError, TypeError) as error:
        raise TamperedError("The provenance names no files.", hint=_REFUSE) from error
    try:
        present = _digests(folder)
    except (ConfigError, OSError) as error:
        raise TamperedError(
            "The release holds something that is not a plain, readable file.", hint=_REFUSE
        ) from error
    for name in sorted(named.keys() | present.keys()):
        if named.get(name) != present.get(name):
            raise TamperedError(f"{name} is not as its provenance says.", hint=_REFUSE)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder but the provenance itself, by its path with ``/``, sorted."""
    return {name: file.sha256 for name, file in hash_folder(folder).items() if name != PROVENANCE_FILE}


def _signed_statement(path: Path, keys: Sequence[Key]) -> dict[str, object]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise TamperedError(f"{path.name} is too large to be a provenance.", hint=_REFUSE)
        envelope = Envelope.from_dict(json.loads(path.read_bytes()))
        envelope.verify(list(keys), threshold=1)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise TamperedError(f"{path.name} holds another kind of statement.", hint=_REFUSE)
        statement = json.loads(envelope.payload)
    except OSError as error:
        raise TamperedError(f"Cannot read {path}: {error.strerror}.", hint=_REFUSE) from error
    except VerificationError as error:
        raise TamperedError("No key that may build releases signed the provenance.", hint=_REFUSE) from error
    # Whatever a stranger may put into an envelope: wrong types, missing fields, broken base64, too deep a nesting.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TamperedError(f"{path.name} is not a DSSE envelope.", hint=_REFUSE) from error
    if not isinstance(statement, dict):
        raise TamperedError(f"{path.name} holds no statement.", hint=_REFUSE)
    return statement
