"""The supervisor keeps its children running, and leaves none behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from federation_harness import wait_until

from ringfence.model.errors import ConfigError
from ringfence.server.supervisor import Child

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
FAILS = [sys.executable, "-c", "raise SystemExit(1)"]
MISCONFIGURED = [sys.executable, "-c", "raise SystemExit(4)"]
DEAF = [
    sys.executable,
    "-c",
    (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print('deaf', flush=True); time.sleep(600)"
    ),
]


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child("the sleeper", lambda: SLEEPS)
    yield made
    made.stop(timeout_s=5)


def ended(child: Child) -> None:
    assert child.process is not None
    child.process.wait(20)


def test_a_child_is_started_once(child: Child) -> None:
    child.keep_running({}, now=0.0)
    first = child.process
    child.keep_running({}, now=1.0)
    assert child.process is first


def test_a_child_that_died_is_started_again_after_a_wait(child: Child) -> None:
    child.keep_running({}, now=0.0)
    assert child.process is not None
    child.process.kill()
    ended(child)
    child.keep_running({}, now=10.0)
    assert child.process is None
    child.keep_running({}, now=10.9)
    assert child.process is None
    child.keep_running({}, now=11.1)
    assert child.process is not None


def test_a_child_that_fails_again_and_again_is_started_ever_less_often(child: Child) -> None:
    child.command = lambda: FAILS
    now, waits = 0.0, []
    for _ in range(8):
        child.keep_running({}, now=now)
        ended(child)
        child.keep_running({}, now=now)
        waits.append(child.not_before - now)
        now = child.not_before
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_child_that_cannot_work_with_these_settings_is_not_started_again(child: Child) -> None:
    child.command = lambda: MISCONFIGURED
    child.keep_running({}, now=0.0)
    ended(child)
    with pytest.raises(ConfigError, match="the sleeper cannot start"):
        child.keep_running({}, now=1.0)


def test_a_child_that_cannot_be_started_yet_is_tried_later(child: Child) -> None:
    child.command = lambda: None
    child.keep_running({}, now=0.0)
    assert child.process is None
    child.command = lambda: SLEEPS
    child.keep_running({}, now=0.5)
    assert child.process is not None


def test_a_child_whose_command_changed_is_started_anew(child: Child) -> None:
    """The run starter is given the fleet service's address as it starts, and would ask at an old one for ever."""
    child.keep_running({}, now=0.0)
    first = child.process
    assert first is not None
    child.command = lambda: [*SLEEPS, "another"]
    child.keep_running({}, now=1.0)
    assert first.poll() is not None
    assert child.process is not None
    assert child.process.poll() is None
    assert child.process.pid != first.pid


def test_a_child_whose_command_is_not_known_for_a_while_goes_on(child: Child) -> None:
    child.keep_running({}, now=0.0)
    first = child.process
    child.command = lambda: None
    child.keep_running({}, now=1.0)
    assert child.process is first
    assert first is not None
    assert first.poll() is None


def test_a_deaf_child_is_killed_with_its_own_children(child: Child) -> None:
    child.command = lambda: DEAF
    child.keep_running({}, now=0.0)
    assert child.process is not None
    own = psutil.Process(child.process.pid)
    wait_until(lambda: own.children(), what="the child has a child", timeout_s=20)
    time.sleep(0.2)
    family = [own, *own.children()]
    child.stop(timeout_s=0.5)
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """Left behind, the fleet service would hold its port against the supervisor that comes next."""
    program = (
        "import sys, time; from ringfence.server.supervisor import Child\n"
        f"child = Child('the sleeper', lambda: {SLEEPS!r}); child.keep_running({{}}, now=0.0)\n"
        "print(child.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        sleeper = psutil.Process(int(supervisor.stdout.readline()))
        try:
            supervisor.kill()
            supervisor.wait(10)
            _gone, alive = psutil.wait_procs([sleeper], timeout=10)
            assert alive == []
        finally:
            if sleeper.is_running():
                sleeper.kill()
