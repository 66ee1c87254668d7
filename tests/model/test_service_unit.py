"""A unit says what a service may do, whatever its folders are called; systemd itself finds nothing wrong with it."""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest
from confine import allowed_calls, directives

from ringfence.model.errors import ConfigError
from ringfence.model.service_install import (
    complaints_of_systemd,
    exposure_of_unit,
    known_user,
    require_access,
    write_unit,
)
from ringfence.model.service_unit import ServiceUnit, unit_text

UNIT = ServiceUnit(
    description="Ringfence agent of acme in north",
    command=["/bin/true", "agent", "run", "--home", "/var/lib/ringfence/member"],
    user="daemon",
    namespaces=("user", "net"),
    writable=[Path("/var/lib/ringfence/member")],
    program=[Path("/opt/ringfence")],
    read_only=[Path("/srv/chats")],
    hidden=[Path("/var/lib/ringfence/member/approval")],
)
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def test_a_service_writes_its_own_folder_reads_its_data_and_does_not_see_the_approval_key() -> None:
    text = unit_text(UNIT)
    assert directives(text, "User") == ["daemon"]
    assert directives(text, "ProtectSystem") == ["strict"]
    assert directives(text, "ReadWritePaths") == ["/var/lib/ringfence/member"]
    assert directives(text, "ReadOnlyPaths") == ["/srv/chats"]
    assert directives(text, "InaccessiblePaths") == ["-/var/lib/ringfence/member/approval"]
    assert directives(text, "RestrictNamespaces") == ["user net"]
    assert directives(text, "NoNewPrivileges") == ["yes"]
    assert directives(text, "CapabilityBoundingSet") == [""]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "yes"),
        ({"writable": [Path("/home/acme/ringfence")]}, "read-only"),
        ({"program": [Path("/root/ringfence")]}, "read-only"),
        ({"read_only": [Path("/home/chats")]}, "read-only"),
    ],
)
def test_nobodys_home_is_seen_unless_the_service_lives_there(
    change: dict[str, list[Path]], expected: str
) -> None:
    assert directives(unit_text(dataclasses.replace(UNIT, **change)), "ProtectHome") == [expected]


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("/srv/with space", '"/srv/with space"'),
        ("/srv/100%", "/srv/100%%"),
        ('/srv/"quoted"', '"/srv/\\"quoted\\""'),
        ("/srv/back\\slash", '"/srv/back\\\\slash"'),
        ("/srv/$HOME", "/srv/$$HOME"),
    ],
)
@needs_systemd
def test_a_folder_of_any_name_reaches_the_command_as_it_is(folder: str, written: str) -> None:
    command = ["/bin/true", "--home", folder]
    text = unit_text(dataclasses.replace(UNIT, command=command))
    assert directives(text, "ExecStart") == [f"/bin/true --home {written}"]
    assert complaints_of_systemd(text, name="ringfence-test.service") == []


@pytest.mark.parametrize("folder", ["/srv/two\nExecStartPre=/bin/sh", "/srv/\x00", "/srv/\x1b[31m"])
def test_a_name_that_would_write_another_line_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit file"):
        unit_text(dataclasses.replace(UNIT, writable=[Path(folder)]))


@needs_systemd
def test_systemd_finds_nothing_wrong_and_little_exposed() -> None:
    text = unit_text(UNIT)
    assert complaints_of_systemd(text, name="ringfence-test.service") == []
    exposure = exposure_of_unit(text, name="ringfence-test.service")
    assert exposure is not None
    assert exposure <= 2.0
    loose = "\n".join(line for line in text.splitlines() if not line.startswith(("Protect", "System", "Cap")))
    open_to_all = exposure_of_unit(loose, name="ringfence-test.service")
    assert open_to_all is not None
    assert open_to_all > 4.0


@needs_systemd
def test_systemd_would_say_what_is_wrong() -> None:
    broken = unit_text(UNIT).replace("Restart=on-failure", "Restart=sometimes")
    complaints = complaints_of_systemd(broken, name="ringfence-test.service")
    assert complaints is not None
    assert any("sometimes" in line for line in complaints)


@needs_systemd
def test_calls_that_only_root_needs_are_not_allowed() -> None:
    allowed = allowed_calls(unit_text(UNIT))
    assert {"read", "openat", "connect", "unshare", "prlimit64", "futex"} <= allowed
    assert {
        "mount",
        "chroot",
        "setuid",
        "ptrace",
        "reboot",
        "bpf",
        "kexec_load",
        "init_module",
    } & allowed == set()


def test_a_unit_is_not_written_over_one_that_somebody_changed(tmp_path: Path) -> None:
    file = tmp_path / "ringfence-test.service"
    write_unit("a\n", file=file, replace=False)
    write_unit("a\n", file=file, replace=False)
    with pytest.raises(ConfigError, match="differs"):
        write_unit("b\n", file=file, replace=False)
    write_unit("b\n", file=file, replace=True)
    assert file.read_text() == "b\n"
    assert file.stat().st_mode & 0o777 == 0o644
    with pytest.raises(ConfigError, match="Cannot write"):
        write_unit("a\n", file=tmp_path / "gone" / "x.service", replace=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another account")
def test_an_account_that_could_not_use_the_folder_or_its_keys_gets_no_unit() -> None:
    account = pwd.getpwnam("daemon")
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        folder, key = Path(scratch, "home"), Path(scratch, "home", "member.key")
        folder.mkdir(mode=0o700)
        key.write_text("secret")
        key.chmod(0o600)

        def refused() -> str:
            with pytest.raises(ConfigError) as error:
                require_access("daemon", folder=folder, files=[key])
            assert "chown" in error.value.hint
            return error.value.message

        assert f"write into {folder}" in refused()
        os.chown(folder, account.pw_uid, account.pw_gid)
        assert f"read {key}" in refused()
        os.chown(key, account.pw_uid, account.pw_gid)
        require_access("daemon", folder=folder, files=[key, folder / "not-there"])
        Path(scratch).chmod(0o700)
        assert f"enter {scratch}" in refused()
        require_access("root", folder=folder, files=[key])


def test_an_account_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no-such-account"):
        known_user("no-such-account")
