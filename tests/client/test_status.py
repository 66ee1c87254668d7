"""One screen about a member, from its own files: sound, busy, broken, never with a traceback."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from federation_harness import make_federation
from ledger_homes import OPENED, TERMS, charge_rounds

from ringfence.client.agent import _only_agent
from ringfence.client.agent_condition import AgentCondition, agent_lock_file
from ringfence.client.audit_chain import Departure
from ringfence.client.audit_log import AuditLog
from ringfence.client.command_line import application
from ringfence.client.member_home import MemberHome
from ringfence.client.status import next_command, read_status, status_data, status_lines
from ringfence.model.console import run_application
from ringfence.model.errors import ConnectionFailedError
from ringfence.model.service_notice import ServiceNotice
from ringfence.privacy.ledger import Ledger


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return make_federation(tmp_path, members=("acme",), conversations=2).members["acme"]


def screen(home: MemberHome, *, later: timedelta = timedelta(0)) -> str:
    now = datetime.now(UTC) + later
    return "\n".join(status_lines(read_status(home, now=now), now=now))


def answered(home: MemberHome, run: str, round_: int) -> None:
    AuditLog.of(home).append(
        Departure(
            destination="coordinator.example:8443",
            kind="train-update",
            purpose="grooming-risk-detection",
            digest="a" * 64,
            size_bytes=872,
            plan_digest="b" * 64,
            run=run,
            round=round_,
            attempt=1,
            ledger_head="c" * 64,
        )
    )


def test_a_member_that_has_just_joined_is_told_to_start_its_agent(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["status", "--home", str(home.root)]) == 0
    told = capsys.readouterr().out
    assert "acme of harness" in told
    assert "7.0 days left" in told
    assert "does not run" in told
    assert "none seen yet" in told
    assert "nothing spent" in told
    assert "none in use" in told
    assert "harness may launch, approval automatic, hours open now, releases: hold" in told
    assert told.endswith("Next: ringfence agent run\n")


def test_a_busy_member_sees_its_runs_its_last_answer_and_what_is_left(home: MemberHome) -> None:
    for round_ in (1, 2):
        answered(home, "spring-1", round_)
    answered(home, "autumn-1", 1)
    answered(home, "spring-1", 3)
    for folder in (home.ledger_file.parent, home.ledger_anchor_file.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    Ledger.create(home.ledger_file, anchor_path=home.ledger_anchor_file, terms=TERMS, now=OPENED).close()
    charge_rounds(home, "spring-1")
    condition = AgentCondition(home, notice=ServiceNotice())
    with _only_agent(agent_lock_file(home)):
        condition.started()
        condition.connected("127.0.0.1:1")
        condition.looked_for_release("Release 0.2.0 waits for a person.")
        now = datetime.now(UTC)
        status = read_status(home, now=now)
        told = "\n".join(status_lines(status, now=now))
    assert "2 seen" in told
    assert "train-update to spring-1, round 3" in told
    assert "connected to 127.0.0.1:" in told
    assert "Last look: Release 0.2.0 waits for a person." in told
    assert next_command(status) == "ringfence model pull --use"
    data = status_data(status)
    assert json.loads(json.dumps(data)) == data
    budget = data["budget"]
    assert isinstance(budget, dict)
    assert 0 < budget["used_share"] < 1
    assert f"{100 * budget['used_share']:.1f} % spent" in told
    assert budget["runs_left"] >= 1


def test_an_agent_that_died_does_not_look_connected(home: MemberHome) -> None:
    condition = AgentCondition(home, notice=ServiceNotice())
    condition.connected("127.0.0.1:1")  # and then it was killed: nobody holds the lock
    assert "does not run" in screen(home)
    assert status_data(read_status(home, now=datetime.now(UTC)))["agent"]["connected"] is False  # type: ignore[index]


def test_an_agent_that_lost_its_connection_says_why(home: MemberHome) -> None:
    condition = AgentCondition(home, notice=ServiceNotice())
    with _only_agent(agent_lock_file(home)):
        condition.disconnected(ConnectionFailedError("The coordinator does not answer."))
        assert "not connected: The coordinator does not answer." in screen(home)
        assert next_command(read_status(home, now=datetime.now(UTC))) == "ringfence doctor"


def test_a_certificate_that_ended_is_seen_at_once(home: MemberHome) -> None:
    assert "EXPIRED" in screen(home, later=timedelta(days=8))


def test_what_cannot_be_read_has_its_line_and_the_rest_is_shown(home: MemberHome) -> None:
    home.policy_file.write_text("nonsense = 1\n")
    home.ledger_file.parent.mkdir(mode=0o700, exist_ok=True)
    home.ledger_file.write_bytes(b"not a ledger")
    told = screen(home)
    assert told.count("CANNOT BE READ") == 2
    assert "acme of harness" in told
    status = read_status(home, now=datetime.now(UTC))
    assert len(status_data(status)["problems"]) == 2  # type: ignore[arg-type]


def test_a_folder_that_never_joined_says_so_with_exit_code_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["status", "--home", str(tmp_path), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error_code"] == "bad_config"
