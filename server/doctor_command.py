"""``ringfence-coordinator doctor``: what can keep this federation from being served, each with a one-line fix."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from ringfence.model.diagnosis import Finding
    from ringfence.server.coordinator_settings import CoordinatorSettings

_NAMED = ("ringfence", "flwr", "grpcio", "tuf", "sqlalchemy", "uvicorn", "onnxruntime")


def doctor(
    home: HomeOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=120, help="Seconds to wait for one answer.")
    ] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Check this coordinator from its files to its listeners: PASS, WARN or FAIL, and a fix for each. Exit code 1 on FAIL.

    Nothing is changed. It may run beside `serve`, as the same account.
    """
    from ringfence.model.diagnosis import diagnosis_data, diagnosis_text, raise_on_failure

    findings = diagnose(CoordinatorHome.locate(home), timeout_s=timeout, now=datetime.now(UTC))
    failed = any(finding.level == "FAIL" for finding in findings)
    if not as_json:
        following = (
            "ringfence-coordinator doctor, once it is mended" if failed else "ringfence-coordinator run list"
        )
        emit(f"{diagnosis_text(findings)}\nNext: {following}", data={}, as_json=False)
    raise_on_failure(findings)
    if as_json:
        emit("", data=diagnosis_data(findings), as_json=True)


def diagnose(home: CoordinatorHome, *, timeout_s: float, now: datetime) -> list[Finding]:
    """Return what every check finds, the machine's own first."""
    from ringfence.model.diagnosis import check_error
    from ringfence.model.errors import RingfenceError
    from ringfence.server.coordinator_settings import load_coordinator_settings, unreachable_listeners
    from ringfence.server.doctor import check_given_addresses

    findings = list(_machine(home))
    try:
        settings = load_coordinator_settings(home)
    except RingfenceError as error:
        return [*findings, check_error("settings", error)]
    return [
        *findings,
        check_given_addresses(unreachable_listeners(settings)),
        _database(home, settings),
        *_keys(home, settings, now=now),
        *_releases(home, now=now),
        *_serving(home, settings, timeout_s=timeout_s),
    ]


def _machine(home: CoordinatorHome) -> Iterator[Finding]:
    from ringfence.model.diagnosis import check_space, check_versions
    from ringfence.model.machine_probes import (
        free_bytes,
        installed_versions,
        writing_problem,
        wrong_requirements,
    )

    wrong = wrong_requirements("ringfence", extras=["coordinator"])
    yield check_versions(wrong, found=installed_versions(_NAMED))
    yield check_space(
        "disk", free_bytes=free_bytes(home.root), problem=writing_problem(home.root), folder=str(home.root)
    )


def _database(home: CoordinatorHome, settings: CoordinatorSettings) -> Finding:
    from ringfence.model.diagnosis import Finding, check_error
    from ringfence.model.errors import RingfenceError
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.database_schema import require_current_schema, schema_version

    try:
        database = open_database(home, settings=settings)
        require_current_schema(database)  # also where this process opened it before
        version = schema_version(database)
    except RingfenceError as error:
        return check_error("database", error)
    return Finding("database", "PASS", f"{database.place} answers, schema version {version}.")


def _keys(home: CoordinatorHome, settings: CoordinatorSettings, *, now: datetime) -> Iterator[Finding]:
    from cryptography import x509

    from ringfence.model.diagnosis import Finding, check_error, check_private_files
    from ringfence.model.errors import RingfenceError
    from ringfence.model.machine_probes import modes_of
    from ringfence.server.certificate_authority import load_certificate_authority
    from ringfence.server.doctor import check_certificates, check_root_key
    from ringfence.server.root_authority import load_root

    private = [home.intermediate_file, home.server_key_file, *sorted(home.keys.rglob("*.key"))]
    yield check_private_files("keys", modes_of(private))
    yield check_root_key(is_here=home.root_key_file.exists(), file=str(home.root_key_file))
    try:
        authority = load_certificate_authority(home, federation=settings.federation)
        certificates = [("root", load_root(home)), ("intermediate", authority.certificate)]
        yield from check_certificates(certificates, now=now)
    except RingfenceError as error:
        yield check_error("certificates", error)
    try:
        listeners = x509.load_pem_x509_certificate(home.server_certificate_file.read_bytes())
        yield from check_certificates([("listeners", listeners)], now=now)
    except (OSError, ValueError):
        yield Finding(
            "listeners certificate",
            "FAIL",
            f"{home.server_certificate_file} cannot be read.",
            "`serve` makes it anew: ringfence-coordinator serve",
        )


def _releases(home: CoordinatorHome, *, now: datetime) -> Iterator[Finding]:
    from ringfence.model.diagnosis import check_error
    from ringfence.model.errors import RingfenceError
    from ringfence.server.doctor import check_roles
    from ringfence.server.release_repository import ReleaseRepository
    from ringfence.server.release_trust import ReleaseTrust

    try:
        exists = ReleaseRepository(home.repository).exists
        yield from check_roles(ReleaseTrust(home, now=lambda: now).status() if exists else (), now=now)
    except RingfenceError as error:
        yield check_error("releases", error)


def _serving(home: CoordinatorHome, settings: CoordinatorSettings, *, timeout_s: float) -> Iterator[Finding]:
    from ringfence.model.diagnosis import check_error
    from ringfence.model.errors import RingfenceError
    from ringfence.model.machine_probes import connection_problem, installed_versions
    from ringfence.model.settings_file import split_address
    from ringfence.server.admin_client import open_admin
    from ringfence.server.doctor import check_condition, check_listener, check_members

    for name, address in (
        ("fleet", settings.fleet_address),
        ("control", settings.release_address),
        ("enrolment", settings.enrolment_address),
    ):
        host, port = split_address(address)
        reached = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host)  # noqa: S104 - asked, not bound
        yield check_listener(name, address, connection_problem(reached, port, timeout_s=timeout_s))
    try:
        with open_admin(home, patience_s=0.0) as admin:
            version = installed_versions(["ringfence"]).get("ringfence", "")
            yield from check_condition(admin.condition(), version=version)
            yield check_members(admin.members())
    except RingfenceError as error:
        yield check_error("serving", error)
