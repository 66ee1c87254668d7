"""Releases at the member: pull, verify, use, and what happens when something goes wrong on this side."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from trust_harness import FILES, TrustFederation, make_trust_federation

from ringfence.client.command_line import application
from ringfence.client.release_fetcher import Retry
from ringfence.client.releases import ReleaseStore
from ringfence.model.console import run_application
from ringfence.model.errors import (
    ConfigError,
    ConnectionFailedError,
    NotFoundError,
    PolicyError,
    ReleaseError,
    RingfenceError,
    TamperedError,
    ThresholdError,
)
from ringfence.server.release_service import ReleaseService


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    made = make_trust_federation(tmp_path)
    made.release("0.1.0")
    return made


@pytest.fixture
def store(federation: TrustFederation) -> ReleaseStore:
    """Gamma's store, with 0.1.0 installed and in use; the coordinator is away."""
    with federation.serving() as address:
        store = federation.store("gamma", address)
        store.use(store.pull().version)
    return store


def test_a_pulled_release_lies_whole_in_its_folder_and_changes_nothing_until_it_is_used(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    with federation.serving() as address:
        store = federation.store("gamma", address)
        installed = store.pull()
    found = {
        path.relative_to(installed.folder).as_posix(): path.read_bytes()
        for path in installed.folder.rglob("*")
        if path.is_file()
    }
    assert found == {**FILES, "README.md": b"two\n"}
    assert store.in_use() == "0.1.0"
    store.use("0.2.0")
    assert (store.current() / "README.md").read_bytes() == b"two\n"
    store.use("0.1.0")
    assert (store.current() / "README.md").read_bytes() == FILES["README.md"]


def test_files_that_an_earlier_release_brought_are_not_downloaded_again(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    blobs = federation.home.repository / "targets" / "blobs"
    for blob in blobs.iterdir():
        if blob.read_bytes() != b"two\n":
            blob.unlink()
    with federation.serving() as address:
        assert federation.store("gamma", address).pull().version == "0.2.0"


def test_a_damaged_copy_here_is_never_taken_over_into_the_next_release(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    (store.current() / "model.safetensors").write_bytes(b"WEIGHTS" * 1000)
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    with federation.serving() as address:
        installed = federation.store("gamma", address).pull()
    assert (installed.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def change_a_file(installed: Path) -> None:
    (installed / "0.1.0" / "model.safetensors").write_bytes(b"WEIGHTS" * 1000)


def add_a_file(installed: Path) -> None:
    (installed / "0.1.0" / "plugin.py").write_bytes(b"")


def remove_a_file(installed: Path) -> None:
    (installed / "0.1.0" / "features" / "table").unlink()


def link_a_file_elsewhere(installed: Path) -> None:
    path = installed / "0.1.0" / "model.safetensors"
    shutil.copy(path, installed / "copy")
    path.unlink()
    path.symlink_to(installed / "copy")


def change_the_manifest(installed: Path) -> None:
    path = installed / "0.1.0.json"
    path.write_bytes(path.read_bytes().replace(b"README.md", b"readme.md"))


def change_the_manifest_and_a_file_alike(installed: Path) -> None:
    # Every file is still one that was signed; only its name is not.
    change_the_manifest(installed)
    (installed / "0.1.0" / "README.md").rename(installed / "0.1.0" / "readme.md")


def remove_the_manifest(installed: Path) -> None:
    (installed / "0.1.0.json").unlink()


TAMPERINGS = (
    change_a_file,
    add_a_file,
    remove_a_file,
    link_a_file_elsewhere,
    change_the_manifest,
    change_the_manifest_and_a_file_alike,
    remove_the_manifest,
)


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_tampering_with_an_installed_release_is_found_offline_and_mended_by_a_pull(
    tamper: Callable[[Path], None], federation: TrustFederation, store: ReleaseStore
) -> None:
    assert store.verified_current() == store.verify("0.1.0").folder
    tamper(federation.members["gamma"].releases / "installed")
    with pytest.raises(TamperedError):
        store.verify("0.1.0")
    with pytest.raises(TamperedError):
        store.use("0.1.0")
    with pytest.raises(TamperedError):
        store.verified_current()
    with federation.serving() as address:
        federation.store("gamma", address).pull(version="0.1.0")
    assert store.verify("0.1.0").folder == store.current()


@pytest.mark.parametrize("command", [("score", "-"), ("model", "evaluate"), ("model", "calibrate")])
def test_nothing_is_scored_with_a_release_that_changed_since_it_was_taken_into_use(
    federation: TrustFederation,
    store: ReleaseStore,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    weights = store.current() / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    home = str(federation.members["gamma"].root)
    assert run_application(application, [*command, "--home", home]) != 0
    assert "model.safetensors of release 0.1.0 differs from what was signed" in capsys.readouterr().err


def forge_stable(federation: TrustFederation) -> None:
    path = federation.members["gamma"].releases / "metadata" / "stable.json"
    content = json.loads(path.read_bytes())
    content["signed"]["targets"]["stable/0.1.0.json"]["custom"]["yanked"] = True
    path.write_text(json.dumps(content))


def forge_targets(federation: TrustFederation) -> None:
    path = federation.members["gamma"].releases / "metadata" / "targets.json"
    content = json.loads(path.read_bytes())
    content["signed"]["version"] += 1
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("forge", [forge_stable, forge_targets])
def test_stored_metadata_that_was_edited_is_not_believed(
    forge: Callable[[TrustFederation], None], federation: TrustFederation, store: ReleaseStore
) -> None:
    before = store.list()
    forge(federation)
    with pytest.raises(ThresholdError):
        store.verify("0.1.0")
    with pytest.raises(ThresholdError):
        store.list()
    with federation.serving() as address:
        federation.store("gamma", address).pull()
    assert store.list() == before


def test_going_back_takes_the_release_that_was_used_before_and_twice_comes_back(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    with pytest.raises(NotFoundError, match="before") as nothing:
        store.rollback()
    assert nothing.value.hint
    store.use("0.1.0")  # the one in use, which is no step
    assert store.used_before() is None
    for version in ("0.2.0", "0.3.0"):
        federation.release(version, files={**FILES, "README.md": version.encode()})
        with federation.serving() as address:
            store = federation.store("gamma", address)
            store.use(store.pull().version)
    home = federation.members["gamma"].root
    assert run_application(application, ["model", "rollback", "--home", str(home)]) == 0
    assert store.in_use() == "0.2.0"  # not the oldest, and not a version that was merely installed
    assert store.rollback().version == "0.3.0"
    assert store.current() == store.verify("0.3.0").folder


def test_going_back_never_takes_a_withdrawn_damaged_or_unvouched_release(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    federation.trust.publish_candidate(federation.folder("c"), version="0.2.0-rc.1")
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    with federation.serving() as address:
        store = federation.store("gamma", address)
        store.use(store.pull("candidate").version, allow_candidate=True)
        store.use(store.pull().version)
    with pytest.raises(PolicyError):
        store.rollback()
    assert store.rollback(allow_candidate=True).version == "0.2.0-rc.1"
    card = store.verify("0.2.0").folder / "README.md"
    card.write_bytes(b"two!\n")
    with pytest.raises(TamperedError):
        store.rollback()
    card.write_bytes(b"two\n")
    federation.yank("0.2.0")
    with federation.serving() as address:
        federation.store("gamma", address).refresh()
    with pytest.raises(ReleaseError, match="withdrawn"):
        store.rollback()
    assert store.in_use() == "0.2.0-rc.1"


def test_a_candidate_is_used_only_on_purpose(federation: TrustFederation, store: ReleaseStore) -> None:
    federation.trust.publish_candidate(federation.folder("c"), version="0.2.0-rc.1")
    with federation.serving() as address:
        store = federation.store("gamma", address)
        assert store.pull().version == "0.1.0"
        assert store.pull("candidate").version == "0.2.0-rc.1"
    with pytest.raises(PolicyError):
        store.use("0.2.0-rc.1")
    assert store.in_use() == "0.1.0"
    store.use("0.2.0-rc.1", allow_candidate=True)
    assert store.in_use() == "0.2.0-rc.1"


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda store: store.pull(version="9.9.9"), NotFoundError),
        (lambda store: store.pull(version="../../x"), ConfigError),
        (lambda store: store.pull("candidate", "0.1.0"), ConfigError),
        (lambda store: store.pull("stable", "0.1.0-rc.1"), ConfigError),
        (lambda store: store.pull("candidate"), NotFoundError),
        (lambda store: store.verify("0.3.0"), NotFoundError),
        (lambda store: store.use("0.3.0"), NotFoundError),
    ],
    ids=["unknown", "a path", "stable as candidate", "candidate as stable", "none yet", "verify", "use"],
)
def test_asking_for_what_is_not_there_is_an_error_with_a_hint(
    ask: Callable[[ReleaseStore], object],
    expected: type[RingfenceError],
    federation: TrustFederation,
    store: ReleaseStore,
) -> None:
    with federation.serving() as address, pytest.raises(expected) as caught:
        ask(federation.store("gamma", address))
    assert caught.value.hint


def test_without_the_coordinator_updates_wait_and_everything_else_works(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    away = federation.store("gamma", "127.0.0.1:1")
    with pytest.raises(ConnectionFailedError) as caught:
        away.pull()
    assert caught.value.hint
    assert away.verify("0.1.0").folder == away.current()
    assert [release.version for release in away.list()] == ["0.1.0"]


def test_a_member_that_never_pulled_is_told_what_to_do(federation: TrustFederation) -> None:
    fresh = ReleaseStore(federation.members["acme"])
    shutil.rmtree(federation.members["acme"].releases)
    assert fresh.list() == ()
    assert fresh.in_use() is None
    for ask in (fresh.current, lambda: fresh.verify("0.1.0")):
        with pytest.raises(NotFoundError, match=r"No release|not installed") as caught:
            ask()
        assert "model pull" in caught.value.hint


def test_a_download_that_was_stopped_goes_on_after_a_restart(
    federation: TrustFederation, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = os.urandom(1 << 20)
    federation.release("0.2.0", files={**FILES, "model.safetensors": large})
    partial = federation.members["gamma"].releases / "partial"
    digest = next(
        target
        for path, target in federation.trust.repository.read().stable.signed.targets.items()
        if path.startswith("blobs/") and target.length == len(large)
    )
    name = hashlib.sha256(digest.get_prefixed_paths()[0].encode()).hexdigest()
    (partial / f"{name}.part").write_bytes(large[: 700 << 10])
    offsets: list[int] = []
    serve = ReleaseService.DownloadArtifact

    async def watch(self: ReleaseService, request: object, context: object) -> AsyncIterator[object]:
        offsets.append(request.offset)  # type: ignore[attr-defined]
        async for part in serve(self, request, context):  # type: ignore[arg-type]
            yield part

    monkeypatch.setattr(ReleaseService, "DownloadArtifact", watch)
    with federation.serving() as address:
        installed = federation.store("gamma", address).pull()
    assert (installed.folder / "model.safetensors").read_bytes() == large
    assert 700 << 10 in offsets


def test_a_spoilt_partial_download_is_forgotten_so_that_the_next_pull_succeeds(
    federation: TrustFederation, store: ReleaseStore
) -> None:
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    partial = federation.members["gamma"].releases / "partial"
    for target in federation.trust.repository.read().stable.signed.targets.values():
        name = hashlib.sha256(target.get_prefixed_paths()[0].encode()).hexdigest()
        (partial / f"{name}.part").write_bytes(b"?")
    with federation.serving() as address:
        store = federation.store("gamma", address)
        with pytest.raises(TamperedError):
            store.pull()
        assert not list(partial.iterdir())
        assert store.pull().version == "0.2.0"


def test_a_full_disk_installs_nothing_and_says_so(
    federation: TrustFederation, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with federation.serving() as address:
        store = federation.store("gamma", address)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "copyfileobj", full)
            with pytest.raises(ReleaseError, match="No space left"):
                store.pull()
        assert [release.installed for release in store.list()] == [True, False]
        assert store.in_use() == "0.1.0"
        assert store.pull().version == "0.2.0"


def test_waits_between_tries_double_and_are_capped() -> None:
    retry = Retry(attempts=6, base_s=0.5, cap_s=3.0)
    assert [retry.wait_s(failures) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
