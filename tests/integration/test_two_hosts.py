"""The deployment page, played on two hosts: the member's only goes out, joins by invitation and takes part in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from federation_harness import (
    Processes,
    coordinator_command,
    make_plan,
    member_command,
    wait_until,
    write_conversations,
)
from two_hosts import Host, two_hosts, unavailable

from ringfence.model.settings_file import toml_text

MEMBERS = ("acme", "beta")


def run(host: Host, command: list[str], *, timeout_s: float = 240) -> dict:
    """Run a command of the product on a host, and return its data."""
    done = subprocess.run(
        host.on([*command, "--json"]), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["data"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_member_on_a_host_of_its_own_joins_and_trains_and_nothing_on_it_can_be_reached(
    tmp_path: Path,
) -> None:
    if (reason := unavailable()) is not None:
        pytest.skip(reason)
    home = tmp_path / "coordinator"
    with two_hosts("ringfence") as (coordinator, member), Processes(tmp_path / "logs") as processes:
        run(
            coordinator,
            [
                *coordinator_command("init", "two-hosts", "--home", home, "--demonstration"),
                *("--fleet-address", f"{coordinator.address}:8443"),
                *("--release-address", f"{coordinator.address}:9443"),
                *("--enrolment-address", f"{coordinator.address}:9444"),
                *("--server-name", coordinator.address),
            ],
        )
        processes.start("serve", coordinator.on(coordinator_command("serve", "--home", home)))
        invitations = {
            name: run(coordinator, coordinator_command("member", "invite", name, "--home", home))[
                "invitation"
            ]
            for name in MEMBERS
        }
        before = member.listening()
        for name in MEMBERS:
            data = tmp_path / f"{name}.jsonl"
            write_conversations(data, member=name, count=24)
            join = member_command("join", invitations[name], "--home", tmp_path / name, "--data", data)
            wait_until(lambda join=join: _succeeds(member, join), what=f"{name} joins")
            agent = member_command("agent", "run", "--home", tmp_path / name)
            processes.start(f"agent-{name}", member.on(agent))
            wait_until(
                lambda name=name: "connected to" in processes.log(f"agent-{name}"), what=f"{name} connects"
            )
        plan = tmp_path / "plan.toml"
        plan.write_text(toml_text(make_plan(federation="two-hosts", rounds=2).model_dump(mode="json")))
        start = coordinator_command("run", "start", plan, "--name", "first", "--wait", "--home", home)
        assert run(coordinator, start)["status"] == "completed"
        for name in MEMBERS:
            assert "round 2: answered" in processes.log(f"agent-{name}")
        # While the agents and their workers run: nothing on the member's host accepts anything from anybody.
        assert member.listening() == before == set()
        assert coordinator.reachable_ports(member, python=sys.executable) == "[]"
        # And of the coordinator's host no more than the deployment page says.
        assert member.reachable_ports(coordinator, python=sys.executable) == "[8443, 9443, 9444]"


def _succeeds(host: Host, command: list[str]) -> bool:
    done = subprocess.run(host.on(command), capture_output=True, timeout=120, check=False)
    return done.returncode == 0
