"""``ringfence-coordinator serve``: one foreground command that starts, watches and restarts the coordinator's processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ringfence.model.errors import ConfigError, ConnectionFailedError, RingfenceError
from ringfence.model.service_notice import ServiceNotice
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import HOME_VARIABLE, CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings, load_coordinator_settings
from ringfence.server.fleet_service import ensure_secrets, read_private_address
from ringfence.server.flower_adapter import quiet_environment, superexec_command
from ringfence.server.housekeeping import RunKeeper, register_members
from ringfence.server.listeners_renewal import ListenersRenewal
from ringfence.server.members import MemberRegistry
from ringfence.server.parent_death import stop_with_parent
from ringfence.server.run_launch import Launcher
from ringfence.server.serving_claim import ServingClaim, serve_alone
from ringfence.server.work_beside import WorkBeside

log = logging.getLogger("ringfence.coordinator")
_TICK_S = 0.5
_STOP_S = 10.0
_MAX_WAIT_S = 30.0
_LONG_LOOK_S = 5.0
"""Seconds after which a look at the claim, the members and the runs is said to wait for somebody."""
_STUCK_S = 300.0
_LAST_LOOK_S = 5.0
_BAD_INPUT = 4


@dataclass(slots=True)
class Child:
    """A process that the coordinator keeps running.

    Attributes:
        name: for the log.
        command: returns its command line, or None while it cannot be started yet.
    """

    name: str
    command: Callable[[], Sequence[str] | None]
    process: subprocess.Popen[bytes] | None = None
    started_as: Sequence[str] = ()
    failures: int = 0
    not_before: float = 0.0
    started_at: float = 0.0

    def keep_running(self, environment: Mapping[str, str], *, now: float) -> None:
        """Start the process if it does not run, waiting longer after each failure; start it anew if its command changed.

        Raises:
            ConfigError: it ended because of what the operator configured; starting it again would not help.
        """
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            self.process = None
            if code == _BAD_INPUT:
                raise ConfigError(f"{self.name} cannot start.", hint="Correct what it said above.")
            self.failures = 0 if now - self.started_at > _MAX_WAIT_S else self.failures + 1
            wait_s = min(_MAX_WAIT_S, 0.5 * 2**self.failures)
            self.not_before = now + wait_s
            log.warning("%s ended with %d; starting it again in %.0f s", self.name, code, wait_s)
        command = self.command()
        if self.process is not None and command is not None and command != self.started_as:
            # The run starter is told the fleet service's address as it starts, and asks there for ever.
            log.info("%s is started again with another command", self.name)
            self.stop(timeout_s=_STOP_S)
            self.process = None
        if self.process is None and now >= self.not_before and command is not None:
            # A session of its own: Ctrl-C reaches the supervisor, which stops its children in order.
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                stdout=subprocess.DEVNULL,  # results are for whoever runs a child alone; its log is on standard error
                start_new_session=True,
                preexec_fn=stop_with_parent,
            )
            self.started_as, self.started_at = command, now

    def stop(self, *, timeout_s: float) -> None:
        """End the process, and by force what is left of its session after ``timeout_s``."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in time and is killed", self.name)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        self.process.wait()


@dataclass(slots=True)
class Supervisor:
    """The coordinator's processes, and what is kept in order around them.

    Attributes:
        home: the coordinator's folder.
        settings: the coordinator's settings.
        claim: the right to serve, looked after meanwhile.
        children: in the order in which they start; they stop in the reverse.
    """

    home: CoordinatorHome
    settings: CoordinatorSettings
    claim: ServingClaim
    children: list[Child] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set.

        Raises:
            ConfigError: a process cannot start with these settings, or another coordinator took over. The operator's to
                mend.
        """
        environment = {
            **os.environ,
            **quiet_environment(self.home.flower),
            HOME_VARIABLE: str(self.home.root),
            "OMP_NUM_THREADS": "1",
        }
        launcher = Launcher(home=self.home, settings=self.settings)
        keeper = RunKeeper(launcher=launcher)
        notice, is_ready = ServiceNotice.from_environment(), False
        registry = MemberRegistry(open_database(self.home, settings=self.settings))
        certificate = ListenersRenewal(self.home, self.settings, now=lambda: datetime.now(UTC))
        said = ""

        def look() -> None:
            nonlocal said, is_ready
            self.claim.keep()
            try:
                register_members(registry, control=launcher.control())
                keeper.tick()
                said = ""
                if not is_ready:
                    is_ready = True
                    notice.ready(f"serving {self.settings.federation}")
            except ConnectionFailedError:
                pass  # the fleet service is starting
            except RingfenceError as error:
                if error.message != said:  # once, not twice a second
                    log.warning("%s", error.message)
                said = error.message

        # Beside the loop: a database that does not answer must keep neither a stop from being heard nor the processes down.
        looks, is_told = WorkBeside(look), False
        try:
            while not stop.is_set():
                looks.turn()
                certificate.tick()  # first, so that nothing begins to listen with one that ran out
                waited_s = looks.under_way_s
                if waited_s < _STUCK_S:  # else the service manager may end it
                    notice.alive()
                if waited_s >= _LONG_LOOK_S and not is_told:
                    log.warning("the database, or the fleet service, does not answer; it is waited for")
                is_told = waited_s >= _LONG_LOOK_S
                for child in self.children:
                    child.keep_running(environment, now=time.monotonic())
                stop.wait(_TICK_S)
        finally:
            notice.stopping()
            looks.settle(timeout_s=_LAST_LOOK_S)
            for child in reversed(self.children):
                child.stop(timeout_s=_STOP_S)


def supervise(home: CoordinatorHome, *, stop: threading.Event) -> None:
    """Run the coordinator of a folder until ``stop`` is set.

    Raises:
        ConfigError: the folder is not set up, another coordinator serves from its database, or a process cannot start with
            its settings. The operator's to mend.
    """
    settings = load_coordinator_settings(home)
    own = [sys.executable, "-m", "ringfence.server.command_line"]
    where = ["--home", str(home.root)]
    known = ensure_secrets(home)

    def superexec() -> Sequence[str] | None:
        try:
            address = read_private_address(home)
        except ConnectionFailedError:
            return None
        return superexec_command(
            python=sys.executable,
            address=address,
            ca_file=home.ca_file,
            secret_file=known.superexec_file,
            parent_pid=os.getpid(),
        )

    children = [
        Child("the fleet service", lambda: [*own, "serve-fleet", *where]),
        Child("the release service", lambda: [*own, "serve-releases", *where]),
        Child("the run starter", superexec),
    ]
    with serve_alone(open_database(home, settings=settings), now=datetime.now(UTC)) as held:
        # An address from an earlier life leads nowhere.
        (home.flower / "private.address").unlink(missing_ok=True)
        try:
            Supervisor(home=home, settings=settings, claim=held, children=children).run(stop)
        finally:
            # Commands that find it wait for a coordinator that is starting again.
            (home.flower / "private.address").unlink(missing_ok=True)
