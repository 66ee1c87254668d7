"""Files that lie elsewhere: copies that nobody else can read, and errors that say what is wrong and no more."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from data_homes import data_home

from ringfence.client.member_home import MemberHome
from ringfence.client.source_files import SourceFiles
from ringfence.model.errors import ConfigError, DataError

PLANTED = b"the blue heron waits\n"


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


@pytest.fixture
def url() -> Iterator[str]:
    with fsspec.open("memory://far/chats.jsonl", "wb") as file:
        file.write(PLANTED * 1_000)
    yield "memory://far/chats.jsonl"
    fsspec.filesystem("memory").rm("/far", recursive=True)


def test_a_copy_is_private_and_held_until_it_was_read(home: MemberHome, url: str) -> None:
    with SourceFiles(home) as files:
        (copy,) = files.locate([url])
        assert copy.read_bytes() == PLANTED * 1_000
        assert copy.stat().st_mode & 0o077 == 0
        with SourceFiles(home) as others:
            (other,) = others.locate([url])
        assert copy.exists(), "the other reading took it for left over"
        assert not other.exists()
    assert list(home.snapshots.iterdir()) == []


def test_a_disk_without_room_is_named_and_not_the_credentials(home: MemberHome, url: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with SourceFiles(home) as files, pytest.raises(ConfigError, match="do not fit into") as caught:
            files.locate([url])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(home.snapshots) in caught.value.message
    assert "credentials" not in caught.value.hint
    assert list(home.snapshots.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (errno.ENOSPC, ConfigError, "Make room"),
        (errno.EDQUOT, ConfigError, "Make room"),
        (errno.EACCES, DataError, "credentials"),
    ],
)
def test_what_a_storage_fails_of_decides_who_is_to_mend_it(
    home: MemberHome, url: str, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], hint: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, "the blue heron waits")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", fail)
    with SourceFiles(home) as files, pytest.raises(kind) as caught:
        files.locate([url])
    assert hint in caught.value.hint  # type: ignore[attr-defined]
    assert "heron" not in f"{caught.value} {caught.value.message}"  # type: ignore[attr-defined]
