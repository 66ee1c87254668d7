"""Settings: environment over file over default; unknown keys are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import (
    DataSettings,
    MemberSettings,
    load_member_settings,
    save_member_settings,
)
from ringfence.model.errors import ConfigError
from ringfence.model.settings_file import split_address, toml_text
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import (
    CoordinatorSettings,
    load_coordinator_settings,
    save_coordinator_settings,
)


def test_a_member_reads_back_what_it_wrote_whatever_the_characters(tmp_path: Path) -> None:
    home = MemberHome(tmp_path).create()
    settings = MemberSettings(
        federation="example",
        member="acme",
        fleet_address="127.0.0.1:8443",
        release_address="[::1]:9443",
        plan_public_key="x" * 44,
        data=DataSettings(files=('a "quoted" name.jsonl', "ünïcode/💬.jsonl", "back\\slash", "tab\there")),
    )
    save_member_settings(home, settings=settings)
    assert load_member_settings(home, environment={}) == settings
    assert home.settings_file.stat().st_mode & 0o077 == 0


def test_the_coordinator_reads_back_what_it_wrote(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path).create()
    settings = CoordinatorSettings(federation="example", server_names=("example.org", "10.0.0.1"))
    save_coordinator_settings(home, settings=settings)
    assert load_coordinator_settings(home, environment={}) == settings
    assert settings.release_address_for_members == "127.0.0.1:9443"


def test_the_environment_overrides_plain_fields_of_the_file(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path).create()
    home.settings_file.write_text('federation = "example"\nprivate_port = 1\n')
    found = load_coordinator_settings(
        home,
        environment={
            "RINGFENCE_PRIVATE_PORT": "7",
            "RINGFENCE_DEMONSTRATION": "true",
            "RINGFENCE_RELEASE_PUBLIC_ADDRESS": "example.org:9443",
            "RINGFENCE_SERVER_NAMES": "ignored",
            "RINGFENCE_HOME": "/elsewhere",
        },
    )
    assert (found.private_port, found.demonstration) == (7, True)
    assert found.release_address_for_members == "example.org:9443"
    assert found.server_names == ("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('federation = "example"\nfederaton = "typo"\n', "federaton"),
        ('federation = "Not A Name"\n', "federation"),
        ('federation = "example"\nfleet_address = "nowhere"\n', "fleet_address"),
        ('federation = "example"\nprivate_port = 70000\n', "private_port"),
        ('federation = "example\n', "TOML"),
        ("", "federation"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(text: str, named: str, tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path).create()
    home.settings_file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_coordinator_settings(home, environment={})


def test_a_missing_file_and_a_wrong_variable_are_errors_with_a_hint(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path).create()
    with pytest.raises(ConfigError) as missing:
        load_coordinator_settings(home, environment={})
    assert missing.value.hint
    home.settings_file.write_text('federation = "example"\n')
    with pytest.raises(ConfigError, match="RINGFENCE_PRIVATE_PORT"):
        load_coordinator_settings(home, environment={"RINGFENCE_PRIVATE_PORT": "many"})


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:-1", "host:65536", "::1:80", "host:١"])
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must"):
        split_address(address)


def test_toml_leaves_out_what_is_not_set() -> None:
    written = toml_text({"a": None, "b": [1, 2], "c": {"d": "x", "e": None}})
    assert tomllib.loads(written) == {"b": [1, 2], "c": {"d": "x"}}
