"""What an operator is told about invitations and members."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ringfence.model.console import run_application
from ringfence.server.command_line import application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.initialisation import initialise_coordinator


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = CoordinatorHome(tmp_path / "coordinator")
    initialise_coordinator(made, settings=CoordinatorSettings(federation="example"), now=datetime.now(UTC))
    return made


def test_an_invitation_that_withdraws_an_earlier_one_says_so(
    home: CoordinatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    def invited(name: str) -> tuple[dict[str, object], str]:
        words = ["member", "invite", name, "--home", str(home.root), "--json"]
        assert run_application(application, words) == 0
        answered, said = capsys.readouterr()
        return dict(json.loads(answered)["data"]), said

    first, said = invited("acme")
    assert (first["withdrawn"], said) == ([], "")
    other, said = invited("beta")
    assert (other["withdrawn"], said) == ([], "")
    second, said = invited("acme")
    assert second["withdrawn"] == [first["id"]]
    assert "earlier invitation of acme is withdrawn" in said
