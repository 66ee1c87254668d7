"""The manifest of a release holds exactly the files of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ringfence.model.errors import ConfigError, TamperedError
from ringfence.model.release_manifest import ReleaseManifest, check_folder, describe_folder, parse_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "release"
    (made / "features").mkdir(parents=True)
    (made / "README.md").write_text("card")
    (made / "features" / "table").write_bytes(b"\0" * 10)
    (made / "empty").write_bytes(b"")
    return made


def described(folder: Path) -> ReleaseManifest:
    return describe_folder(folder, name="detector", version="0.1.0", channel="stable")


def test_a_folder_equals_its_own_manifest_also_after_a_round_trip(folder: Path) -> None:
    manifest = described(folder)
    assert sorted(manifest.files) == ["README.md", "empty", "features/table"]
    assert parse_manifest(manifest.canonical_json()) == manifest
    check_folder(folder, manifest=manifest)


def change(folder: Path) -> None:
    (folder / "README.md").write_text("dark")


def lengthen(folder: Path) -> None:
    (folder / "README.md").write_text("card!")


def remove(folder: Path) -> None:
    (folder / "features" / "table").unlink()


def add(folder: Path) -> None:
    (folder / "features" / "more").write_text("x")


def add_hidden(folder: Path) -> None:
    (folder / ".hidden").write_text("x")


def replace_by_a_link(folder: Path) -> None:
    (folder.parent / "elsewhere").write_text("card")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("tamper", [change, lengthen, remove, add, add_hidden, replace_by_a_link])
def test_any_difference_from_the_manifest_is_found(tamper: Callable[[Path], None], folder: Path) -> None:
    manifest = described(folder)
    tamper(folder)
    with pytest.raises(TamperedError):
        check_folder(folder, manifest=manifest)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../b", "a//b", "./a", ".", "", "a\\b", "a\nb", "c:x", "a/", "..", "a/.."]
)
def test_a_file_name_that_leads_out_of_the_folder_is_refused(name: str, folder: Path) -> None:
    content = json.loads(described(folder).canonical_json())
    content["files"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    with pytest.raises(TamperedError):
        parse_manifest(json.dumps(content).encode())


@pytest.mark.parametrize(
    "change",
    [{"version": "0.1.0-rc.1"}, {"channel": "candidate"}, {"files": {}}, {"extra": 1}, {"schema_version": 2}],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_is_not_in_the_agreed_form_is_refused(
    change: dict[str, object], folder: Path
) -> None:
    content = {**json.loads(described(folder).canonical_json()), **change}
    with pytest.raises(TamperedError):
        parse_manifest(json.dumps(content).encode())


def test_a_folder_that_holds_a_link_or_nothing_cannot_be_published(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (folder / "link").symlink_to(folder / "README.md")
    for bad in (folder, tmp_path / "nothing", tmp_path / "missing", folder / "README.md"):
        with pytest.raises(ConfigError):
            described(bad)
