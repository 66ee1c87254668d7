"""Prometheus is told how the federation is, on loopback, and nothing about what any one member answered."""

from __future__ import annotations

import asyncio
import logging
import socket
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
from federation_harness import free_port
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from round_table import table_plan
from trust_harness import TrustFederation, make_trust_federation

from ringfence.client.federation_client import FederationClient
from ringfence.model.errors import ConfigError, ConnectionFailedError
from ringfence.server.control_metrics import ControlMetrics
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.fleet_metrics import MEMBER, FleetMetrics, Metered
from ringfence.server.members import MemberRegistry
from ringfence.server.metrics_listener import serve_metrics
from ringfence.server.run_store import Run, RunStore, SignedPlan, event_now
from ringfence.server.tables import members as members_table

Figures = dict[tuple[str, str], float]
TIMES_BY_MEMBER = {
    "ringfence_member_last_call_timestamp_seconds",
    "ringfence_fleet_member_last_seen_timestamp_seconds",
}


def scrape(port: int | None) -> tuple[Figures, set[str]]:
    """Return every figure by name and its one label, and the names that carry a member."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    figures, by_member = {}, set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            figures[sample.name, ",".join(sample.labels.values())] = sample.value
            if {"acme", "beta", "gamma"} & set(sample.labels.values()) or "member" in sample.labels:
                by_member.add(sample.name)
    return figures, by_member


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    return make_trust_federation(tmp_path)


@pytest.fixture
def run(federation: TrustFederation) -> Run:
    store = RunStore.of(federation.home, settings=federation.settings)
    made = store.create(
        "spring", signed=SignedPlan(plan=table_plan(rounds=4), signature=b"s" * 64), initial=np.zeros(4)
    )
    made.update(status="running")
    made.add_event(event_now("started"))
    made.add_event(event_now("short", round=1, asked=3, answered=1))
    counts = {"asked": 3, "answered": 1, "refused": 1, "missing": 1, "bytes_sent": 300, "bytes_received": 20}
    made.add_event(event_now("round", round=1, seconds=2.5, detail="1 refused: budget", **counts))
    return made


@pytest.fixture
def listening(federation: TrustFederation) -> Iterator[int | None]:
    with serve_metrics("127.0.0.1:0", control_metrics(federation)) as port:
        yield port


def control_metrics(federation: TrustFederation) -> ControlMetrics:
    return ControlMetrics(
        RunStore.of(federation.home, settings=federation.settings),
        registry=MemberRegistry(open_database(federation.home)),
        last_call_at={"acme": datetime(2026, 1, 1, tzinfo=UTC)},
        outcomes={"served": 7, "too_often": 2},
        certificate_expires_at=lambda: datetime(2030, 1, 1, tzinfo=UTC),
    )


def test_runs_are_told_as_sums_over_the_cohort(run: Run, listening: int | None) -> None:
    figures, _ = scrape(listening)
    assert figures["ringfence_runs", "running"] == 1
    assert figures["ringfence_run_rounds", "spring"] == 4
    assert figures["ringfence_run_round_seconds", "spring"] == 2.5
    for name, value in {
        "asked": 3,
        "answered": 1,
        "refused": 1,
        "overdue": 1,
        "bytes_sent": 300,
        "bytes_received": 20,
        "short": 1,
    }.items():
        assert figures[f"ringfence_run_{name}_total", "spring"] == value, name
    run.add_event(event_now("round", round=2, seconds=1.5, asked=3, answered=3))
    run.save_round(1, np.ones(4))
    figures, _ = scrape(listening)
    assert figures["ringfence_run_asked_total", "spring"] == 6
    assert figures["ringfence_run_rounds_done", "spring"] == 1
    assert figures["ringfence_run_round_answered", "spring"] == 3


def test_members_stand_only_beside_when_they_were_last_heard_of(run: Run, listening: int | None) -> None:
    figures, by_member = scrape(listening)
    assert by_member == {"ringfence_member_last_call_timestamp_seconds"}
    assert by_member <= TIMES_BY_MEMBER
    assert figures["ringfence_members", "active"] == 3
    assert figures["ringfence_control_calls_total", "served"] == 7
    assert not any("budget" in part for key in figures for part in key)


def test_the_process_and_its_certificate_are_told(run: Run, listening: int | None) -> None:
    figures, _ = scrape(listening)
    assert figures["process_resident_memory_bytes", ""] > 0
    expires = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert figures["ringfence_listener_certificate_expires_timestamp_seconds", ""] == expires
    assert figures["ringfence_storage_up", ""] == 1


def test_what_cannot_be_read_is_said_and_the_rest_is_told(
    federation: TrustFederation,
    run: Run,
    listening: int | None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_database(federation.home).transaction() as connection:
        connection.execute(members_table.update().values(size_class=-7))
    with caplog.at_level(logging.DEBUG):
        figures, _ = scrape(listening)
    assert figures["ringfence_storage_up", ""] == 0
    assert figures["ringfence_control_calls_total", "served"] == 7
    assert "Traceback" not in caplog.text + capfd.readouterr().err


def test_the_listener_is_on_loopback_and_ends_with_its_block(federation: TrustFederation) -> None:
    with serve_metrics("127.0.0.1:0", control_metrics(federation)) as port:
        addresses = {
            connection.laddr.ip
            for connection in psutil.Process().net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }
        assert addresses == {"127.0.0.1"}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(port or 0)), timeout=5)


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "10.0.0.1:9464", "example.org:9464", "[::]:9464"])
@pytest.mark.parametrize("field", ["metrics_address", "fleet_metrics_address"])
def test_figures_are_not_told_to_a_network(address: str, field: str) -> None:
    with pytest.raises(ValidationError, match="loopback"):
        CoordinatorSettings(federation="example", **{field: address})  # type: ignore[arg-type]


def test_nobody_listens_unless_asked_to(federation: TrustFederation) -> None:
    assert CoordinatorSettings(federation="example").metrics_address is None
    with serve_metrics(None, control_metrics(federation)) as port:
        assert port is None


def test_a_port_that_is_taken_is_said(federation: TrustFederation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConfigError, match="Cannot listen"),
            serve_metrics(address, control_metrics(federation)),
        ):
            pass


def test_the_control_plane_counts_calls_and_notes_who_called(federation: TrustFederation) -> None:
    port = free_port()
    settings = federation.settings.model_copy(update={"metrics_address": f"127.0.0.1:{port}"})
    federation.settings = settings
    with federation.serving() as address:
        FederationClient(federation.channel("beta", address)).list_runs()
        federation.registry.suspend("acme")
        with pytest.raises(ConnectionFailedError):
            FederationClient(federation.channel("acme", address)).list_runs()
        figures, by_member = scrape(port)
    assert figures["ringfence_control_calls_total", "served"] == 1
    assert figures["ringfence_control_calls_total", "unknown"] == 1
    assert ("ringfence_member_last_call_timestamp_seconds", "beta") in figures
    assert ("ringfence_member_last_call_timestamp_seconds", "acme") not in figures
    assert by_member <= TIMES_BY_MEMBER
    assert figures["ringfence_members", "suspended"] == 1


def test_the_gateway_counts_bytes_and_outcomes_of_all_and_notes_who_was_there() -> None:
    async def gateway(scope, receive, send) -> None:
        body = (await receive())["body"]
        status = 200 if body else 403
        if body:
            scope[MEMBER] = "acme"
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 5})

    metrics = FleetMetrics()
    metered = Metered(gateway, metrics, now=lambda: 1234.0)

    async def ask(body: bytes) -> None:
        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message) -> None:
            pass

        await metered({"type": "http"}, receive, send)

    for body in (b"123", b"1234567", b""):
        asyncio.run(ask(body))
    with serve_metrics("127.0.0.1:0", metrics.collector) as port:
        figures, by_member = scrape(port)
    assert figures["ringfence_fleet_bytes_received_total", ""] == 10
    assert figures["ringfence_fleet_bytes_sent_total", ""] == 15
    assert figures["ringfence_fleet_requests_total", "200"] == 2
    assert figures["ringfence_fleet_requests_total", "403"] == 1
    assert figures["ringfence_fleet_member_last_seen_timestamp_seconds", "acme"] == 1234.0
    assert by_member <= TIMES_BY_MEMBER
