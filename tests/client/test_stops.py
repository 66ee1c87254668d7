"""A stop, a terminal that closes and a kill: no command leaves what people wrote behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from ringfence.client.stop_signals import stops_as_ctrl_c

PLANTED = "the blue heron waits"
COMMAND = (sys.executable, "-m", "ringfence.client.command_line")


@pytest.fixture(autouse=True)
def _unheard_signals() -> Iterator[None]:
    """As in a process of its own: a test before this one may have run a command that hears them to the end."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Looking:
    """``ringfence data check`` that has read the first of a file whose rest does not come."""

    def __init__(self, tmp_path: Path, *, deaf_to: signal.Signals | None = None) -> None:
        self.temporary = tmp_path / "tmp"
        self.temporary.mkdir(exist_ok=True)
        source = tmp_path / "chats.jsonl"
        os.mkfifo(source)
        self.process = subprocess.Popen(
            [*COMMAND, "data", "check", str(source), "--home", str(tmp_path / "home")],
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if deaf_to is None else lambda: signal.signal(deaf_to, signal.SIG_IGN),
        )
        self.source: BinaryIO = source.open("wb")
        for number in range(20):
            said = [{"author": f"a{number}", "time": index, "text": PLANTED} for index in range(500)]
            line = {"id": f"c{number}", "label": number % 2, "messages": said}
            self.source.write(json.dumps(line).encode() + b"\n")
        self.source.flush()  # more than a pipe holds: the first were read

    def folders(self) -> list[Path]:
        return list(self.temporary.glob("ringfence-*"))

    def files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@contextmanager
def looking(tmp_path: Path, *, deaf_to: signal.Signals | None = None) -> Iterator[Looking]:
    found = Looking(tmp_path, deaf_to=deaf_to)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        found.source.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stop_ends_a_look_as_ctrl_c_does_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with looking(tmp_path) as command:
        assert command.folders()
        command.process.send_signal(number)
        _, said = command.process.communicate(timeout=60)
        assert (command.process.returncode, said.strip()) == (130, "Stopped.")
        assert command.folders() == []


def test_a_kill_leaves_no_text_and_the_next_look_removes_the_folder(tmp_path: Path) -> None:
    with looking(tmp_path) as command:
        assert command.folders()
        assert command.files() == [], "what is read has no name while it is read"
        command.process.kill()
        command.process.wait()
        assert command.folders()
    # Another's in use, and a folder that only begins the same, stay.
    (tmp_path / "other").mkdir()
    kept = command.temporary / "ringfence-of-mine"
    kept.mkdir()
    os.rename(tmp_path / "chats.jsonl", tmp_path / "other" / "chats.jsonl")
    with looking(tmp_path) as second:
        (held,) = set(second.folders()) - {kept}
        _whole_check(tmp_path, second.temporary)
        assert set(second.folders()) == {held, kept}


def test_who_was_started_to_outlive_the_terminal_does(tmp_path: Path) -> None:
    with looking(tmp_path, deaf_to=signal.SIGHUP) as command:
        command.process.send_signal(signal.SIGHUP)
        command.source.close()
        said, _ = command.process.communicate(timeout=60)
        assert command.process.returncode == 0
        assert "20: 10 positive, 10 negative" in said


def _whole_check(folder: Path, temporary: Path) -> None:
    path = folder / "whole.jsonl"
    path.write_text('{"id": "c", "label": 1, "messages": [{"author": "a", "text": "hello"}]}\n')
    subprocess.run(
        [*COMMAND, "data", "check", str(path), "--home", str(folder / "home")],
        env={**os.environ, "TMPDIR": str(temporary)},
        check=True,
        capture_output=True,
        timeout=120,
    )


def test_the_second_of_two_stops_does_not_disturb_what_is_put_away() -> None:
    put_away = False
    try:
        with stops_as_ctrl_c():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                _wait()
            finally:
                os.kill(os.getpid(), signal.SIGHUP)
                _wait()
                put_away = True
    except KeyboardInterrupt:
        pass
    assert put_away
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_library_makes_an_error_of_is_a_stop(number: signal.Signals) -> None:
    def library() -> None:
        try:
            os.kill(os.getpid(), number)
            _wait()
        except KeyboardInterrupt:
            raise RuntimeError("interrupted") from None

    with pytest.raises(KeyboardInterrupt), stops_as_ctrl_c():
        library()
    with pytest.raises(RuntimeError), stops_as_ctrl_c():
        raise RuntimeError("another")


def test_whoever_hears_a_stop_already_goes_on_hearing_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with stops_as_ctrl_c():
            os.kill(os.getpid(), signal.SIGTERM)
            _wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_thread_asks_for_no_signal() -> None:
    failed: list[Exception] = []

    def enter() -> None:
        try:
            with stops_as_ctrl_c():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failed


def _wait() -> None:
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        time.sleep(0.01)


AGENT = """
import sys
from ringfence.client import agent, command_line

def run_agent(home, *, stop, poll_s):
    print("ready", flush=True)
    stop.wait(60)

agent.run_agent = run_agent
sys.argv = ["ringfence", "agent", "run"]
command_line.main()
"""


@pytest.mark.parametrize("deaf", [False, True])
def test_an_agent_whose_terminal_closes_stops_in_its_own_way_unless_it_shall_outlive_it(deaf: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if deaf else None,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        if deaf:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.send_signal(signal.SIGTERM)
        assert "The agent has stopped" in process.stdout.read()
        assert process.wait(60) == 0
