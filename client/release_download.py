"""Downloading a release: into staging, every file verified, then into place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater

from ringfence.client.founding import pin_first_root
from ringfence.client.member_home import MemberHome
from ringfence.client.release_fetcher import ARTIFACT_URL, METADATA_URL, GrpcFetcher
from ringfence.client.signed_releases import metadata_folder, pinned_root
from ringfence.client.update_errors import house_errors
from ringfence.model.atomic_file import exclusive, sync_folder, write_atomically
from ringfence.model.errors import NotFoundError, TamperedError
from ringfence.model.release_manifest import (
    ReleaseManifest,
    check_folder,
    hash_file,
    manifest_path,
    parse_manifest,
)
from ringfence.model.versions import Channel, ReleaseVersion


class ReleaseSession:
    """One locked conversation with the coordinator, as a context: one Updater, one channel, one cache folder.

    Args:
        home: the member's folder.
        open_channel: connects to the coordinator.
        lock_file: held for the length of the context; the Updater's folder is never shared.
    """

    def __init__(
        self, home: MemberHome, *, open_channel: Callable[[], grpc.Channel], lock_file: Path
    ) -> None:
        self._home = home
        self._open_channel = open_channel
        self._lock = exclusive(lock_file)

    def __enter__(self) -> ReleaseSession:
        self._lock.__enter__()
        try:
            for name in ("metadata", "partial", "staging", "installed"):
                (self._home.releases / name).mkdir(mode=0o700, exist_ok=True)
            self._channel = self._open_channel()
            pin_first_root(self._home, channel=self._channel)
            self._fetcher = GrpcFetcher(self._channel, partial_folder=self._home.releases / "partial")
            with house_errors():
                self._updater = Updater(
                    metadata_dir=str(metadata_folder(self._home)),
                    metadata_base_url=METADATA_URL,
                    target_dir=str(self._home.releases / "staging"),
                    target_base_url=ARTIFACT_URL,
                    fetcher=self._fetcher,
                    bootstrap=pinned_root(self._home),
                )
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._lock.__exit__(None, None, None)

    def update(self, channel: Channel) -> None:
        """Fetch and verify the newest metadata of a channel.

        Raises:
            RingfenceError: it cannot be trusted, has expired or cannot be fetched; see `house_errors`.
        """
        with house_errors():
            # Asking for any path of the channel makes the Updater verify and store the channel's metadata.
            self._updater.get_targetinfo(manifest_path(channel, version="0.0.0"))

    def install(self, version: ReleaseVersion) -> None:
        """Download a release into staging, and move it into place when every file has been verified.

        Raises:
            RingfenceError: it cannot be trusted or fetched; see `house_errors`. Nothing was installed.
        """
        staging = self._home.releases / "staging" / str(version)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            with house_errors():
                manifest_file = staging.with_name(f"{version}.json")
                self._download(
                    manifest_path(version.channel, version=str(version)), destination=manifest_file
                )
                content = manifest_file.read_bytes()
                manifest_file.unlink()
                manifest = expected_manifest(content, version=version)
                for name in manifest.files:
                    self._place(name, manifest=manifest, staging=staging)
                check_folder(staging, manifest=manifest)
                self._move(staging, manifest=content, version=version)
        except TamperedError:
            self._fetcher.discard_partial()
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _place(self, name: str, *, manifest: ReleaseManifest, staging: Path) -> None:
        destination = staging / name
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = manifest.files[name]
        target = self._target(manifest.blob_path(file))
        if (target.hashes.get("sha256"), target.length) != (file.sha256, file.size_bytes):
            raise TamperedError(
                f"The manifest and the metadata disagree about {name}.", hint="Tell the coordinator."
            )
        # What an earlier release brought is not downloaded again; it is verified like everything else.
        for installed in sorted((self._home.releases / "installed").iterdir()):
            old = installed / name
            if old.is_file() and not old.is_symlink() and old.stat().st_size == file.size_bytes:
                shutil.copyfile(old, destination)
                if hash_file(destination) == file:
                    return
        self._updater.download_target(target, filepath=str(destination))

    def _download(self, path: str, *, destination: Path) -> None:
        self._updater.download_target(self._target(path), filepath=str(destination))

    def _target(self, path: str) -> TargetFile:
        found = self._updater.get_targetinfo(path)
        if found is None:
            raise NotFoundError(
                "The signed metadata does not list a file of this release.", hint="Tell the coordinator."
            )
        return found

    def _move(self, staging: Path, *, manifest: bytes, version: ReleaseVersion) -> None:
        installed = self._home.releases / "installed"
        for path in staging.rglob("*"):
            if path.is_file():
                _sync_file(path)
        damaged = staging.with_name(f"{version}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        if (installed / str(version)).exists():
            os.replace(installed / str(version), damaged)
        write_atomically(installed / f"{version}.json", manifest)
        os.replace(staging, installed / str(version))
        sync_folder(installed)
        shutil.rmtree(damaged, ignore_errors=True)


def expected_manifest(content: bytes, *, version: ReleaseVersion) -> ReleaseManifest:
    """Read the manifest of a certain version.

    Raises:
        TamperedError: it is not a manifest, or of another release. The publisher's fault.
    """
    manifest = parse_manifest(content)
    if manifest.version != str(version) or manifest.channel != version.channel:
        raise TamperedError("The manifest is of another release.", hint="Tell the coordinator.")
    return manifest


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
