"""A coordinator that has turned bad ships code: a member runs its own installed client and nothing of the bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from federation_harness import Fleet, make_plan, member_command, wait_until
from scripted_coordinator import ScriptedCoordinator, bundle_of

from ringfence.model.errors import RingfenceError
from ringfence.model.round_messages import Refusal, RefusalCode, TrainUpdate
from ringfence.server.flower_adapter import build_bundle

MODULES = ("__init__", "client/__init__", "client/app", "model/__init__", "server/app", "sitecustomize")


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mark") / "executed"


@pytest.fixture(scope="module")
def agent(fleet: Fleet, marker: Path) -> Path:
    """Acme's real agent, with a working folder and a Flower home that a bundle could be unpacked into."""
    home, here = fleet.member("acme"), marker.parent / "here"
    here.mkdir()
    fleet.processes.start(
        "agent-acme",
        member_command("agent", "run", "--home", home.root, "--poll", 0.1),
        environment={"FLWR_HOME": str(here / "flower")},
    )
    wait_until(lambda: "connected to" in fleet.processes.log("agent-acme"), what="the agent connects")
    return here


def hostile_files(marker: Path) -> dict[str, bytes]:
    """Return a `ringfence` package whose every module would leave a mark when it is imported."""
    code = f"open({str(marker)!r}, 'a').write(__name__ + '\\n')\napp = None\n".encode()
    files = {f"ringfence/{module}.py": code for module in MODULES}
    return {**files, "sitecustomize.py": code, "conftest.py": code, "setup.py": code}


def test_the_hostile_modules_do_leave_a_mark_when_they_are_imported(tmp_path: Path) -> None:
    """Without this the tests below could pass for want of a weapon."""
    marker = tmp_path / "executed"
    for name, content in hostile_files(marker).items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.system(f"cd {tmp_path / 'unpacked'} && {sys.executable} -c 'import ringfence.client.app'")  # noqa: S605
    assert "ringfence.client.app" in marker.read_text()


def test_a_bundle_of_the_same_app_with_its_own_ringfence_runs_nothing_at_a_member(
    fleet: Fleet, agent: Path, marker: Path
) -> None:
    bundle = bundle_of(hostile_files(marker))
    assert b"ringfence/client/app.py" in bundle
    with ScriptedCoordinator(fleet.federation, bundle=bundle) as coordinator:
        coordinator.ask(fleet.nodes["acme"], coordinator.request(make_plan()))
        (arrival,) = coordinator.collect(timeout_s=90)
    # The member's own client answered, as if the bundle had carried nothing.
    assert isinstance(arrival.answer, TrainUpdate)
    assert not marker.exists()
    # It was not even fetched: nothing was unpacked where Flower would unpack it.
    assert not [path for path in agent.rglob("*.py") if path.is_file()]
    assert "refused acme" not in fleet.processes.log("fleet")


@pytest.mark.parametrize(
    ("publisher", "name"), [("somebody", "federation"), ("ringfence", "other"), ("Ringfence", "Federation")]
)
def test_a_bundle_of_another_app_is_refused_with_a_code(
    fleet: Fleet, agent: Path, marker: Path, publisher: str, name: str
) -> None:
    try:
        bundle = bundle_of(hostile_files(marker), publisher=publisher, name=name)
    except (ValueError, RingfenceError):
        pytest.skip("Flower builds no bundle of this name")
    with ScriptedCoordinator(fleet.federation, bundle=bundle) as coordinator:
        coordinator.ask(fleet.nodes["acme"], coordinator.request(make_plan()))
        (arrival,) = coordinator.collect()
    assert arrival.answer == Refusal(RefusalCode.UNKNOWN_APP)
    assert not marker.exists()


@pytest.mark.parametrize("action", ["train", "train.other", "query", "evaluate.update", "system"])
def test_an_action_that_the_member_does_not_know_is_refused_with_a_code(
    fleet: Fleet, agent: Path, action: str
) -> None:
    with ScriptedCoordinator(fleet.federation) as coordinator:
        try:
            coordinator.ask(fleet.nodes["acme"], coordinator.request(make_plan()), action=action)
        except ValueError:
            pytest.skip("Flower sends no such action")
        (arrival,) = coordinator.collect()
    assert arrival.answer == Refusal(RefusalCode.UNKNOWN_APP)


def test_the_honest_bundle_holds_one_project_file_and_no_code() -> None:
    import io
    import zipfile

    content, digest = build_bundle()
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["pyproject.toml", ".info/CONTENT"]
    assert build_bundle() == (content, digest)
