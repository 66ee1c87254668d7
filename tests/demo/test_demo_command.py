"""`ringfence demo` as a new user runs it: real processes, a table, and nothing left running whatever happens."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ringfence.demo.demo_folder import DemoFolder

COMMAND = [sys.executable, "-m", "ringfence.client.command_line", "demo"]
SMALL = ["--conversations", "80", "--rounds", "5"]


def family_of(folder: Path) -> list[psutil.Process]:
    """Return every process that was told to work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(str(folder) in word for word in words):
            found.append(process)
    return found


def agents_of(folder: Path) -> list[psutil.Process]:
    """Return the agents among them."""
    found = []
    for process in family_of(folder):
        try:
            if "agent" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended; its exit status may wait for somebody to ask for it, who is not ours any more."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def listeners_of(process: psutil.Process) -> set[str]:
    """Return the addresses that a process takes connections or datagrams at, as ``ss -lntup`` would."""
    try:
        found = process.net_connections(kind="inet")
    except psutil.NoSuchProcess:
        return set()
    return {
        one.laddr.ip.removeprefix("::ffff:")
        for one in found
        if one.status == psutil.CONN_LISTEN or one.type is socket.SOCK_DGRAM
    }


def wait_for_answers(started: subprocess.Popen, folder: Path) -> None:
    """Wait until every member has answered a round."""
    deadline = time.monotonic() + 300
    logs = [folder / "logs" / f"{name}.log" for name in ("alder", "birch", "cedar")]
    while not all(log.exists() and "round 1: answered" in log.read_text() for log in logs):
        assert started.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "no round was answered"
        time.sleep(0.2)


def wait_for_agents(started: subprocess.Popen, folder: Path, *, count: int) -> list[psutil.Process]:
    """Wait until a demonstration is past the joining and its agents run."""
    deadline = time.monotonic() + 300
    while True:
        agents = agents_of(folder)
        if len(agents) >= count:
            return agents
        assert started.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, f"{len(agents)} agents of {count}"
        time.sleep(0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "demonstration"
    for process in family_of(tmp_path):
        process.kill()


@pytest.mark.timeout(1200)
def test_the_demonstration_ends_well_prints_at_most_forty_lines_and_leaves_nothing_running(
    folder: Path,
) -> None:
    done = subprocess.run(
        [*COMMAND, *SMALL, "--folder", str(folder)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    shown = (done.stderr + done.stdout).splitlines()
    assert len(shown) <= 40
    for row in (
        "public head",
        "alder alone",
        "mean of the companies",
        "> federated, as released",
        "all data pooled",
    ):
        assert any(row in line for line in shown), row
    assert family_of(folder) == []
    assert (folder / "members" / "alder" / "releases" / "current").exists()
    # Again at once, in the same folder, for machines: the earlier files are replaced.
    again = subprocess.run(
        [*COMMAND, *SMALL, "--folder", str(folder), "--json"], capture_output=True, text=True, timeout=600
    )
    assert again.returncode == 0, again.stderr
    data = json.loads(again.stdout)["data"]
    assert data["epsilon"] <= 8
    assert {row["name"] for row in data["rows"]} >= {
        "federated, as released",
        "alder alone",
        "birch alone",
        "cedar alone",
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_demonstration_listens_on_loopback_alone_and_takes_its_processes_with_it_however_it_is_stopped(
    folder: Path, stop: signal.Signals
) -> None:
    started = subprocess.Popen(
        [*COMMAND, "--conversations", "80", "--rounds", "200", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    agents = wait_for_agents(started, folder, count=3)
    wait_for_answers(started, folder)
    family = family_of(folder)
    assert len(family) >= 7, "the demonstration, the coordinator's processes and three agents"
    workers = [worker for agent in agents for worker in agent.children(recursive=True)]
    assert len(workers) >= 3, "each agent's worker is there to be looked at"
    assert [listeners_of(one) for one in (*agents, *workers)] == [set()] * (len(agents) + len(workers))
    assert set().union(*map(listeners_of, family)) == {"127.0.0.1"}
    started.send_signal(stop)
    printed, _ = started.communicate(timeout=120)
    if stop is signal.SIGKILL:
        # Nobody was left to end them: they end by themselves, and the next demonstration waits for that.
        with DemoFolder(root=folder, members=()).claim(patience_s=120):
            assert family_of(folder) == []
    else:
        assert started.returncode == 130
        assert printed.splitlines()[-1] == "Stopped."
        assert family_of(folder) == []
    assert [one for one in workers if not has_ended(one)] == []


def test_a_process_of_the_demonstration_that_dies_ends_it_with_its_last_words(folder: Path) -> None:
    started = subprocess.Popen(
        [*COMMAND, "--conversations", "80", "--rounds", "200", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_agents(started, folder, count=1)[0].kill()
    printed, _ = started.communicate(timeout=90)
    assert started.returncode == 1
    assert "error:" in printed
    assert "Traceback" not in printed
    assert family_of(folder) == []
