"""The signed provenance of a folder: every change to a file, a statement or a signature is found."""

import base64
import json
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from ringfence.model.errors import TamperedError
from ringfence.model.provenance import PROVENANCE_FILE, sign_provenance, verify_provenance

SIGNER, STRANGER = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "features").mkdir()
    (tmp_path / "model.bin").write_bytes(b"one")
    (tmp_path / "features" / "table.bin").write_bytes(b"two")
    sign_provenance(tmp_path, predicate={"buildDefinition": {}}, signer=SIGNER)
    return tmp_path


def change(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


def edit_envelope(folder: Path, **fields: object) -> None:
    path = folder / PROVENANCE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_untouched_folder_is_accepted_and_signed_alike_twice(folder: Path) -> None:
    verify_provenance(folder, keys=[STRANGER.public_key, SIGNER.public_key])
    before = (folder / PROVENANCE_FILE).read_bytes()
    sign_provenance(folder, predicate={"buildDefinition": {}}, signer=SIGNER)
    assert (folder / PROVENANCE_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (lambda f: change(f, "model.bin", b"other"), "model.bin is not as its provenance says"),
        (lambda f: change(f, "added.bin", b""), "added.bin is not as its provenance says"),
        (lambda f: (f / "features" / "table.bin").unlink(), "features/table.bin is not as"),
        (lambda f: (f / "link").symlink_to("model.bin"), "not a plain"),
        (lambda f: (f / PROVENANCE_FILE).unlink(), "Cannot read"),
        (lambda f: change(f, PROVENANCE_FILE, b"{"), "is not a DSSE envelope"),
        (lambda f: change(f, PROVENANCE_FILE, b"[]"), "is not a DSSE envelope"),
        (lambda f: change(f, PROVENANCE_FILE, b"\xff"), "is not a DSSE envelope"),
        (lambda f: change(f, PROVENANCE_FILE, b"[" * 100_000), "is not a DSSE envelope"),
        (lambda f: edit_envelope(f, signatures=[]), "No key that may build releases"),
        (lambda f: edit_envelope(f, payloadType="application/json"), "No key that may build releases"),
        (lambda f: edit_envelope(f, payload=base64.b64encode(b"{}").decode()), "No key that may build"),
    ],
)
def test_a_changed_folder_or_envelope_is_refused(folder: Path, tamper: object, expected: str) -> None:
    tamper(folder)  # type: ignore[operator]
    with pytest.raises(TamperedError, match=expected):
        verify_provenance(folder, keys=[SIGNER.public_key])


def test_the_signature_of_a_stranger_is_refused(folder: Path) -> None:
    with pytest.raises(TamperedError, match="No key that may build releases"):
        verify_provenance(folder, keys=[STRANGER.public_key])


@pytest.mark.parametrize(
    "statement",
    [{}, {"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1"}],
)
def test_another_statement_by_the_right_key_is_refused(folder: Path, statement: dict[str, str]) -> None:
    from securesystemslib.dsse import Envelope

    envelope = Envelope(json.dumps(statement).encode(), "application/vnd.in-toto+json", {})
    envelope.sign(SIGNER)
    change(folder, PROVENANCE_FILE, json.dumps(envelope.to_dict()).encode())
    with pytest.raises(TamperedError):
        verify_provenance(folder, keys=[SIGNER.public_key])
