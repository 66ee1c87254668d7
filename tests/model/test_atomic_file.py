"""Files that are the old ones or the new ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringfence.model.atomic_file import exclusive, replace_link, write_atomically


def test_a_file_is_replaced_whole_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_flipped_and_never_missing(tmp_path: Path) -> None:
    link = tmp_path / "current"
    for target in ("a", "b"):
        replace_link(link, target=target)
        assert os.readlink(link) == target
    assert os.listdir(tmp_path) == ["current"]


def test_a_lock_is_held_by_one_at_a_time_and_falls_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with exclusive(lock):
            os.write(writer, b"1")
            os._exit(0)
    os.read(reader, 1)
    os.waitpid(child, 0)
    with exclusive(lock):
        assert lock.exists()
