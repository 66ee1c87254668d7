"""A federation on one machine for tests: its folders made by library calls, its processes by the command lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from databases import write_database_url

from ringfence.client.flower_adapter import FleetConnection
from ringfence.client.identity import make_request
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import DataSettings, MemberSettings, save_member_settings
from ringfence.client.policy_text import ensure_policy
from ringfence.model.errors import RingfenceError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.server.admission import admit_member
from ringfence.server.certificate_authority import load_certificate_authority
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.fleet_service import ensure_secrets, read_private_address
from ringfence.server.flower_adapter import superexec_command
from ringfence.server.housekeeping import register_members
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.members import MemberRegistry
from ringfence.server.run_launch import Launcher
from ringfence.server.signing_keys import plan_public_key

FEDERATION = "harness"
MEMBERS = ("acme", "beta", "gamma")


@dataclass(frozen=True)
class MadeFederation:
    """The folders of a coordinator and its members."""

    root: Path
    coordinator: CoordinatorHome
    settings: CoordinatorSettings
    members: dict[str, MemberHome]

    @property
    def launcher(self) -> Launcher:
        return Launcher(home=self.coordinator, settings=self.settings)

    @property
    def registry(self) -> MemberRegistry:
        return MemberRegistry(open_database(self.coordinator))

    def register(self) -> dict[str, int]:
        """Have Flower know every active member; return the node ids."""
        register_members(self.registry, control=self.launcher.control())
        return {member.id: member.node_id for member in self.registry.all() if member.node_id is not None}


def make_federation(
    root: Path,
    *,
    members: Sequence[str] = MEMBERS,
    conversations: int = 24,
    database_url: str | None = None,
) -> MadeFederation:
    """Set up a coordinator and admitted members with a little harmless data."""
    now = datetime.now(UTC)
    home = CoordinatorHome(root / "coordinator")
    settings = CoordinatorSettings(
        federation=FEDERATION,
        demonstration=True,
        fleet_address=f"127.0.0.1:{free_port()}",
        release_address=f"127.0.0.1:{free_port()}",
        enrolment_address=f"127.0.0.1:{free_port()}",
        database_url_file=write_database_url(root, database_url),
    )
    initialise_coordinator(home, settings=settings, now=now)
    authority = load_certificate_authority(home, federation=FEDERATION)
    registry = MemberRegistry(open_database(home))
    homes = {}
    for name in members:
        member = MemberHome(root / name).create()
        request = make_request(member)
        record = admit_member(request, member=name, authority=authority, registry=registry, now=now)
        member.certificate_file.write_text(record.certificate)
        member.ca_file.write_bytes(home.ca_file.read_bytes())
        write_conversations(member.root / "data.jsonl", member=name, count=conversations)
        save_member_settings(
            member,
            settings=MemberSettings(
                federation=FEDERATION,
                member=name,
                fleet_address=settings.fleet_address,
                release_address=settings.release_address,
                demonstration=True,
                plan_public_key=plan_public_key(home),
                data=DataSettings(files=("data.jsonl",)),
            ),
        )
        ensure_policy(member, federation=FEDERATION, demonstration=True)
        homes[name] = member
    return MadeFederation(root, home, settings, homes)


def write_conversations(path: Path, *, member: str, count: int) -> None:
    """Write labelled conversations of harmless words between people who each talk once."""
    with path.open("w") as file:
        for index in range(count):
            label = index % 2
            said = "please keep this our secret" if label else "the game was fun today"
            messages = [
                {"author": f"{member}-{index}-a", "text": "hello there, how are you"},
                {"author": f"{member}-{index}-b", "text": said},
            ]
            file.write(json.dumps({"id": f"{member}-{index}", "label": label, "messages": messages}) + "\n")


def make_plan(
    *, rounds: int = 3, minimum: int = 2, deadline_s: float = 60.0, attempts: int = 1, **changes: object
) -> Plan:
    """Return a plan of the harness's federation for the installed features."""
    values: dict[str, object] = {
        "name": "tiny",
        "federation": FEDERATION,
        "demonstration": True,
        "training": TrainingTerms(
            feature_set_sha256=load_feature_set("static-128").fingerprint,
            rounds=rounds,
            local_steps=1,
            prefixes=(1.0,),
        ),
        "privacy": PrivacyTerms(noise_multiplier=10.0),
        "cohort": CohortTerms(minimum=minimum, round_deadline_s=deadline_s, attempts=attempts),
    }
    return Plan.model_validate({**values, **changes})


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], *, what: str, timeout_s: float = 120.0) -> None:
    """Wait until a condition holds; a connection that is not there yet counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except RingfenceError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.05)


@dataclass
class Processes:
    """Processes of one test, each with a log; all of them, and their children, end with the block."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Processes:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self.running.values())):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            end_with_children(process)

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own; its output goes to ``<name>.log``, appended."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )
        self.running[name] = process
        return process

    def start_agent(self, home: MemberHome, *, poll_s: float = 0.1) -> subprocess.Popen[bytes]:
        """Start the agent of a member's folder."""
        return self.start(
            f"agent-{home.root.name}", member_command("agent", "run", "--home", home.root, "--poll", poll_s)
        )

    def start_fleet(self, federation: MadeFederation) -> subprocess.Popen[bytes]:
        """Start the fleet service alone, and wait until it serves and knows the members."""
        address = federation.coordinator.flower / "private.address"
        address.unlink(missing_ok=True)
        process = self.start(
            "fleet", coordinator_command("serve-fleet", "--home", federation.coordinator.root)
        )
        wait_until(lambda: federation.register(), what="the fleet service serves")
        wait_until(lambda: accepts(federation.settings.fleet_address), what="the gateway listens")
        return process

    def start_superexec(self, federation: MadeFederation) -> subprocess.Popen[bytes]:
        """Start Flower's process that starts server apps."""
        command = superexec_command(
            python=sys.executable,
            address=read_private_address(federation.coordinator),
            ca_file=federation.coordinator.ca_file,
            secret_file=ensure_secrets(federation.coordinator).superexec_file,
            parent_pid=os.getpid(),
        )
        home = federation.coordinator
        return self.start(
            "superexec",
            command,
            environment={
                "RINGFENCE_COORDINATOR_HOME": str(home.root),
                "FLWR_HOME": str(home.flower),
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
                "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
            },
        )

    def log(self, name: str) -> str:
        """Return what a process has printed so far."""
        return (self.logs / f"{name}.log").read_text(errors="replace")


@dataclass(frozen=True)
class Fleet:
    """A federation whose fleet service runs; ``nodes`` are Flower's ids by member."""

    federation: MadeFederation
    processes: Processes
    nodes: dict[str, int]

    @property
    def address(self) -> str:
        return self.federation.settings.fleet_address

    def member(self, name: str) -> MemberHome:
        return self.federation.members[name]

    def connection(self, name: str) -> FleetConnection:
        home = self.member(name)
        return FleetConnection(
            self.address,
            ca_file=home.ca_file,
            certificate_file=home.certificate_file,
            key_file=home.key_file,
            last_node_id=self.nodes[name],
        )


def member_command(*arguments: object) -> list[str]:
    """Return the command line of ``ringfence`` with these arguments."""
    return [sys.executable, "-m", "ringfence.client.command_line", *map(str, arguments)]


def coordinator_command(*arguments: object) -> list[str]:
    """Return the command line of ``ringfence-coordinator`` with these arguments."""
    return [sys.executable, "-m", "ringfence.server.command_line", *map(str, arguments)]


def accepts(address: str) -> bool:
    """Return whether something listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything below it, at once: what a power cut does."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=15)
    # Children of a dead parent are found by the session that they share with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(15)
