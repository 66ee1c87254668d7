"""``ringfence doctor``: what can keep this member from taking part, each with a one-line fix."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit

if TYPE_CHECKING:
    from ringfence.client.member_settings import MemberSettings
    from ringfence.model.diagnosis import Finding

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
_LOOKED_AT = 200  # conversations of each file: enough to see its form
_NAMED = ("ringfence", "flwr", "torch", "grpcio", "tuf", "onnxruntime")


def doctor(
    home: HomeOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=120, help="Seconds to wait for one answer.")
    ] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Check this member from its files to the coordinator: PASS, WARN or FAIL, and a fix for each. Exit code 1 on FAIL.

    Nothing is changed and nothing is sent but this member's name. It may run beside the agent.
    """
    from ringfence.model.diagnosis import diagnosis_data, diagnosis_text, raise_on_failure

    findings = diagnose(MemberHome.locate(home), timeout_s=timeout, now=datetime.now(UTC))
    failed = any(finding.level == "FAIL" for finding in findings)
    if not as_json:
        following = "ringfence doctor, once it is mended" if failed else "ringfence status"
        emit(f"{diagnosis_text(findings)}\nNext: {following}", data={}, as_json=False)
    raise_on_failure(findings)
    if as_json:
        emit("", data=diagnosis_data(findings), as_json=True)


def diagnose(home: MemberHome, *, timeout_s: float, now: datetime) -> list[Finding]:
    """Return what every check finds, the machine's own first."""
    from ringfence.client.member_settings import load_member_settings
    from ringfence.model.diagnosis import check_error
    from ringfence.model.errors import RingfenceError

    findings = list(_machine(home))
    try:
        settings = load_member_settings(home)
    except RingfenceError as error:
        return [*findings, check_error("settings", error)]
    return [
        *findings,
        *_own_files(home, settings, now=now),
        *_coordinator(home, settings, timeout_s=timeout_s, now=now),
    ]


def _machine(home: MemberHome) -> Iterator[Finding]:
    from ringfence.model.diagnosis import check_space, check_versions
    from ringfence.model.machine_probes import (
        free_bytes,
        installed_versions,
        writing_problem,
        wrong_requirements,
    )

    found = installed_versions(_NAMED)
    extras = ["train"] if "flwr" in found else []
    yield check_versions(wrong_requirements("ringfence", extras=extras), found=found)
    yield check_space(
        "disk",
        free_bytes=free_bytes(home.root),
        problem=writing_problem(home.root),
        folder=str(home.root),
    )


def _own_files(home: MemberHome, settings: MemberSettings, *, now: datetime) -> Iterator[Finding]:
    from ringfence.client.agent_condition import agent_runs, read_condition
    from ringfence.client.doctor import check_agent, check_certificate, check_policy
    from ringfence.client.identity import read_identity
    from ringfence.client.policy import load_policy
    from ringfence.model.diagnosis import check_error, check_private_files
    from ringfence.model.errors import RingfenceError
    from ringfence.model.machine_probes import modes_of

    yield check_private_files("keys", modes_of((home.key_file, home.identity_key_file)))
    try:
        held = read_identity(home)
        yield check_certificate(begins_at=held.begins_at, expires_at=held.expires_at, now=now)
    except RingfenceError as error:
        yield check_error("certificate", error)
    try:
        yield check_policy(load_policy(home), federation=settings.federation)
    except RingfenceError as error:
        yield check_error("policy", error)
    yield _data(home, settings)
    if settings.device != "cpu":
        yield _device(settings)
    yield _ledger(home)
    yield check_agent(runs=agent_runs(home), record=read_condition(home))


def _data(home: MemberHome, settings: MemberSettings) -> Finding:
    from ringfence.client.data_preview import probe
    from ringfence.model.diagnosis import Finding, check_error
    from ringfence.model.errors import RingfenceError

    if not settings.data.is_named:
        return Finding(
            "data",
            "WARN",
            f"{home.settings_file} names no conversations, so there is nothing to train on.",
            'Add to it: [data] files = ["/path/to/conversations.jsonl"]',
        )
    try:
        probe(home, data=settings.data, first=_LOOKED_AT)
    except RingfenceError as error:
        return check_error("data", error)
    return Finding("data", "PASS", "What it begins with is in the agreed form.")


def _device(settings: MemberSettings) -> Finding:
    from ringfence.client.training_device import training_device
    from ringfence.model.diagnosis import Finding, check_error
    from ringfence.model.errors import RingfenceError

    try:
        return Finding("device", "PASS", f"The private step runs on {training_device(settings.device)}.")
    except RingfenceError as error:
        return check_error("device", error)


def _ledger(home: MemberHome) -> Finding:
    from ringfence.client.ledger_reading import has_ledger, open_ledger_reader
    from ringfence.model.diagnosis import Finding, check_error
    from ringfence.model.errors import RingfenceError

    try:
        if not has_ledger(home):
            return Finding("budget", "PASS", "No budget is open yet; the first round opens it.")
        with open_ledger_reader(home) as reader:
            reader.verified_state()
    except RingfenceError as error:
        return check_error("budget", error)
    return Finding("budget", "PASS", "The ledger and its second place agree.")


def _coordinator(
    home: MemberHome, settings: MemberSettings, *, timeout_s: float, now: datetime
) -> Iterator[Finding]:
    from ringfence.client.coordinator_probe import ask_gateway
    from ringfence.client.doctor import check_gateway, check_name, check_port
    from ringfence.model.machine_probes import addresses_of, connection_problem
    from ringfence.model.settings_file import split_address

    ports = {"fleet port": settings.fleet_address, "control port": settings.release_address}
    split = {check: split_address(address) for check, address in ports.items()}
    resolved: dict[str, bool] = {}
    for host, port in dict(split.values()).items():
        addresses, problem = addresses_of(host, port)
        resolved[host] = bool(addresses)
        yield check_name(host, addresses, problem)
    open_ports = set()
    for check, (host, port) in split.items():
        if not resolved[host]:
            continue
        problem = connection_problem(host, port, timeout_s=timeout_s)
        yield check_port(check, ports[check], problem)
        if not problem:
            open_ports.add(check)
    if "fleet port" in open_ports:
        host, port = split["fleet port"]
        answer = ask_gateway(
            host,
            port,
            ca_file=home.ca_file,
            certificate_file=home.certificate_file,
            key_file=home.key_file,
            timeout_s=timeout_s,
        )
        yield from check_gateway(answer, now=now)
    if "control port" in open_ports:
        yield _identity(home, settings)


def _identity(home: MemberHome, settings: MemberSettings) -> Finding:
    from ringfence.client.coordinator_connection import open_release_channel
    from ringfence.client.doctor import check_identity
    from ringfence.client.identity_client import IdentityClient
    from ringfence.model.diagnosis import check_error
    from ringfence.model.errors import RingfenceError

    try:
        with open_release_channel(home) as channel:
            return check_identity(IdentityClient(channel).who_am_i(), settings=settings)
    except RingfenceError as error:
        return check_error("identity", error)
