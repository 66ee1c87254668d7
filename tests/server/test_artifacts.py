"""Artifacts are whole, durable and what their name says: in a folder, and in an object store that speaks S3."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ringfence.model.errors import ConfigError, StorageError
from ringfence.server import artifacts
from ringfence.server.artifacts import ArtifactStore


class Bucket(BaseHTTPRequestHandler):
    """The two calls of S3 that are used; what was put is kept in ``objects``."""

    objects: dict[str, bytes]
    refusing = False

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refusing:
            self._answer(403, b"")
            return
        self.objects[self.path] = content
        self._answer(200, b"")

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        self._answer(404 if found is None else 200, found or b"")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 01 Mar 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    kind = type("OneBucket", (Bucket,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # As a cloud's own environment gives the access: never in a URL.
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_REGION": "here-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(artifacts._CLIENT, "allow_http", True)
    yield kind
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("place", ["folder", "s3://models/ringfence"])
def test_what_is_kept_is_read_back_and_named_by_its_hash(
    place: str, tmp_path: Path, bucket: type[Bucket]
) -> None:
    store = ArtifactStore(tmp_path / place if place == "folder" else place)
    kept = store.keep(b"a model", kind="checkpoint")
    assert kept.digest == hashlib.sha256(b"a model").hexdigest()
    assert kept.size_bytes == 7
    assert store.keep(b"a model", kind="checkpoint") == kept
    assert store.read(kept.digest) == b"a model"
    where = f"{kept.digest[:2]}/{kept.digest}"
    if place == "folder":
        assert [path for path in (tmp_path / place).rglob("*") if path.is_file()] == [
            tmp_path / place / where
        ]
        assert (tmp_path / place / where).stat().st_mode & 0o777 == 0o600
    else:
        assert bucket.objects == {f"/models/ringfence/{where}": b"a model"}


def test_what_an_object_store_changed_or_lost_is_refused(bucket: type[Bucket]) -> None:
    store = ArtifactStore("s3://models/ringfence")
    kept = store.keep(b"a model", kind="checkpoint")
    (key,) = bucket.objects
    bucket.objects[key] = b"another"
    with pytest.raises(StorageError, match="is damaged"):
        store.read(kept.digest)
    del bucket.objects[key]
    with pytest.raises(StorageError, match="is missing"):
        store.read(kept.digest)


def test_an_object_store_that_refuses_is_named_without_its_secrets(bucket: type[Bucket]) -> None:
    bucket.refusing = True
    with pytest.raises(StorageError, match="Cannot write to the artifacts in s3://models") as caught:
        ArtifactStore("s3://models/ringfence").keep(b"a model", kind="checkpoint")
    assert "hidden" not in str(caught.value) + caught.value.hint


def test_a_folder_that_cannot_be_written_is_named_and_holds_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "folder")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="Cannot write"):
        store.keep(b"a model", kind="checkpoint")
    assert [path for path in (tmp_path / "folder").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "url", ["", "https://example.org/x", "file:///tmp/x", "ftp://a/b", "nonsense", "memory:///"]
)
def test_only_object_stores_that_last_are_taken(url: str) -> None:
    with pytest.raises(ConfigError, match="artifacts_url"):
        ArtifactStore(url)
