"""The listeners' certificate while the coordinator serves: renewed in time, shown without a restart."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from enrolment_harness import open_desk

from ringfence.server.certificate_authority import load_certificate_authority, write_server_certificate
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import CoordinatorSettings
from ringfence.server.fleet_connections import mutual_tls
from ringfence.server.initialisation import initialise_coordinator
from ringfence.server.listeners_renewal import ListenersRenewal
from ringfence.server.listening_certificate import ListeningCertificate

NOW = datetime.now(UTC)
SETTINGS = CoordinatorSettings(federation="example")


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = CoordinatorHome(tmp_path / "coordinator")
    initialise_coordinator(made, settings=SETTINGS, now=NOW)
    return made


def renewed(home: CoordinatorHome) -> None:
    authority = load_certificate_authority(home, federation="example")
    write_server_certificate(home, authority=authority, names=SETTINGS.server_names, now=NOW)


def serial(home: CoordinatorHome) -> int:
    return x509.load_pem_x509_certificate(home.server_certificate_file.read_bytes()).serial_number


def shown_at(address: str) -> int:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=30) as raw,
        context.wrap_socket(raw) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"").serial_number


def test_it_is_renewed_when_it_is_due_once_an_hour_at_most(home: CoordinatorHome) -> None:
    clock = [NOW]
    renewal = ListenersRenewal(home, SETTINGS, now=lambda: clock[0])
    first = serial(home)
    renewal.tick()
    assert serial(home) == first
    clock[0] += timedelta(days=61)
    renewal.tick()
    second = serial(home)
    assert second != first
    clock[0] += timedelta(minutes=59)
    home.server_certificate_file.unlink()
    renewal.tick()
    assert not home.server_certificate_file.exists()
    clock[0] += timedelta(minutes=2)
    renewal.tick()
    assert serial(home) != second


def test_a_name_that_is_added_in_the_settings_is_in_the_next_certificate(home: CoordinatorHome) -> None:
    settings = SETTINGS.model_copy(update={"server_names": ("localhost", "127.0.0.1", "train.example.org")})
    ListenersRenewal(home, settings, now=lambda: NOW).tick()
    certificate = x509.load_pem_x509_certificate(home.server_certificate_file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "train.example.org" in names.get_values_for_type(x509.DNSName)


def test_an_authority_that_cannot_sign_is_logged_and_ends_nothing(
    home: CoordinatorHome, caplog: pytest.LogCaptureFixture
) -> None:
    home.intermediate_file.unlink()
    ListenersRenewal(home, SETTINGS, now=lambda: NOW).tick()
    assert "was not renewed" in caplog.text


def test_an_intermediate_that_ends_soon_is_said_while_there_is_time(
    home: CoordinatorHome, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ListenersRenewal(home, SETTINGS, now=lambda: NOW).tick()
    assert "ca renew" not in caplog.text
    ListenersRenewal(home, SETTINGS, now=lambda: NOW + timedelta(days=370)).tick()
    assert "ca renew" in caplog.text


def test_both_listeners_of_the_control_plane_show_the_new_one_without_a_restart(tmp_path: Path) -> None:
    with open_desk(tmp_path) as desk:
        before = serial(desk.home)
        listeners = (desk.running.enrolment_address, desk.running.address)
        assert {shown_at(listener) for listener in listeners} == {before}
        renewed(desk.home)
        assert {shown_at(listener) for listener in listeners} == {serial(desk.home)} != {before}
        desk.join(desk.invite("acme"), folder="acme")


def test_the_gateways_tls_shows_the_new_one_without_a_restart(home: CoordinatorHome) -> None:
    shown = ListeningCertificate(home)
    context = mutual_tls(
        certificate_file=home.server_certificate_file, key_file=home.server_key_file, ca_file=home.ca_file
    )
    context.verify_mode = ssl.CERT_NONE
    assert not shown.reload_into(context)
    before = serial(home)
    assert asyncio.run(_handshake(context)) == before
    renewed(home)
    assert shown.reload_into(context)
    assert not shown.reload_into(context)
    assert asyncio.run(_handshake(context)) == serial(home) != before


async def _handshake(context: ssl.SSLContext) -> int:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        return await asyncio.to_thread(shown_at, f"{host}:{port}")
