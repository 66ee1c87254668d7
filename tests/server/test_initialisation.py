"""Setting up a coordinator: a slip or a power cut leaves nothing that a second try would stumble over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from databases import KINDS, empty_database_url, write_database_url
from federation_harness import coordinator_command

from ringfence.model.console import run_application
from ringfence.model.errors import ConfigError
from ringfence.server.certificate_authority import server_certificate_is_due
from ringfence.server.command_line import application
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import (
    CoordinatorSettings,
    load_coordinator_settings,
    unreachable_listeners,
)
from ringfence.server.enrolment import Enrolment
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.signing_keys import load_coordinator_key, make_next_key

ADDRESSES = ("fleet", "release", "enrolment")
EVERYWHERE = [
    word
    for port, kind in enumerate(ADDRESSES, start=7001)
    for word in (f"--{kind}-address", f"0.0.0.0:{port}")
]


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome(tmp_path / "coordinator")


def typed(
    home: CoordinatorHome, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = run_application(application, [*words, "--home", str(home.root), "--json"])
    answer = json.loads(capsys.readouterr().out)
    return code, dict(answer["data"] if code == 0 else answer)


def works(home: CoordinatorHome) -> None:
    """Whoever is set up can invite, which takes its settings, keys, certificates and database."""
    settings = load_coordinator_settings(home, environment={})
    database = open_database(home, settings=settings)
    enrolment = Enrolment(home, settings=settings, database=database, now=lambda: datetime.now(UTC))
    assert enrolment.invite("acme").text().startswith("rfj1.")
    assert not (home.root / ".initialising").exists()


@pytest.mark.parametrize("name", ["münchen.de", "two words", "fleet.example.org:8443", "", "a..b", "-a.b"])
def test_a_slip_in_a_name_makes_nothing_and_the_corrected_command_works(
    home: CoordinatorHome, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = typed(home, ["init", "example", "--server-name", name], capsys)
    assert code == 4
    assert "server_names" in str(answer["message"])
    assert not home.root.exists()
    assert typed(home, ["init", "example", "--server-name", "xn--mnchen-3ya.de", *EVERYWHERE], capsys)[0] == 0
    works(home)


def test_listeners_on_every_address_are_given_to_members_by_the_first_name(
    home: CoordinatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--server-name", "fleet.example.org", "--server-name", "192.0.2.7"]
    assert typed(home, ["init", "example", *names, *EVERYWHERE], capsys)[0] == 0
    settings = load_coordinator_settings(home, environment={})
    given = [getattr(settings, f"{kind}_address_for_members") for kind in ADDRESSES]
    assert given == [f"fleet.example.org:{port}" for port in (7001, 7002, 7003)]
    code, invited = typed(home, ["member", "invite", "acme"], capsys)
    assert code == 0
    assert invited["address"] == "fleet.example.org:7003"


def test_public_addresses_are_named_at_init_and_go_before_the_first_name(
    home: CoordinatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--server-name", "fleet.example.org", "--server-name", "192.0.2.7"]
    words += ["--enrolment-public-address", "192.0.2.7:443"]
    assert typed(home, ["init", "example", *words, *EVERYWHERE], capsys)[0] == 0
    settings = load_coordinator_settings(home, environment={})
    assert settings.enrolment_address_for_members == "192.0.2.7:443"
    assert settings.fleet_address_for_members == "fleet.example.org:7001"


@pytest.mark.parametrize(
    "words",
    [
        EVERYWHERE,
        [*EVERYWHERE, "--server-name", "127.0.0.2"],
        [*EVERYWHERE, "--server-name", "0.0.0.0"],  # noqa: S104 - not bound
        ["--server-name", "fleet.example.org", "--enrolment-address", "192.0.2.7:9444"],
        [
            "--server-name",
            "fleet.example.org",
            *EVERYWHERE,
            "--fleet-public-address",
            "other.example.org:8443",
        ],
    ],
    ids=["no name", "loopback", "no address", "not in the certificate", "public and not in the certificate"],
)
def test_addresses_that_no_member_could_use_are_refused_with_what_to_say(
    home: CoordinatorHome, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = typed(home, ["init", "example", *words], capsys)
    assert code == 4
    assert "Members cannot reach" in str(answer["message"])
    assert "--server-name" in str(answer["hint"])
    assert not home.root.exists()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("[2001:db8::1]", "2001:db8:0::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[::ffff:192.0.2.7]", "::ffff:c000:207"),
        ("Fleet.Example.org", "fleet.example.ORG"),
    ],
)
def test_a_name_is_the_same_name_however_it_is_written(host: str, name: str) -> None:
    addresses = {f"{kind}_address": f"{host}:7000" for kind in ADDRESSES}
    settings = CoordinatorSettings(federation="example", server_names=(name,), **addresses)
    assert unreachable_listeners(settings) == {}
    other = settings.model_copy(update={"server_names": ("other.example.org", "2001:db8::2")})
    assert set(unreachable_listeners(other)) == set(ADDRESSES)


def test_whoever_listens_on_loopback_is_not_asked_about_and_can_be_reached_there(
    home: CoordinatorHome,
) -> None:
    addresses = dict(
        zip(
            (f"{kind}_address" for kind in ADDRESSES),
            ("localhost:1", "127.0.0.2:2", "[::1]:3"),
            strict=True,
        )
    )
    settings = CoordinatorSettings(federation="example", server_names=("fleet.example.org",), **addresses)
    assert unreachable_listeners(settings) == {}
    initialise_coordinator(home, settings=settings, now=datetime.now(UTC))
    certificate = x509.load_pem_x509_certificate(home.server_certificate_file.read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in named} == {
        "fleet.example.org",
        "localhost",
        "127.0.0.1",
        "127.0.0.2",
        "::1",
    }
    assert not server_certificate_is_due(home, names=settings.certified_names, now=datetime.now(UTC))
    elsewhere = settings.model_copy(update={"fleet_public_address": "other.example.org:443"})
    assert set(unreachable_listeners(elsewhere)) == {"fleet"}, (
        "who is given another address is asked about it"
    )


def test_settings_that_were_edited_to_such_addresses_invite_nobody(
    home: CoordinatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(home, ["init", "example"], capsys)[0] == 0
    text = home.settings_file.read_text().replace('"127.0.0.1:9444"', '"0.0.0.0:9444"')
    home.settings_file.write_text(text)
    code, answer = typed(home, ["member", "invite", "acme"], capsys)
    assert code == 4
    assert "enrolment" in str(answer["message"])


KILLED_AT = ["the keys", "move 0", "move 1", "move 4", "the settings"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_kill_in_the_middle_leaves_nothing_that_blocks_a_second_try(
    home: CoordinatorHome, moment: str, kind: str, tmp_path: Path
) -> None:
    with empty_database_url(kind, tmp_path) as url:
        file = write_database_url(home.root, None if kind == "sqlite" else url)
        child = [sys.executable, "-c", _INITIALISE_AND_DIE, str(home.root), moment, str(file or "")]
        done = subprocess.run(child, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not home.settings_file.exists()
        settings = CoordinatorSettings(federation="corrected", database_url_file=file)
        initialise_coordinator(home, settings=settings, now=datetime.now(UTC))
        works(home)
        open_database(home).close()


def test_a_second_try_takes_away_nothing_that_an_operator_put_there(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    child = [sys.executable, "-c", _INITIALISE_AND_DIE, str(home.root), "the keys", ""]
    subprocess.run(child, capture_output=True, timeout=180, check=False)
    assert (home.root / ".initialising").is_dir()
    home.database_file.write_text("brought back")
    with pytest.raises(ConfigError, match="exists already") as refused:
        initialise_coordinator(
            home, settings=CoordinatorSettings(federation="example"), now=datetime.now(UTC)
        )
    assert refused.value.hint
    assert home.database_file.read_text() == "brought back"


def test_a_database_that_holds_a_coordinator_is_not_taken_for_one_of_an_interrupted_try(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with empty_database_url("postgresql", tmp_path) as url:
        first = CoordinatorHome(tmp_path / "first")
        settings = CoordinatorSettings(
            federation="example", database_url_file=write_database_url(first.root, url)
        )
        initialise_coordinator(first, settings=settings, now=datetime.now(UTC))
        file = write_database_url(home.root, url)
        second = settings.model_copy(update={"database_url_file": file})
        with pytest.raises(ConfigError, match="holds a coordinator already"):
            initialise_coordinator(home, settings=second, now=datetime.now(UTC))
        child = [sys.executable, "-c", _INITIALISE_AND_DIE, str(home.root), "move 0", ""]
        subprocess.run(child, capture_output=True, timeout=180, check=False)
        works(first)  # it has an invitation now, so that it is no empty database
        with pytest.raises(ConfigError, match="holds a coordinator already"):
            initialise_coordinator(home, settings=second, now=datetime.now(UTC))
        works(first)
        open_database(first).close()


def test_a_coordinator_that_is_set_up_is_left_as_it_is(home: CoordinatorHome) -> None:
    settings = CoordinatorSettings(federation="example")
    initialise_coordinator(home, settings=settings, now=datetime.now(UTC))
    before = home.ca_file.read_bytes()
    with pytest.raises(ConfigError, match="set up already"):
        initialise_coordinator(home, settings=settings, now=datetime.now(UTC))
    assert home.ca_file.read_bytes() == before
    works(home)


@pytest.mark.parametrize("command", ["serve-fleet", "serve-releases"])
def test_a_coordinator_whose_keys_were_not_restored_is_told_to_bring_them_back_and_never_to_begin_anew(
    home: CoordinatorHome, command: str
) -> None:
    initialise_coordinator(home, settings=CoordinatorSettings(federation="example"), now=datetime.now(UTC))
    for file in (home.server_key_file, home.intermediate_file, *home.keys.iterdir()):
        file.unlink()
    words = coordinator_command(command, "--home", home.root, "--json")
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 4, done.stderr
    hint = json.loads(done.stdout)["hint"]
    assert "--with-keys" in hint
    assert "init" not in hint
    with pytest.raises(ConfigError) as missing:
        load_coordinator_key(home, name="plan")
    assert "--with-keys" in missing.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="the folder must be another account's")
def test_no_service_is_installed_for_an_account_that_cannot_use_the_folder(
    home: CoordinatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    initialise_coordinator(home, settings=CoordinatorSettings(federation="example"), now=datetime.now(UTC))
    code, answer = typed(home, ["install-service", "--user", "daemon", "--print"], capsys)
    assert code == 4
    assert "daemon may not" in str(answer["message"])
    assert typed(home, ["install-service", "--print"], capsys)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the folder must be another account's")
@pytest.mark.parametrize("key", ["keys/plan.key", "keys/next/timestamp.key", "pki/server.key"])
def test_no_service_is_installed_for_an_account_that_cannot_read_one_of_the_keys(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one that was made by root, after the folder was given to the account."""
    # Below a folder that everybody may enter, as pytest's own is not.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - to be entered
        home = CoordinatorHome(Path(folder) / "coordinator")
        initialise_coordinator(
            home, settings=CoordinatorSettings(federation="example"), now=datetime.now(UTC)
        )
        make_next_key(home, name="timestamp")
        for path in (home.root, *home.root.rglob("*")):
            shutil.chown(path, "daemon", "daemon")
        assert typed(home, ["install-service", "--user", "daemon", "--print"], capsys)[0] == 0
        shutil.chown(home.root / key, "root", "root")
        code, answer = typed(home, ["install-service", "--user", "daemon", "--print"], capsys)
        assert code == 4
        assert f"daemon may not read {home.root / key}" in str(answer["message"])


_INITIALISE_AND_DIE = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from ringfence.server import initialisation
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings

home, moment, file = CoordinatorHome(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "the keys":
    initialisation.create_signing_keys = die
else:
    moved, move = [], os.rename

    class Moves:
        def rename(self, source, target):
            if moment in (f"move {len(moved)}", "the settings" if target == home.settings_file else ""):
                die()
            moved.append(source)
            move(source, target)

    initialisation.os = Moves()
settings = CoordinatorSettings(federation="mistaken", database_url_file=Path(file) if file else None)
initialisation.initialise_coordinator(home, settings=settings, now=datetime.now(UTC))
"""
