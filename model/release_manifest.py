"""The manifest of a release: its files by name, size and SHA-256. TUF signs the manifest and each file."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ringfence.model.errors import ConfigError, TamperedError
from ringfence.model.plan import Name, Sha256, describe
from ringfence.model.versions import Channel, check_channel, parse_version

LARGEST_FILE_BYTES = 4 << 30
MOST_FILES = 1000
_BLOCK_BYTES = 1 << 20


def _safe_name(name: str) -> str:
    # A name is used as a path under the release's folder: nothing in it may lead out of there.
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and ":" not in name
    if not plain or path.is_absolute() or ".." in path.parts or str(path) != name or name in ("", "."):
        raise ValueError("must be a plain relative path")
    return name


class ReleaseFile(BaseModel):
    """One file of a release.

    Attributes:
        sha256: of its content, hexadecimal.
        size_bytes: 0 to 4 GiB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    size_bytes: int = Field(ge=0, le=LARGEST_FILE_BYTES)


class ReleaseManifest(BaseModel):
    """What a release consists of.

    Attributes:
        schema_version: of this form.
        name: of the detector.
        version: SemVer; candidates carry a pre-release part.
        channel: who vouches for it.
        files: relative POSIX path -> size and hash; 1 to 1,000 files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: Name
    version: str
    channel: Channel
    files: dict[Annotated[str, AfterValidator(_safe_name)], ReleaseFile] = Field(
        min_length=1, max_length=MOST_FILES
    )

    @model_validator(mode="after")
    def _version_fits_channel(self) -> ReleaseManifest:
        try:
            check_channel(parse_version(self.version), channel=self.channel)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return self

    @property
    def target_path(self) -> str:
        """Where TUF knows the manifest, such as ``stable/0.1.0.json``."""
        return manifest_path(self.channel, version=self.version)

    def blob_path(self, file: ReleaseFile) -> str:
        """Return where TUF knows one of the files, by its content."""
        return f"{blob_folder(self.channel)}/{file.sha256}"

    def canonical_json(self) -> bytes:
        """Return the one byte string that is signed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def manifest_path(channel: Channel, *, version: str) -> str:
    """Return where TUF knows the manifest of a version."""
    return f"{channel}/{version}.json"


def blob_folder(channel: Channel) -> str:
    """Return the folder of a channel's files: the coordinator alone can never place one under ``blobs/``."""
    return "blobs" if channel == "stable" else "candidate/blobs"


def parse_manifest(content: bytes) -> ReleaseManifest:
    """Read a manifest.

    Raises:
        TamperedError: it is not in the agreed form. The publisher's fault.
    """
    try:
        return ReleaseManifest.model_validate_json(content)
    except ValidationError as error:
        raise TamperedError(
            f"The release's manifest is not valid: {describe(error)}",
            hint="Ask the coordinator to publish it again.",
        ) from error


def describe_folder(folder: Path, *, name: str, version: str, channel: Channel) -> ReleaseManifest:
    """Return the manifest of a folder of files.

    Args:
        folder: the release's content; plain files and folders only.
        name: of the detector.
        version: SemVer.
        channel: who will vouch for it.

    Raises:
        ConfigError: the folder is missing or empty, holds something else than plain files, or a name or the version
            cannot be published. The builder's fault.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder.", hint="Give the folder of a built release.")
    try:
        return ReleaseManifest(name=name, version=version, channel=channel, files=hash_folder(folder))
    except ValidationError as error:
        raise ConfigError(
            f"{folder} cannot be published: {describe(error)}", hint="Correct the named fields."
        ) from error


def hash_folder(folder: Path) -> dict[str, ReleaseFile]:
    """Return relative POSIX path -> size and hash of every file under a folder.

    Raises:
        ConfigError: something in it is not a plain file. Whoever filled the folder is to mend it.
        OSError: a file cannot be read.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            # A link could name a file that is not part of what was signed.
            raise ConfigError(
                f"{path} is not a plain file.", hint="Put a copy of the file there, not a link."
            )
        files[path.relative_to(folder).as_posix()] = hash_file(path)
    return files


def hash_file(path: Path) -> ReleaseFile:
    """Return size and SHA-256 of a file.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size_bytes += len(block)
    return ReleaseFile(sha256=digest.hexdigest(), size_bytes=size_bytes)


def check_folder(folder: Path, *, manifest: ReleaseManifest) -> None:
    """Compare every file of a folder with a manifest; nothing may be missing, changed or added.

    Raises:
        TamperedError: they differ; the message names the first file. Whoever changed the folder.
    """
    try:
        found = hash_folder(folder)
    except ConfigError as error:
        raise TamperedError(error.message, hint=_PULL_AGAIN) from error
    except OSError as error:
        raise TamperedError(f"Release {manifest.version} cannot be read whole.", hint=_PULL_AGAIN) from error
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            raise TamperedError(f"{name} of release {manifest.version} is missing.", hint=_PULL_AGAIN)
        if name not in manifest.files:
            raise TamperedError(f"{name} is not part of release {manifest.version}.", hint=_PULL_AGAIN)
        if found[name] != manifest.files[name]:
            raise TamperedError(
                f"{name} of release {manifest.version} differs from what was signed.", hint=_PULL_AGAIN
            )


_PULL_AGAIN = "Do not use this copy; pull the release again."
