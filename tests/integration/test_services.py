"""Coordinator and agent as systemd starts them: under their own units' confinement, heard when ready, ended in order."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from federation_harness import (
    MadeFederation,
    Processes,
    coordinator_command,
    make_federation,
    make_plan,
    member_command,
    wait_until,
)

from ringfence.client.command_line import application as member_application
from ringfence.client.status import read_status
from ringfence.model.console import run_application
from ringfence.model.settings_file import toml_text
from ringfence.server.command_line import application as coordinator_application
from ringfence.server.run_store import RunStore

CONFINE = Path(__file__).parents[1] / "harness" / "confine.py"
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, which knows the groups of calls"
)


@contextlib.contextmanager
def manager(path: Path) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        yield listener


def heard(listener: socket.socket, notices: list[str]) -> str:
    with contextlib.suppress(BlockingIOError):
        while True:
            notices.append(listener.recv(4096).decode())
    return "\n".join(notices)


def unit_of(command: list[str], *, agent: bool, capsys: pytest.CaptureFixture[str]) -> str:
    application = member_application if agent else coordinator_application
    assert run_application(application, [*command, "--print", "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["data"]["unit"])


def confined(unit: str, file: Path, command: list[str]) -> list[str]:
    file.write_text(unit)
    return [sys.executable, str(CONFINE), str(file), *command]


@pytest.fixture
def federation(tmp_path: Path) -> MadeFederation:
    return make_federation(tmp_path, members=("acme", "beta"))


def test_confined_services_say_when_they_are_ready_carry_out_a_run_and_stop_in_order(
    federation: MadeFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = federation.coordinator.root
    unit = unit_of(["install-service", "--home", str(home)], agent=False, capsys=capsys)
    with (
        manager(tmp_path / "n1") as coordinator_manager,
        manager(tmp_path / "n2") as agent_manager,
        Processes(tmp_path / "logs") as processes,
    ):
        serving = processes.start(
            "serve",
            confined(unit, tmp_path / "serve.unit", coordinator_command("serve", "--home", home)),
            environment={"NOTIFY_SOCKET": coordinator_manager.getsockname(), "WATCHDOG_USEC": "600000000"},
        )
        from_serving: list[str] = []
        wait_until(
            lambda: "READY=1" in heard(coordinator_manager, from_serving), what="the coordinator is ready"
        )
        agents = []
        for name, member in federation.members.items():
            unit = unit_of(
                ["agent", "install-service", "--home", str(member.root)], agent=True, capsys=capsys
            )
            command = member_command("agent", "run", "--home", member.root, "--poll", "0.1")
            agents.append(
                processes.start(
                    f"agent-{name}",
                    confined(unit, tmp_path / f"{name}.unit", command),
                    environment={"NOTIFY_SOCKET": agent_manager.getsockname(), "WATCHDOG_USEC": "600000000"},
                )
            )
        from_agents: list[str] = []
        wait_until(
            lambda: heard(agent_manager, from_agents).count("STATUS=connected to") == 2,
            what="both are connected",
        )
        plan = tmp_path / "plan.toml"
        plan.write_text(toml_text(make_plan(rounds=2, deadline_s=120.0).model_dump(mode="json")))
        started = subprocess.run(
            coordinator_command(
                "run", "start", plan, "--name", "confined", "--wait", "--json", "--home", home
            ),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert started.returncode == 0, started.stderr + processes.log("agent-acme") + processes.log("serve")
        for process in [*agents, serving]:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(120) for process in [*agents, serving]] == [0, 0, 0]
        told = heard(agent_manager, from_agents)
        assert (told.count("READY=1"), told.count("STOPPING=1")) == (2, 2)
        assert "WATCHDOG=1" in told
        assert heard(coordinator_manager, from_serving).count("STOPPING=1") == 1
        # The worker was cut off from the network although the unit leaves it no right of root's.
        assert "does not let the worker be cut off" not in processes.log("agent-acme")
    assert (
        RunStore.of(federation.coordinator, settings=federation.settings).open("confined").rounds_done() == 2
    )
    for member in federation.members.values():
        status = read_status(member, now=datetime.now(UTC))
        assert [entry.run for entry in status.runs] == ["confined"]
        assert status.budget is not None
        assert [run.charges for run in status.budget.runs] == [2]


@pytest.mark.parametrize(
    ("program", "refused"),
    [
        ("import mmap; mmap.mmap(-1, 4096, prot=7)", "PermissionError"),
        ("import os; os.chroot('/')", "PermissionError"),
        ("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "PermissionError"),
        ("import os; os.setuid(1)", "PermissionError"),
    ],
)
def test_the_confinement_is_felt(
    federation: MadeFederation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    program: str,
    refused: str,
) -> None:
    member = federation.members["acme"]
    unit = unit_of(["agent", "install-service", "--home", str(member.root)], agent=True, capsys=capsys)
    command = confined(unit, tmp_path / "unit", [sys.executable, "-c", program])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode != 0
    assert refused in done.stderr
