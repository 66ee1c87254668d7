"""The supervisor keeps its children running whatever its database does, and leaves none behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from cut_network import CuttableNetwork
from databases import empty_database_url
from federation_harness import wait_until
from sqlalchemy import make_url
from trust_harness import prepare_trust_federation

from ringfence.model.errors import ConfigError
from ringfence.server.coordinator_database import open_database
from ringfence.server.serving_claim import serve_alone
from ringfence.server.supervisor import Child, Supervisor
from ringfence.server.work_beside import WorkBeside

NOW = datetime(2026, 3, 1, tzinfo=UTC)
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


def test_a_database_that_stands_still_keeps_neither_a_stop_unheard_nor_a_child_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets connections in and answers nothing: no error comes, and no end."""
    monkeypatch.setattr("ringfence.server.supervisor._LONG_LOOK_S", 0.5, raising=False)
    with empty_database_url("postgresql", tmp_path) as url:
        given = make_url(url)
        with CuttableNetwork(f"{given.host}:{given.port or 5432}") as network:
            host, _, port = network.address.rpartition(":")
            there = given.set(host=host, port=int(port)).render_as_string(hide_password=False)
            federation = prepare_trust_federation(tmp_path / "made", names=(), database_url=there)
            database, stop = open_database(federation.home), threading.Event()
            with serve_alone(database, now=NOW) as held:
                supervisor = Supervisor(federation.home, federation.settings, held, [child])
                serving = threading.Thread(target=supervisor.run, args=(stop,), daemon=True)
                serving.start()
                try:
                    wait_until(lambda: child.process is not None, what="the child runs", timeout_s=60)
                    network.cut()
                    wait_until(lambda: "does not answer" in caplog.text, what="it is said", timeout_s=60)
                    first = child.process
                    assert first is not None
                    first.kill()
                    wait_until(lambda: child.process not in (None, first), what="it is back", timeout_s=60)
                    stop.set()
                    serving.join(30)
                    assert not serving.is_alive()
                finally:
                    stop.set()
                    network.mend()
                    serving.join(120)
            database.close()


def test_work_beside_a_loop_is_never_done_twice_at_a_time_and_its_errors_are_the_loops() -> None:
    done, begun, at_once = threading.Semaphore(0), [], []

    def work() -> None:
        at_once.append(len(at_once) == len(begun))
        done.acquire()
        begun.append(1)
        if len(begun) == 2:
            raise ConfigError("another took over", hint="")

    beside = WorkBeside(work)
    for _ in range(3):
        beside.turn()
    assert beside.under_way_s > 0
    beside.settle(timeout_s=0.01)
    for _ in range(2):
        done.release()
        beside.settle(timeout_s=60)
        assert beside.under_way_s == 0
        if len(begun) == 1:
            beside.turn()
    with pytest.raises(ConfigError, match="another took over"):
        beside.turn()
    assert at_once == [True, True]
