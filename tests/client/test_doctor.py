"""Every line of the doctor is seen to pass on a sound member, and to fail or warn on the fault that it is there for."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_gateway import fake_gateway
from federation_harness import (
    FEDERATION,
    MadeFederation,
    Processes,
    accepts,
    coordinator_command,
    free_port,
    make_federation,
    wait_until,
)

from ringfence.client.command_line import application
from ringfence.client.doctor_command import diagnose
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings, save_member_settings
from ringfence.model.console import run_application
from ringfence.model.diagnosis import Finding
from ringfence.model.machine_probes import writing_problem, wrong_requirements
from ringfence.server.certificate_authority import load_certificate_authority, write_server_certificate
from ringfence.server.coordinator_home import CoordinatorHome


@dataclass(frozen=True)
class Serving:
    """A federation whose gateway and control plane run."""

    federation: MadeFederation

    def copy(self, name: str, folder: Path) -> MemberHome:
        return MemberHome(shutil.copytree(self.federation.members[name].root, folder / name))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("doctor")
    federation = make_federation(root, members=("acme", "beta"))
    with Processes(root / "logs") as processes:
        processes.start_fleet(federation)
        processes.start(
            "control", coordinator_command("serve-releases", "--home", federation.coordinator.root)
        )
        wait_until(lambda: accepts(federation.settings.release_address), what="the control plane listens")
        yield Serving(federation)


@pytest.fixture
def home(serving: Serving, tmp_path: Path) -> MemberHome:
    """A sound member, whose files a test may damage."""
    return serving.copy("acme", tmp_path)


def findings(home: MemberHome, *, now: datetime | None = None) -> dict[str, Finding]:
    found = diagnose(home, timeout_s=30.0, now=now or datetime.now(UTC))
    worst: dict[str, Finding] = {}
    for finding in found:  # two hosts have a line each under one name
        if finding.check not in worst or finding.level == "FAIL":
            worst[finding.check] = finding
    return worst


def test_a_gpu_that_was_chosen_and_cannot_be_used_fails_with_the_way_out(
    home: MemberHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "device" not in findings(home), "the CPU is always there"
    settings = load_member_settings(home)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device, level, fix in (("cuda", "FAIL", 'device = "cpu"'), ("auto", "PASS", "")):
        save_member_settings(home, settings=settings.model_copy(update={"device": device}))
        found = findings(home)["device"]
        assert found.level == level
        assert fix in found.fix


def test_a_sound_member_passes_every_check_and_is_told_to_start_its_agent(home: MemberHome) -> None:
    found = findings(home)
    assert {check: finding.level for check, finding in found.items()} == {
        "versions": "PASS",
        "disk": "PASS",
        "keys": "PASS",
        "certificate": "PASS",
        "policy": "PASS",
        "data": "PASS",
        "budget": "PASS",
        "agent": "WARN",
        "DNS": "PASS",
        "fleet port": "PASS",
        "control port": "PASS",
        "TLS": "PASS",
        "clock": "PASS",
        "fleet": "PASS",
        "identity": "PASS",
    }
    assert "ringfence agent run" in found["agent"].fix
    assert "acme of harness" in found["identity"].detail


def change(home: MemberHome, **settings: object) -> None:
    present = load_member_settings(home, environment={})
    save_member_settings(home, settings=present.model_copy(update=settings))


def _no_such_name(home: MemberHome) -> None:
    change(home, fleet_address="no-such-host.invalid:8443")


def _closed_fleet_port(home: MemberHome) -> None:
    change(home, fleet_address=f"127.0.0.1:{free_port()}")


def _closed_control_port(home: MemberHome) -> None:
    change(home, release_address=f"127.0.0.1:{free_port()}")


def _another_members_folder(home: MemberHome) -> None:
    change(home, member="somebody-else")


def _open_key(home: MemberHome) -> None:
    home.key_file.chmod(0o644)


def _lost_key(home: MemberHome) -> None:
    home.identity_key_file.unlink()


def _damaged_certificate(home: MemberHome) -> None:
    home.certificate_file.write_text("nonsense")


def _broken_data(home: MemberHome) -> None:
    (home.root / "data.jsonl").write_text('{"id": "c1", "messages": [{"author": "planted-name"}]}\n')


def _lost_data(home: MemberHome) -> None:
    (home.root / "data.jsonl").unlink()


def _wrong_policy_key(home: MemberHome) -> None:
    home.policy_file.write_text(home.policy_file.read_text() + "\n[nonsense]\n")


def _open_policy(home: MemberHome) -> None:
    home.policy_file.chmod(0o666)


def _changed_ledger(home: MemberHome) -> None:
    import time

    from ringfence.client.policy import load_policy
    from ringfence.privacy.ledger import Ledger

    policy = load_policy(home)
    for folder in (home.ledger_file.parent, policy.anchor_file(home).parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    terms = policy.ledger_terms("conversations")
    Ledger.create(
        home.ledger_file, anchor_path=policy.anchor_file(home), terms=terms, now=time.time()
    ).close()
    assert findings(home)["budget"].level == "PASS"
    policy.anchor_file(home).unlink()


def _no_settings(home: MemberHome) -> None:
    home.settings_file.unlink()


def _unknown_setting(home: MemberHome) -> None:
    home.settings_file.write_text("nonsense = 1\n" + home.settings_file.read_text())


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        (_no_such_name, "DNS", "no-such-host.invalid has no address"),
        (_closed_fleet_port, "fleet port", "takes no connection"),
        (_closed_control_port, "control port", "takes no connection"),
        (_another_members_folder, "identity", "The coordinator sees acme"),
        (_open_key, "keys", "Others can reach"),
        (_lost_key, "keys", "missing"),
        (_damaged_certificate, "certificate", "certificate"),
        (_broken_data, "data", "data.jsonl"),
        (_lost_data, "data", "data.jsonl"),
        (_wrong_policy_key, "policy", "there is no such key"),
        (_open_policy, "policy", "Others may write"),
        (_changed_ledger, "budget", "ledger"),
        (_no_settings, "settings", "member.toml"),
        (_unknown_setting, "settings", "nonsense"),
    ],
)
def test_a_fault_of_the_members_own_files_or_settings_fails_its_check_with_a_fix(
    home: MemberHome, fault: Callable[[MemberHome], None], check: str, words: str
) -> None:
    fault(home)
    found = findings(home)
    assert found[check].level == "FAIL"
    assert words in found[check].detail
    assert found[check].fix
    assert "planted-name" not in str(found)


def test_what_a_member_lacks_before_its_first_round_is_a_warning(home: MemberHome) -> None:
    change(home, data=load_member_settings(home, environment={}).data.model_copy(update={"files": ()}))
    text = home.policy_file.read_text()
    home.policy_file.write_text(text.replace(f'launched_by = ["{FEDERATION}"]', "launched_by = []"))
    found = findings(home)
    assert (found["data"].level, found["policy"].level) == ("WARN", "WARN")
    assert "[data]" in found["data"].fix
    assert f'launched_by = ["{FEDERATION}"]' in found["policy"].fix


@pytest.mark.parametrize(
    ("shift", "level"),
    [
        (timedelta(seconds=10), "PASS"),
        (timedelta(minutes=2), "WARN"),
        (timedelta(hours=1), "FAIL"),
        (timedelta(hours=-1), "FAIL"),
    ],
)
def test_a_clock_that_goes_wrong_is_measured_against_the_coordinators(
    home: MemberHome, shift: timedelta, level: str
) -> None:
    found = findings(home, now=datetime.now(UTC) + shift)["clock"]
    assert found.level == level
    assert ("ahead of" in found.detail) == (level != "PASS" and shift > timedelta(0))
    assert ("timedatectl" in found.fix) == (level != "PASS")


def test_a_certificate_that_ends_soon_warns_and_one_that_ended_fails(home: MemberHome) -> None:
    now = datetime.now(UTC)
    levels = [findings(home, now=now + timedelta(days=days))["certificate"].level for days in (-1, 0, 6, 8)]
    assert levels == ["FAIL", "PASS", "WARN", "FAIL"]


def test_an_expired_certificate_is_refused_by_the_gateway_and_by_the_control_plane(
    serving: Serving, home: MemberHome
) -> None:
    federation = serving.federation
    authority = load_certificate_authority(federation.coordinator, federation=FEDERATION)
    from ringfence.client.identity import make_request

    request = make_request(home)
    old = authority.issue_member_certificate(
        request.csr.encode(), member="acme", now=datetime.now(UTC) - timedelta(days=7.5)
    )
    home.certificate_file.write_bytes(old)
    found = findings(home)
    assert {check for check, finding in found.items() if finding.level == "FAIL"} == {
        "certificate",
        "fleet",
        "identity",
    }
    assert "does not take this member's certificate" in found["fleet"].detail
    assert "invite this member again" in found["certificate"].fix


def test_a_suspended_member_learns_it_from_the_gateway_and_from_the_control_plane(
    serving: Serving, tmp_path: Path
) -> None:
    home = serving.copy("beta", tmp_path)
    assert findings(home)["fleet"].level == "PASS"
    serving.federation.registry.suspend("beta")
    found = findings(home)
    assert (found["fleet"].level, found["identity"].level) == ("FAIL", "FAIL")
    assert "suspended or was removed" in found["fleet"].detail
    assert found["TLS"].level == "PASS"


@pytest.fixture
def stranger(tmp_path: Path) -> MadeFederation:
    """Another federation, whose authority nobody here trusts."""
    return make_federation(tmp_path / "stranger", members=("mallory",))


def test_a_gateway_of_another_federation_is_not_believed(home: MemberHome, stranger: MadeFederation) -> None:
    coordinator = stranger.coordinator
    with fake_gateway(
        certificate_file=coordinator.server_certificate_file, key_file=coordinator.server_key_file
    ) as address:
        change(home, fleet_address=address)
        found = findings(home)
    assert found["TLS"].level == "FAIL"
    assert "not certified by the federation" in found["TLS"].detail
    assert found["clock"].level == "WARN"
    assert "fleet" not in found


def own_certificate(
    serving: Serving, folder: Path, *, names: tuple[str, ...] = ("127.0.0.1",), age: timedelta = timedelta(0)
) -> CoordinatorHome:
    """Return a copy of the coordinator whose listeners have another certificate of the same authority."""
    copied = CoordinatorHome(shutil.copytree(serving.federation.coordinator.pki, folder / "c" / "pki").parent)
    authority = load_certificate_authority(copied, federation=FEDERATION)
    write_server_certificate(copied, authority=authority, names=names, now=datetime.now(UTC) - age)
    return copied


@pytest.mark.parametrize(
    ("names", "age", "words"),
    [
        (("elsewhere.example.org",), timedelta(0), "for another name"),
        (("127.0.0.1",), timedelta(days=90.5), "has expired"),
        (("127.0.0.1",), timedelta(days=-2), "not valid yet"),
    ],
)
def test_a_gateway_with_a_wrong_name_or_time_is_not_believed(
    serving: Serving, home: MemberHome, tmp_path: Path, names: tuple[str, ...], age: timedelta, words: str
) -> None:
    fake = own_certificate(serving, tmp_path, names=names, age=age)
    # 127.0.0.1 stands in every listener's certificate, so the wrong name is looked for at another loopback address.
    with fake_gateway(
        certificate_file=fake.server_certificate_file,
        key_file=fake.server_key_file,
        host="127.0.0.1" if "127.0.0.1" in names else "127.0.0.9",
    ) as address:
        change(home, fleet_address=address)
        found = findings(home)["TLS"]
    assert found.level == "FAIL"
    assert words in found.detail


@pytest.mark.parametrize(
    ("said", "status", "check", "level"),
    [
        (timedelta(hours=-1), 404, "clock", "FAIL"),
        (None, 404, "clock", "WARN"),
        (timedelta(0), 404, "fleet", "PASS"),
        (timedelta(0), 403, "fleet", "FAIL"),
        (timedelta(0), 429, "fleet", "WARN"),
    ],
)
def test_what_the_gateway_says_of_time_and_admission_is_judged(
    serving: Serving,
    home: MemberHome,
    said: timedelta | None,
    status: int,
    check: str,
    level: str,
) -> None:
    coordinator = serving.federation.coordinator
    with fake_gateway(
        certificate_file=coordinator.server_certificate_file,
        key_file=coordinator.server_key_file,
        says_time=None if said is None else datetime.now(UTC) + said,
        status=status,
    ) as address:
        change(home, fleet_address=address)
        assert findings(home)[check].level == level


def test_something_that_speaks_no_tls_is_named_as_such(home: MemberHome) -> None:
    with fake_gateway(certificate_file=None, key_file=None) as address:
        change(home, fleet_address=address)
        found = findings(home)["TLS"]
    assert found.level == "FAIL"
    assert "No TLS came about" in found.detail


def test_a_folder_that_takes_no_file_fails_the_disk(home: MemberHome) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert writing_problem(home.root) == "File too large"
        found = findings(home)["disk"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.level == "FAIL"
    assert findings(MemberHome(home.root / "gone"))["disk"].level == "FAIL"


def test_packages_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made_up-1.0.dist-info"
    folder.mkdir()
    asked = [
        "pytest<1",
        "no-such-package-here>=2",
        'ruff<0.1; extra == "train"',
        "typer",
        'mypy<1; extra == "other"',
    ]
    lines = [
        "Metadata-Version: 2.1",
        "Name: made-up",
        "Version: 1.0",
        *(f"Requires-Dist: {line}" for line in asked),
    ]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    wrong = wrong_requirements("made-up", extras=["train"])
    assert wrong.keys() == {"pytest", "no-such-package-here", "ruff"}
    assert wrong["no-such-package-here"] == "is not installed"
    assert "<1 is asked for" in wrong["pytest"]
    assert wrong_requirements("no-such-package-here", extras=[]) == {
        "no-such-package-here": "is not installed as a package"
    }


def test_the_command_prints_every_line_and_ends_with_1_if_one_failed(
    home: MemberHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["doctor", "--home", str(home.root)]) == 0
    told = capsys.readouterr().out
    assert "PASS  TLS" in told
    assert told.endswith("Next: ringfence status\n")
    _open_key(home)
    assert run_application(application, ["doctor", "--home", str(home.root)]) == 1
    told, said = capsys.readouterr()
    assert "FAIL  keys" in told
    assert "error: 1 check failed: keys." in said
    assert run_application(application, ["doctor", "--home", str(home.root), "--json"]) == 1
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["status"], envelope["error_code"]) == ("error", "not_healthy")
    assert envelope["data"]["healthy"] is False
    assert {finding["check"] for finding in envelope["data"]["findings"]} >= {"keys", "TLS", "identity"}
