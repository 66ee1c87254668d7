"""What the demonstration starts ends with it, whatever ends it; and what it gives to a command stays between them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ringfence.demo import processes as processes_module
from ringfence.demo.processes import MEMBER, Processes
from ringfence.demo.stop_signals import STOPS, stop_as_ctrl_c_does, stops_wait
from ringfence.model.errors import DeadlineError, RingfenceError

SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
# A process during whose end its owner is interrupted: it sends the second Ctrl-C itself, and then takes its time.
INTERRUPTS = """
import os, signal, sys, time
def stop(number, frame):
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(2)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(600)
"""
OWNER = """
import sys, time
from pathlib import Path
from ringfence.demo.processes import Processes
with Processes(logs=Path(sys.argv[1])) as processes:
    print(processes.start("one", sys.argv[2:]).process.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for(condition: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_process_ends_when_the_demonstration_is_killed_without_a_chance_to_end_it(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), *SLEEPS], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    started = int(owner.stdout.readline())
    assert not is_gone(started)
    owner.kill()
    owner.communicate(timeout=60)
    wait_for(lambda: is_gone(started), what="it goes with its owner")


def test_a_second_ctrl_c_does_not_interrupt_the_clean_up(tmp_path: Path, own_handlers: None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    running = Processes(logs=tmp_path)
    one = running.start("one", [sys.executable, "-c", INTERRUPTS])
    try:
        wait_for(lambda: "up" in one.log_file.read_text(), what="it is up")
        with pytest.raises(KeyboardInterrupt), running:
            pass
        assert one.process.returncode == 0, "it ended by itself, and was waited for"
        assert running.running == []
    finally:
        one.process.kill()


def test_a_stop_between_starting_a_process_and_knowing_of_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def interrupted(*given: object, **more: object) -> object:
        process = start(*given, **more)  # type: ignore[call-overload]
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    running = Processes(logs=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        running.start("one", SLEEPS)
    (known,) = running.running
    with running:
        pass
    assert known.process.poll() is not None


@pytest.mark.parametrize("stop", STOPS)
def test_every_stop_raises_what_ctrl_c_raises(stop: signal.Signals, own_handlers: None) -> None:
    signal.signal(stop, signal.SIG_DFL)
    stop_as_ctrl_c_does()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(stop)


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_that_was_to_be_ignored_stays_ignored(stop: signal.Signals, own_handlers: None) -> None:
    signal.signal(stop, signal.SIG_IGN)  # as nohup does for a terminal that is closed
    stop_as_ctrl_c_does()
    with stops_wait():
        assert signal.getsignal(stop) is signal.SIG_IGN
        signal.raise_signal(stop)
    signal.raise_signal(stop)


INVITATION = "rfj1.WyJhbGRlciIsImhlcm9uIl0"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import sys; print('error: No.', file=sys.stderr); sys.exit(1)", RingfenceError),
        ("import time; time.sleep(600)", DeadlineError),
    ],
    ids=["fails", "hangs"],
)
def test_an_error_of_a_command_names_it_and_never_an_invitation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[RingfenceError]
) -> None:
    module = tmp_path / "says_no.py"
    module.write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    member = (sys.executable, "-m", "says_no")
    monkeypatch.setattr(processes_module, "MEMBER", member)
    with Processes(logs=tmp_path) as running, pytest.raises(error) as raised:
        running.call([*member, "join", INVITATION, "--data", "chat.jsonl"], timeout_s=1.0)
    assert raised.value.message.startswith("ringfence join ")
    shown = "".join(traceback.format_exception(raised.value))
    assert INVITATION not in shown + raised.value.hint


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["release", "publish"], "ringfence release publish"),
        (["member", "invite", "alder"], "ringfence member invite"),
        (["score", "/tmp/held-out.jsonl"], "ringfence score"),
        (["join", INVITATION], "ringfence join"),
    ],
)
def test_a_command_is_named_by_its_own_words(words: list[str], name: str) -> None:
    assert processes_module._short([*MEMBER, *words]) == name


def test_an_error_ends_with_the_words_that_say_what_happened(tmp_path: Path) -> None:
    says = "import sys; print('a line'); print('error: It is full.'); print('  fix: Make room.'); sys.exit(1)"
    with Processes(logs=tmp_path) as running:
        one = running.start("one", [sys.executable, "-c", says])
        one.process.wait(60)
        with pytest.raises(RingfenceError, match=r"one ended: It is full\.$"):
            running.check()
