"""From the wheel to a member that answered a round: five commands, and no file edited.

What runs is the wheel's content, unpacked before everything else on the path; its dependencies are those of this environment,
so that `pip install` is counted and not carried out. The federation is no demonstration: a person at each member decides.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest
from federation_harness import (
    Processes,
    accepts,
    coordinator_command,
    free_port,
    member_command,
    wait_until,
    write_conversations,
)

ROOT = Path(__file__).parents[2]
PARTS = ("model", "privacy", "client", "server", "demo")
MEMBERS = ("acme", "beta", "gamma")  # as many as the default policy asks for in a round
MOST_COMMANDS = 5
OLDEST_BUILDER = 77  # of setuptools, as pyproject.toml asks for


@dataclass
class Typed:
    """What is typed on one host, counted."""

    site: Path
    home: Path
    commands: list[str] = field(default_factory=lambda: ["pip install ringfence[train]"])

    def words(self, *words: object) -> list[str]:
        self.commands.append("ringfence " + " ".join(map(str, words)))
        return [*member_command(*words, "--home", self.home)]

    def run(self, *words: object) -> str:
        return output(self.site, self.words(*words))


def output(site: Path, command: list[str], *, timeout_s: float = 300) -> str:
    done = subprocess.run(
        command,
        env=environment(site),
        cwd=site.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, built from a copy of this tree."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(root),
        str(source),
    ]
    if int(version("setuptools").partition(".")[0]) >= OLDEST_BUILDER:
        build += ["--no-index", "--no-build-isolation"]  # nothing has to be fetched
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = root.glob("*.whl")
    unpacked = root / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_tree_has_for_running(site: Path) -> None:
    there = {name for part in PARTS for name in files_below(ROOT, part)}
    assert there - set(files_below(site / "ringfence", ".")) == set()
    assert "demo/data/chitchat-part.jsonl.gz" in there
    shown = output(site, [sys.executable, "-c", "import ringfence.client as c; print(c.__file__)"])
    assert Path(shown.strip()).is_relative_to(site)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_member_answers_its_first_round_within_five_commands_and_edits_no_file(
    site: Path, tmp_path: Path
) -> None:
    home = tmp_path / "coordinator"

    def coordinator(*words: object) -> dict[str, object]:
        said = output(site, coordinator_command(*words, "--home", home, "--json"))
        return dict(json.loads(said)["data"])

    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    kinds = ("--fleet-address", "--release-address", "--enrolment-address")
    coordinator("init", "chat", *(word for pair in zip(kinds, addresses, strict=True) for word in pair))
    members = {name: Typed(site, tmp_path / name) for name in MEMBERS}
    with Processes(tmp_path / "logs") as processes:
        serve = coordinator_command("serve", "--home", home)
        processes.start("serve", serve, environment=environment(site))
        wait_until(lambda: all(map(accepts, addresses)), what="the coordinator serves")
        for name, member in members.items():
            data = tmp_path / f"{name}.jsonl"
            write_conversations(data, member=name, count=64)
            invitation = coordinator("member", "invite", name)["invitation"]
            member.run("join", invitation, "--data", data)
            agent = member.words("agent", "run")
            processes.start(f"agent-{name}", agent, environment=environment(site))
        before = {name: contents(member.home) for name, member in members.items()}
        for name in members:
            wait_until(
                lambda name=name: "connected to" in processes.log(f"agent-{name}"), what=f"{name} connects"
            )
        plan = tmp_path / "plan.toml"
        terms = ("--rounds", 1, "--local-steps", 1, "--epsilon", 2, "--minimum", len(MEMBERS))
        coordinator("plan", "new", plan, *terms)
        coordinator("run", "start", plan, "--name", "first")
        for name, member in members.items():
            # The agent says what to type.
            wait_until(lambda name=name: _digest(processes.log(f"agent-{name}")), what=f"{name} is asked")
            member.run("policy", "approve", _digest(processes.log(f"agent-{name}")), "--yes")

        def completed() -> bool:
            status = coordinator("run", "show", "first")["status"]
            if status == "failed":  # it was tried until nobody had approved it
                coordinator("run", "resume", "first")
            return status == "completed"

        wait_until(completed, what="the run completes", timeout_s=400)
        for name, member in members.items():
            assert "round 1: answered" in processes.log(f"agent-{name}")
            assert (
                contents(member.home) == before[name]
            )  # its settings and its policy are as joining wrote them
            assert len(member.commands) <= MOST_COMMANDS, member.commands


def files_below(root: Path, folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(root / folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(place, name).relative_to(root).as_posix() for name in names)


def contents(home: Path) -> dict[str, str]:
    return {name: (home / name).read_text() for name in ("member.toml", "policy.toml")}


def _digest(log: str) -> str:
    found = re.search(r"ringfence policy approve ([0-9a-f]{8,})", log)
    return found[1] if found else ""
