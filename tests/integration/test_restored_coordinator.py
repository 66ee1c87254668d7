"""Yesterday's backup while the members are of today: the run goes on to the same model, and nobody is charged again."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest
from federation_harness import (
    MadeFederation,
    Processes,
    accepts,
    coordinator_command,
    make_federation,
    make_plan,
    wait_until,
)

from ringfence.model.settings_file import toml_text
from ringfence.server.run_store import Run, RunStore

ROUNDS = (
    30  # enough that the run is under way while a backup is taken, however fast the one and slow the other
)


def command(federation: MadeFederation, *arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [*coordinator_command(*arguments), "--home", str(federation.coordinator.root), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data: dict[str, object] = json.loads(done.stdout)["data"]
    return data


def serve(federation: MadeFederation, processes: Processes) -> None:
    processes.start("serve", coordinator_command("serve", "--home", federation.coordinator.root))
    wait_until(lambda: accepts(federation.settings.fleet_address), what="the gateway listens")
    wait_until(lambda: len(federation.register()) == 3, what="the members are known")


def run_of(federation: MadeFederation) -> Run:
    return RunStore.of(federation.coordinator, settings=federation.settings).open("spring")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_from_yesterdays_backup_to_the_same_model_at_no_further_cost(
    tmp_path: Path, database_url: str
) -> None:
    federation = make_federation(tmp_path, database_url=database_url)
    backup = tmp_path / "backup.tar"
    with Processes(tmp_path / "logs") as processes:
        serve(federation, processes)
        for home in federation.members.values():
            processes.start_agent(home)
        plan = tmp_path / "spring.toml"
        agreed = make_plan(rounds=ROUNDS, minimum=3, deadline_s=60, attempts=5)
        plan.write_text(toml_text(agreed.model_dump(mode="json")))
        command(federation, "run", "start", plan, "--name", "spring")
        wait_until(lambda: run_of(federation).rounds_done() >= 2, what="two rounds are done")
        command(federation, "backup", backup, "--with-keys")  # while it serves
        command(federation, "run", "watch", "spring", "--timeout", 280)
        models = [model.tobytes() for model in run_of(federation).history()]
        charges = {
            name: charges_of(home.ledger_file, run="spring") for name, home in federation.members.items()
        }
        assert all(len(charged) == ROUNDS for charged in charges.values())

        serving = processes.running["serve"]
        serving.terminate()
        serving.wait(120)
        command(federation, "restore", backup, "--replace")
        before = run_of(federation)
        assert before.record().status == "running"
        assert 2 <= before.rounds_done() < ROUNDS
        serve(federation, processes)
        command(federation, "run", "watch", "spring", "--timeout", 280)
        assert [model.tobytes() for model in run_of(federation).history()] == models
        for name, home in federation.members.items():
            assert charges_of(home.ledger_file, run="spring") == charges[name]


def charges_of(ledger: Path, *, run: str) -> list[str]:
    """Return the keys of a run's charges in a member's ledger."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT key FROM entry WHERE kind = 'charge'").fetchall()
    return [key for (key,) in rows if f"/{run}" in key]
