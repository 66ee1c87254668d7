"""Launching a run: the plan is checked, completed, signed, put down, and handed to Flower."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from ringfence.model.errors import ConfigError, PeerError, RingfenceError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.plan import Plan
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.fleet_service import ensure_secrets, read_private_address
from ringfence.server.flower_adapter import FlowerControl
from ringfence.server.run_store import Run, RunStore, SignedPlan, Status, event_now
from ringfence.server.signing_keys import load_coordinator_key

_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts, stops and resumes runs of one coordinator.

    Attributes:
        home: the coordinator's folder.
        settings: the coordinator's settings.
    """

    home: CoordinatorHome
    settings: CoordinatorSettings

    @property
    def runs(self) -> RunStore:
        """Every run."""
        return RunStore.of(self.home, settings=self.settings)

    def control(self) -> FlowerControl:
        """Return the control client of the fleet service that runs now.

        Raises:
            ConnectionFailedError: none runs.
        """
        return FlowerControl(
            address=read_private_address(self.home),
            ca_file=self.home.ca_file,
            token=ensure_secrets(self.home).control_token,
        )

    def prepare(self, plan: Plan, *, name: str | None = None) -> Run:
        """Check and sign a plan and put the run down, without starting it.

        Raises:
            ConfigError: the plan does not fit this federation or this installation. The operator's to mend.
        """
        self.check(plan)
        return self.create(self.sign(plan), name=name)

    def launch(self, signed: SignedPlan, *, name: str | None = None) -> Run:
        """Check a signed plan, put its run on disk and start it.

        Raises:
            ConfigError: as `prepare`.
            ConnectionFailedError: the fleet service does not answer; no run was made.
        """
        self.check(signed.plan)
        self.control().node_ids()  # before anything is on disk: a run that could not start would keep its name
        run = self.create(signed, name=name)
        try:
            self.start(run)
        except RingfenceError as error:
            # While it is as it was made: an operator may have stopped it meanwhile.
            run.update_while(
                "created",
                status="failed",
                reason=error.message,
                event=event_now("failed", detail=error.message),
            )
            raise
        return run

    def check(self, plan: Plan) -> None:
        """Hold a plan against this federation and this installation.

        Raises:
            ConfigError: it does not fit. The operator's to mend.
        """
        if plan.federation != self.settings.federation:
            raise ConfigError(
                f"The plan is for the federation {plan.federation}, this is {self.settings.federation}.",
                hint="Correct federation in the plan.",
            )
        if plan.demonstration != self.settings.demonstration:
            raise ConfigError(
                "Plan and federation disagree on being a demonstration.",
                hint="Correct demonstration in the plan.",
            )
        if plan.training.architecture not in ARCHITECTURES:
            raise ConfigError(
                f"There is no architecture {plan.training.architecture}.",
                hint=f"Known: {', '.join(sorted(ARCHITECTURES))}.",
            )
        features = load_feature_set(plan.training.feature_set)
        if features.fingerprint != plan.training.feature_set_sha256:
            raise ConfigError(
                "The plan names other features than the ones installed here.",
                hint=f'Use feature_set_sha256 = "{features.fingerprint}".',
            )

    def sign(self, plan: Plan) -> SignedPlan:
        """Sign a plan with the coordinator's plan key.

        Raises:
            ConfigError: the key cannot be read. The operator's to mend.
        """
        return SignedPlan(plan, load_coordinator_key(self.home, name="plan").sign(plan.canonical_json()))

    def create(self, signed: SignedPlan, *, name: str | None = None) -> Run:
        """Put the run of a checked and signed plan on disk.

        Raises:
            ConfigError: the name is taken, or is none. The operator's to mend.
        """
        training = signed.plan.training
        features = load_feature_set(training.feature_set)
        return self.runs.create(
            name or self._free_name(signed.plan.name),
            signed=signed,
            initial=ARCHITECTURES[training.architecture].initial(features),
        )

    def start(self, run: Run, *, expected: Status | None = None) -> None:
        """Have Flower start the server app for a run, from its latest checkpoint.

        Args:
            run: which.
            expected: the status for which the caller decided to start it; with another one by now, nothing is done: somebody
                decided otherwise. None for whoever decides about the run as it is.

        Raises:
            ConfigError: the run is at work, or has ended well.
            ConnectionFailedError: the fleet service does not run.
        """
        record = run.record()
        if expected is not None and record.status != expected:
            return
        if record.status == "stopped":
            self._wait_for_the_last_worker(run)
        if run.has_worker():
            raise ConfigError(
                f"The run {run.name} is at work.", hint=f"See: ringfence-coordinator run watch {run.name}"
            )
        if record.status == "completed":
            raise ConfigError(f"The run {run.name} is complete.", hint="Start another.")
        control = self.control()
        if record.flower_run_id is not None:
            state = control.run_state(record.flower_run_id)
            if state is not None and state.status != "finished":
                control.stop_run(record.flower_run_id)
        # Before Flower is asked: a server app that finds its run in an end state would end at once. An operator may decide
        # otherwise between any two of these lines, from another process: what was decided last holds.
        if not run.update_while(record.status, status="running", reason="", event=event_now("started")):
            return
        try:
            flower_run_id = control.start_run(run.name)
        except RingfenceError:
            run.update_while("running", status=record.status, reason=record.reason)
            raise
        if not run.update_while("running", flower_run_id=flower_run_id):
            control.stop_run(flower_run_id)

    def stop(self, run: Run) -> None:
        """Stop a run; what it reached stays and it can be resumed.

        Raises:
            ConfigError: it has ended already.
        """
        while True:
            record = run.record()
            if record.status not in ("created", "running"):
                raise ConfigError(
                    f"The run {run.name} has ended: {record.status}.", hint="Nothing is to be done."
                )
            # What decides is the record: whoever works on the run reads it and ends, also when Flower cannot be told.
            if run.update_while(record.status, status="stopped", event=event_now("stopped")):
                break  # else it was started, or ended, between the two: it is looked at anew
        flower_run_id = run.record().flower_run_id
        if flower_run_id is not None:
            with contextlib.suppress(PeerError):
                self.control().stop_run(flower_run_id)

    @staticmethod
    def _wait_for_the_last_worker(run: Run) -> None:
        """Give the process that worked on a run that was just stopped the moment that it takes to end."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while run.has_worker() and time.monotonic() < deadline:
            time.sleep(0.1)

    def give_up(self, run: Run, *, reason: str) -> bool:
        """Note that a run failed, and keep Flower from starting somebody for it after all; return whether it was running."""
        failed = event_now("failed", detail=reason)
        if not run.update_while("running", status="failed", reason=reason, event=failed):
            return False
        flower_run_id = run.record().flower_run_id
        if flower_run_id is not None:
            with contextlib.suppress(PeerError):  # whoever is started reads that the run failed, and ends
                self.control().stop_run(flower_run_id)
        return True

    def _free_name(self, stem: str) -> str:
        taken = {run.name for run in self.runs.all()}
        number = 1
        while (name := f"{stem}-{number}") in taken:
            number += 1
        return name
