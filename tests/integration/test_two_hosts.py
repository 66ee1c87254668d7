"""The deployment page's way to set up, on two hosts: the member's only goes out, joins by invitation and takes part in a run.

Played are the page's own `init`, with this host's address as its name, and joining, connecting and training. Accounts, services
and firewalls are not: `test_services.py` has the services, and the namespaces here filter nothing.
"""

from __future__ import annotations

import json
import re
import shlex
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

from ringfence.model.console import run_application
from ringfence.model.settings_file import toml_text
from ringfence.server.command_line import application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import load_coordinator_settings

MEMBERS = ("acme", "beta")
NAMED = "fleet.example.org"
PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def documented_init() -> list[str]:
    """Return the words of the deployment page's `init`, after the command itself."""
    found = re.search(r"^ringfence-coordinator init ((?:.*\\\n)*.*)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    return shlex.split(found[1].replace("\\\n", " "))


def run(host: Host, command: list[str], *, timeout_s: float = 240) -> dict:
    """Run a command of the product on a host, and return its data."""
    done = subprocess.run(
        host.on([*command, "--json"]), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["data"]


def test_the_pages_init_gives_invitations_that_name_the_host_and_not_every_address(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path / "coordinator")
    words = documented_init()
    assert "0.0.0.0:9444" in words
    for command in (["init", *words], ["member", "invite", "acme"]):
        assert run_application(application, [*command, "--home", str(home.root)]) == 0
    settings = load_coordinator_settings(home, environment={})
    given = (
        settings.fleet_address_for_members,
        settings.release_address_for_members,
        settings.enrolment_address_for_members,
    )
    assert given == tuple(f"{NAMED}:{port}" for port in (8443, 9443, 9444))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_member_on_a_host_of_its_own_joins_and_trains_and_nothing_on_it_can_be_reached(
    tmp_path: Path,
) -> None:
    if (reason := unavailable()) is not None:
        pytest.skip(reason)
    home = tmp_path / "coordinator"
    with two_hosts("ringfence") as (coordinator, member), Processes(tmp_path / "logs") as processes:
        # Listening on every address, and named once, as the page says: what members are given follows from the name.
        words = [word.replace(NAMED, coordinator.address) for word in documented_init()]
        run(coordinator, coordinator_command("init", *words, "--home", home, "--demonstration"))
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
        plan.write_text(toml_text(make_plan(federation=words[0], rounds=2).model_dump(mode="json")))
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
