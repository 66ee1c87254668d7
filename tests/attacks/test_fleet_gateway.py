"""From outside the coordinator's door: every other route, every other identity, every odd body is refused."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from federation_harness import Fleet, wait_until
from fleet_attacker import Credentials, RawCaller, foreign_authority, issue_credentials
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.node_pb2 import Node

from ringfence.client.flower_adapter import FleetConnection
from ringfence.model.errors import ConnectionFailedError
from ringfence.model.key_files import load_transport_key
from ringfence.server.certificate_authority import load_certificate_authority
from ringfence.server.fleet_gateway import ALLOWED_PATHS
from ringfence.server.flower_adapter import create_superlink

PULL = "/v1/fleet/pull-messages"
PUSH = "/v1/fleet/push-messages"
LIMIT_BYTES = 64 << 20
Honest = Callable[[], None]

CLOSED_ROUTES = [
    ("POST", "/v1/control/list-nodes"),
    ("POST", "/v1/control/register-node"),
    ("POST", "/v1/control/start-run"),
    ("POST", "/v1/control/stream-logs"),
    ("POST", "/v1/control/get-login-details"),
    ("POST", "/v1/runtime/acquire-task"),
    ("POST", "/v1/runtime/push-messages"),
    ("POST", "/v1/runtime/get-nodes"),
    ("POST", "/v1/fleet/register-node"),
    ("POST", "/v1/fleet/unregister-node"),
    ("POST", "/v1/fleet/get-fab"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/health"),
    ("GET", "/"),
    ("GET", PULL),
    ("PUT", PULL),
    ("POST", PULL + "/"),
    ("POST", "/v1/fleet/../control/list-nodes"),
    ("POST", "/v1/fleet/%2e%2e/control/list-nodes"),
    ("POST", "//v1/control/list-nodes"),
    ("POST", "/V1/FLEET/GET-FAB"),
    ("POST", "/v1/fleet/pull-messages%00/../get-fab"),
]


def caller(fleet: Fleet, name: str = "acme", **changes: object) -> RawCaller:
    home = fleet.member(name)
    values: dict[str, object] = {"credentials": Credentials.of(home), "node_key_file": home.key_file}
    return RawCaller(fleet.address, ca_file=home.ca_file, **{**values, **changes})


def pull_request(fleet: Fleet, name: str = "acme") -> bytes:
    return PullMessagesRequest(node=Node(node_id=fleet.nodes[name])).SerializeToString()


def test_an_active_member_pulls_its_messages_over_the_gateway(fleet: Fleet, honest: Honest) -> None:
    with caller(fleet) as acme:
        response = acme.call(PULL, pull_request(fleet))
    assert response.status_code == 200
    assert not PullMessagesResponse.FromString(response.content).messages_list
    honest()


@pytest.mark.parametrize(("method", "path"), CLOSED_ROUTES)
def test_a_member_reaches_no_other_route(fleet: Fleet, honest: Honest, method: str, path: str) -> None:
    with caller(fleet) as acme:
        response = acme.call(path, pull_request(fleet), method=method)
    assert (response.status_code, response.content) == (404, b"")
    honest()


def test_a_members_doctor_that_looks_who_answers_is_no_refusal_in_the_log(fleet: Fleet) -> None:
    said = len(fleet.processes.log("fleet"))
    with caller(fleet) as acme:
        assert acme.call("/", b"", method="GET").status_code == 404
        assert "refused acme" not in fleet.processes.log("fleet")[said:]
        assert acme.call("/docs", b"", method="GET").status_code == 404
    wait_until(lambda: "refused acme" in fleet.processes.log("fleet")[said:], what="another path is told")


def test_every_route_of_flowers_that_members_do_not_need_is_closed(
    fleet: Fleet, honest: Honest, tmp_path: Path
) -> None:
    """As Flower lists them itself: a route that a later version adds is closed as well."""
    home = fleet.federation.coordinator
    superlink = create_superlink(
        host="127.0.0.1",
        port=1,
        database=tmp_path / "superlink.db",
        ca_file=home.ca_file,
        certificate_file=home.server_certificate_file,
        key_file=home.server_key_file,
        control_token="t",
        superexec_secret=b"s",
    )
    known = set(superlink.openapi()["paths"])
    closed = known - ALLOWED_PATHS
    attacks = {"/v1/control/register-node", "/v1/control/start-run", "/v1/runtime/acquire-task"}
    assert known >= ALLOWED_PATHS | attacks
    with caller(fleet) as acme:
        answers = {path: acme.call(path, b"").status_code for path in sorted(closed)}
    assert set(answers.values()) == {404}
    honest()


def _no_certificate(fleet: Fleet, folder: Path) -> dict[str, object]:
    return {"credentials": None}


def _foreign_certificate(fleet: Fleet, folder: Path) -> dict[str, object]:
    """The member's own key, under a certificate of another authority of the same name."""
    key = load_transport_key(fleet.member("acme").key_file)
    made = issue_credentials(
        folder, name="acme", key=key, authority=foreign_authority(), valid_from=datetime.now(UTC)
    )
    return {"credentials": made}


def _expired_certificate(fleet: Fleet, folder: Path) -> dict[str, object]:
    """The member's own key, certified by the federation for last week."""
    federation = fleet.federation
    authority = load_certificate_authority(federation.coordinator, federation=federation.settings.federation)
    made = issue_credentials(
        folder,
        name="acme",
        key=load_transport_key(fleet.member("acme").key_file),
        authority=(authority.certificate, authority.key),
        valid_from=datetime.now(UTC) - timedelta(days=8),
        valid_for=timedelta(days=7),
    )
    return {"credentials": made}


def _listeners_certificate(fleet: Fleet, folder: Path) -> dict[str, object]:
    """A certificate of the federation that was issued for a server."""
    home = fleet.federation.coordinator
    return {"credentials": Credentials(home.server_certificate_file, home.server_key_file)}


def _old_protocol(fleet: Fleet, folder: Path) -> dict[str, object]:
    return {"highest": ssl.TLSVersion.TLSv1_2}


@pytest.mark.parametrize(
    "attack",
    [_no_certificate, _foreign_certificate, _expired_certificate, _listeners_certificate, _old_protocol],
)
def test_the_handshake_fails_without_a_valid_certificate_of_the_federation(
    fleet: Fleet,
    honest: Honest,
    tmp_path: Path,
    attack: Callable[[Fleet, Path], dict[str, object]],
) -> None:
    with caller(fleet, **attack(fleet, tmp_path)) as stranger, pytest.raises(httpx.TransportError):
        stranger.call(PULL, pull_request(fleet))
    honest()


def test_a_certificate_of_the_federation_over_an_unknown_key_is_refused(
    fleet: Fleet, honest: Honest, tmp_path: Path
) -> None:
    """Being certified is not being a member: the record of members decides."""
    federation = fleet.federation
    authority = load_certificate_authority(federation.coordinator, federation=federation.settings.federation)
    made = issue_credentials(
        tmp_path,
        name="acme",
        key=ec.generate_private_key(ec.SECP256R1()),
        authority=(authority.certificate, authority.key),
        valid_from=datetime.now(UTC),
    )
    with caller(fleet, credentials=made, node_key_file=made.key_file) as stranger:
        assert stranger.call(PULL, pull_request(fleet)).status_code == 403
    honest()


def test_a_suspended_member_is_refused_from_its_next_call_on(fleet: Fleet, honest: Honest) -> None:
    registry = fleet.federation.registry
    with caller(fleet) as acme:
        assert acme.call(PULL, pull_request(fleet)).status_code == 200
        registry.suspend("acme")
        try:
            # On the connection that is open already: no renewal, restart or register run is needed.
            assert acme.call(PULL, pull_request(fleet)).status_code == 403
            honest()
        finally:
            registry.resume("acme")
        assert acme.call(PULL, pull_request(fleet)).status_code == 200


def _victims_key(fleet: Fleet, acme: RawCaller) -> dict[str, str]:
    """Signed by the victim's Flower key, stolen without its certificate."""
    with caller(fleet, "gamma") as gamma:
        return gamma.node_headers()


def _claimed_key(fleet: Fleet, acme: RawCaller) -> dict[str, str]:
    """The victim's public key over the attacker's signature."""
    with caller(fleet, "gamma") as gamma:
        return {"flwr-public-key": gamma.node_headers()["flwr-public-key"]}


def _not_a_key(fleet: Fleet, acme: RawCaller) -> dict[str, str]:
    return {"flwr-public-key": "%%%"}


def _not_ascii(fleet: Fleet, acme: RawCaller) -> dict[str, bytes]:
    return {"flwr-public-key": b"\xff\xfe"}


def _empty_key(fleet: Fleet, acme: RawCaller) -> dict[str, str]:
    return {"flwr-public-key": base64.b64encode(b"").decode()}


@pytest.mark.parametrize("attack", [_victims_key, _claimed_key, _not_a_key, _not_ascii, _empty_key])
def test_a_certificate_speaks_for_its_own_node_key_only(
    fleet: Fleet, honest: Honest, attack: Callable[[Fleet, RawCaller], dict[str, str]]
) -> None:
    with caller(fleet) as acme:
        response = acme.call(PULL, pull_request(fleet, "gamma"), headers=attack(fleet, acme))
    assert (response.status_code, response.content) == (403, b"")
    honest()


def test_a_call_without_a_node_key_is_refused(fleet: Fleet, honest: Honest) -> None:
    with caller(fleet, node_key_file=None) as acme:
        assert acme.call(PULL, pull_request(fleet)).status_code == 403
    honest()


def test_a_member_cannot_pull_another_members_messages_as_itself(fleet: Fleet, honest: Honest) -> None:
    with caller(fleet) as acme:
        assert acme.call(PULL, pull_request(fleet, "gamma")).status_code == 401
    honest()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PUSH, b"\xff\xff\xff not a message"),
        (PUSH, b""),
        (PULL, b"\xff\xff\xff not a message"),
        ("/v1/fleet/push-object", b"\x0a\xff"),
        ("/v1/fleet/activate-node", b"{}"),
        ("/v1/fleet/get-run", b"\x00"),
    ],
)
def test_a_malformed_body_is_refused_and_harms_nobody(
    fleet: Fleet, honest: Honest, path: str, body: bytes
) -> None:
    with caller(fleet) as acme:
        assert 400 <= acme.call(path, body).status_code < 500
    honest()


@pytest.mark.parametrize("path", [PUSH, "/v1/fleet/push-object"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(fleet: Fleet, honest: Honest, path: str, chunked: bool) -> None:
    with caller(fleet) as acme:
        assert acme.call(path, b"\0" * (LIMIT_BYTES + 1), chunked=chunked).status_code == 413
    honest()


def test_half_sent_parts_of_updates_do_not_fill_the_coordinators_memory(fleet: Fleet, honest: Honest) -> None:
    process = psutil.Process(fleet.processes.running["fleet"].pid)
    before = process.memory_info().rss
    with caller(fleet) as acme:
        begun = [acme.begin("/v1/fleet/push-object", announced=LIMIT_BYTES, sent=24 << 20) for _ in range(12)]
        honest()
        # 288 MiB were sent; a member has room for 64 MiB, and some of it is free and not yet given back to the system.
        assert process.memory_info().rss - before < 160 << 20
        for connection in begun:
            connection.close()
    honest()


def test_a_member_that_is_refused_learns_it_as_an_error_of_ours(fleet: Fleet, honest: Honest) -> None:
    fleet.federation.registry.suspend("acme")
    try:
        with pytest.raises(ConnectionFailedError) as caught, fleet.connection("acme"):
            pass
        assert "active" in caught.value.hint
    finally:
        fleet.federation.registry.resume("acme")
    honest()


def test_a_member_does_not_speak_to_a_server_of_another_authority(
    fleet: Fleet, honest: Honest, tmp_path: Path
) -> None:
    certificate, _ = foreign_authority()
    other = tmp_path / "ca.pem"
    from cryptography.hazmat.primitives.serialization import Encoding

    other.write_bytes(certificate.public_bytes(Encoding.PEM))
    home = fleet.member("acme")
    connection = FleetConnection(
        fleet.address,
        ca_file=other,
        certificate_file=home.certificate_file,
        key_file=home.key_file,
    )
    with pytest.raises(ConnectionFailedError), connection:
        pass
    honest()


def test_the_fleet_service_listens_for_members_and_otherwise_on_loopback_only(fleet: Fleet) -> None:
    process = psutil.Process(fleet.processes.running["fleet"].pid)
    listening = {
        f"{found.laddr.ip}:{found.laddr.port}"
        for one in (process, *process.children(recursive=True))
        for found in one.net_connections(kind="inet")
        if found.status == psutil.CONN_LISTEN
    }
    private = (fleet.federation.coordinator.flower / "private.address").read_text()
    assert listening == {fleet.address, private}
    assert private.startswith("127.0.0.1:")


def test_refusals_are_logged_with_the_member_and_without_what_it_sent(fleet: Fleet, honest: Honest) -> None:
    with caller(fleet) as acme:
        acme.call("/v1/control/list-nodes", b"planted-words")
    log = fleet.processes.log("fleet")
    assert "refused acme: a path that members may not call" in log
    assert "planted-words" not in log
    assert "Traceback" not in log
    honest()
