"""The demonstration's folder is held by one demonstration at a time, and emptied of nothing that is not the demonstration's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.demo.demo_folder import MARKER, DemoFolder
from ringfence.model.errors import ConfigError


def folder_at(root: Path) -> DemoFolder:
    return DemoFolder(root=root, members=())


def test_what_an_earlier_demonstration_wrote_is_gone_and_only_that(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "demonstration")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    with folder.claim():
        (folder.root / "members").mkdir()
        (folder.root / "plan.toml").touch()
        (folder.root / "link").symlink_to(elsewhere)
    with folder.claim():
        assert sorted(found.name for found in folder.root.iterdir()) == [MARKER, "logs"]
    assert (elsewhere / "kept").exists()


def test_a_second_demonstration_is_refused_at_once_and_touches_nothing(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    with folder.claim():
        (tmp_path / "plan.toml").touch()
        # No time for it to end is given to one that lives: this would outlast the test's own limit.
        with pytest.raises(ConfigError, match="Another demonstration runs in"), folder.claim(patience_s=3600):
            pytest.fail("the folder is held")
        assert (tmp_path / "plan.toml").exists()
    with folder.claim():
        pass


CLAIMS_AND_DIES = """
import os, subprocess, sys
from pathlib import Path
from ringfence.demo.demo_folder import DemoFolder

claim = DemoFolder(root=Path(sys.argv[1]), members=()).claim()
descriptor = claim.__enter__()
left = subprocess.Popen(["sleep", "600"], pass_fds=(descriptor,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(left.pid, flush=True)
os._exit(1)
"""


def test_what_a_killed_demonstration_left_running_holds_the_folder_until_it_ends(tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, "-c", CLAIMS_AND_DIES, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    left = int(died.stdout)
    folder = folder_at(tmp_path)
    with pytest.raises(ConfigError, match="Another demonstration runs in"), folder.claim(patience_s=0.5):
        pytest.fail("the folder is held")
    os.kill(left, 9)
    with folder.claim(patience_s=60):
        pass


def test_an_emptying_that_was_interrupted_goes_on_at_the_next_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_at(tmp_path / "demonstration")
    with folder.claim():
        for name in ("coordinator", "members", "more"):
            (folder.root / name).mkdir()
    remove = shutil.rmtree

    def interrupted(path: Path) -> None:
        remove(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt), folder.claim():
            pytest.fail("the emptying was not reached")
    assert 1 < len(list(folder.root.iterdir())) < 5
    with folder.claim():
        assert sorted(found.name for found in folder.root.iterdir()) == [MARKER, "logs"]


def test_a_folder_that_cannot_be_emptied_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_at(tmp_path)
    with folder.claim():
        pass

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(ConfigError, match=r"Cannot write to .*Permission denied"), folder.claim():
        pytest.fail("its files are still there")


def test_a_folder_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    folder = folder_at(tmp_path / "link")
    for _ in range(2):
        with folder.claim():
            (folder.root / "plan.toml").touch()
    assert (tmp_path / "disk" / MARKER).exists()


def test_what_the_demonstration_did_not_write_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the blue heron waits")
    with pytest.raises(ConfigError, match="did not write") as refused, folder_at(tmp_path).claim():
        pytest.fail("it is somebody's")
    assert refused.value.exit_code == 4
    assert [found.name for found in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("place", "said"), [("thesis.txt", "is a file"), ("thesis.txt/demonstration", "Not a directory")]
)
def test_a_file_is_no_folder(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "thesis.txt").write_text("the blue heron waits")
    with pytest.raises(ConfigError, match=said) as refused, folder_at(tmp_path / place).claim():
        pytest.fail("a file cannot hold files")
    assert (refused.value.exit_code, "--folder" in refused.value.hint) == (4, True)
    assert (tmp_path / "thesis.txt").read_text() == "the blue heron waits"
