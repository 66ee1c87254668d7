"""Every line of the coordinator's doctor is seen to pass on one that serves, and to fail or warn on its fault."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from federation_harness import (
    MadeFederation,
    Processes,
    coordinator_command,
    free_port,
    make_federation,
    wait_until,
)
from trust_harness import make_trust_federation

from ringfence.model.console import run_application
from ringfence.model.diagnosis import Finding
from ringfence.server.admin_client import Condition, MemberStanding
from ringfence.server.certificate_authority import load_certificate_authority, write_server_certificate
from ringfence.server.command_line import application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import load_coordinator_settings, save_coordinator_settings
from ringfence.server.doctor import check_condition, check_members
from ringfence.server.doctor_command import diagnose


def findings(home: CoordinatorHome, *, now: datetime | None = None) -> dict[str, Finding]:
    return {
        finding.check: finding for finding in diagnose(home, timeout_s=30.0, now=now or datetime.now(UTC))
    }


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    """A sound coordinator that does not serve."""
    return make_federation(tmp_path, members=("acme",), conversations=2).coordinator


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[MadeFederation, psutil.Process]]:
    federation = make_federation(root, members=("acme", "beta"), conversations=2)
    home = federation.coordinator
    with Processes(root / "logs") as processes:
        process = processes.start("serve", coordinator_command("serve", "--home", home.root))
        wait_until(
            lambda: findings(home)["serving"].level == "PASS" and findings(home)["fleet"].level == "PASS",
            what="it serves",
        )
        yield federation, psutil.Process(process.pid)


def test_a_coordinator_that_serves_passes_and_one_whose_superlink_died_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path) as (federation, supervisor):
        home = federation.coordinator
        wait_until(lambda: "does not know" not in findings(home)["members"].detail, what="members are known")
        found = findings(home)
        assert {check: finding.level for check, finding in found.items() if finding.level != "PASS"} == {
            "root key": "WARN",  # as init left it
            "releases": "WARN",  # no ceremony yet
            "members": "WARN",  # nobody called yet
        }
        assert "acme, beta" in found["members"].detail
        assert run_application(application, ["doctor", "--home", str(home.root)]) == 0
        assert "PASS  serving" in capsys.readouterr().out
        # The supervisor would start it again before anybody looked.
        supervisor.send_signal(signal.SIGSTOP)
        try:
            fleet = next(child for child in supervisor.children() if "serve-fleet" in child.cmdline())
            fleet.kill()
            wait_until(lambda: findings(home)["fleet listener"].level == "FAIL", what="the port is closed")
            found = findings(home)
            assert (found["fleet"].level, found["serving"].level) == ("FAIL", "PASS")
            assert "SuperLink does not answer" in found["fleet"].detail
        finally:
            supervisor.send_signal(signal.SIGCONT)


def _open_key(home: CoordinatorHome) -> None:
    (home.keys / "plan.key").chmod(0o640)


def _lost_server_key(home: CoordinatorHome) -> None:
    home.server_key_file.unlink()


def _damaged_intermediate(home: CoordinatorHome) -> None:
    home.intermediate_file.write_text("nonsense")


def _damaged_listeners(home: CoordinatorHome) -> None:
    home.server_certificate_file.write_text("nonsense")


def _damaged_database(home: CoordinatorHome) -> None:
    for path in home.root.glob("coordinator.db*"):
        path.write_bytes(b"nonsense" * 1000)


def _another_schema(home: CoordinatorHome) -> None:
    with contextlib.closing(sqlite3.connect(home.database_file)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
        database.commit()


def _database_out_of_reach(home: CoordinatorHome) -> None:
    url = home.root / "database.url"
    url.write_text(f"postgresql://ringfence:planted-password@127.0.0.1:{free_port()}/none")
    url.chmod(0o600)
    settings = load_coordinator_settings(home, environment={})
    save_coordinator_settings(home, settings=settings.model_copy(update={"database_url_file": url}))


def _listening_everywhere_without_a_name(home: CoordinatorHome) -> None:
    settings = load_coordinator_settings(home, environment={})
    changed = settings.model_copy(update={"enrolment_address": f"0.0.0.0:{free_port()}"})
    save_coordinator_settings(home, settings=changed)


def _given_a_name_that_is_not_certified(home: CoordinatorHome) -> None:
    settings = load_coordinator_settings(home, environment={})
    changed = settings.model_copy(update={"fleet_public_address": "fleet.example.org:8443"})
    save_coordinator_settings(home, settings=changed)


def _unknown_setting(home: CoordinatorHome) -> None:
    home.settings_file.write_text("nonsense = 1\n" + home.settings_file.read_text())


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (_open_key, "keys"),
        (_lost_server_key, "keys"),
        (_damaged_intermediate, "certificates"),
        (_damaged_listeners, "listeners certificate"),
        (_damaged_database, "database"),
        (_another_schema, "database"),
        (_database_out_of_reach, "database"),
        (_unknown_setting, "settings"),
        (_listening_everywhere_without_a_name, "addresses"),
        (_given_a_name_that_is_not_certified, "addresses"),
    ],
)
def test_a_fault_of_the_coordinators_own_files_fails_its_check_with_a_fix(
    tmp_path: Path, fault: Callable[[CoordinatorHome], None], check: str
) -> None:
    home = make_federation(tmp_path, members=(), conversations=2).coordinator
    fault(home)
    found = findings(home)
    assert found[check].level == "FAIL"
    assert found[check].fix
    assert "planted-password" not in str(found)


def test_a_coordinator_that_does_not_serve_fails_its_listeners_and_ends_with_1(
    home: CoordinatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["doctor", "--home", str(home.root), "--json"]) == 1
    envelope = json.loads(capsys.readouterr().out)
    levels = {finding["check"]: finding["level"] for finding in envelope["data"]["findings"]}
    failed = {check for check, level in levels.items() if level == "FAIL"}
    assert failed == {"fleet listener", "control listener", "enrolment listener", "serving"}
    assert levels["database"] == levels["keys"] == "PASS"


@pytest.mark.parametrize(
    ("days", "check", "level"),
    [
        (1, "listeners certificate", "PASS"),
        (80, "listeners certificate", "WARN"),
        (91, "listeners certificate", "FAIL"),
        (370, "intermediate certificate", "WARN"),
        (401, "intermediate certificate", "FAIL"),
        (3600, "root certificate", "WARN"),
        (3651, "root certificate", "FAIL"),
        (-3, "root certificate", "FAIL"),
    ],
)
def test_a_certificate_warns_before_it_ends(home: CoordinatorHome, days: int, check: str, level: str) -> None:
    assert findings(home, now=datetime.now(UTC) + timedelta(days=days))[check].level == level


def test_a_listeners_certificate_that_really_ended_fails(home: CoordinatorHome) -> None:
    authority = load_certificate_authority(home, federation="harness")
    write_server_certificate(
        home, authority=authority, names=("127.0.0.1",), now=datetime.now(UTC) - timedelta(days=90.5)
    )
    assert "expired" in findings(home)["listeners certificate"].detail


def test_a_root_key_that_was_taken_away_is_as_it_should_be(home: CoordinatorHome) -> None:
    assert findings(home)["root key"].level == "WARN"
    home.root_key_file.unlink()
    assert findings(home)["root key"].level == "PASS"


def test_release_metadata_warns_before_it_expires(tmp_path: Path) -> None:
    home = make_trust_federation(tmp_path).home
    now = datetime.now(UTC)
    roles = ("root", "targets", "stable", "candidate", "snapshot", "timestamp")

    def levels(days: float) -> list[str]:
        found = findings(home, now=now + timedelta(days=days))
        return [found[f"{role} metadata"].level for role in roles]

    assert levels(0) == ["PASS"] * 6
    assert levels(1.9) == ["PASS"] * 5 + ["WARN"]
    assert levels(80) == ["PASS", "PASS", "WARN", "FAIL", "WARN", "FAIL"]
    assert levels(400) == ["FAIL"] * 6


def member(
    name: str, *, status: str = "active", in_fleet: bool = True, called: bool = True
) -> MemberStanding:
    return MemberStanding(name, status, 256, in_fleet, datetime(2026, 1, 1, tzinfo=UTC) if called else None)


@pytest.mark.parametrize(
    ("members", "level", "words"),
    [
        ([], "WARN", "no active member"),
        ([member("acme", status="suspended")], "WARN", "no active member"),
        ([member("acme"), member("beta", called=False)], "WARN", "Not beta"),
        ([member("acme"), member("beta", in_fleet=False)], "WARN", "does not know beta"),
        ([member("acme"), member("beta")], "PASS", "2 active, 2 heard of"),
    ],
)
def test_members_that_were_not_heard_of_are_named(
    members: list[MemberStanding], level: str, words: str
) -> None:
    found = check_members(members)
    assert (found.level, words in found.detail) == (level, True)


def test_a_coordinator_of_another_version_than_the_installed_one_is_to_be_started_again() -> None:
    condition = Condition("0.0.9", datetime(2026, 1, 1, tzinfo=UTC), True, 3, ())
    assert check_condition(condition, version="0.1.0")[0].level == "WARN"
    assert check_condition(condition, version="0.0.9")[0].level == "PASS"


def test_a_folder_that_takes_no_file_fails_the_disk(home: CoordinatorHome) -> None:
    assert findings(CoordinatorHome(home.root / "gone"))["disk"].level == "FAIL"
