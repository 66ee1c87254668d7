"""On the coordinator's own machine: the private listener asks each caller for its secret."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from federation_harness import Fleet
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest
from flwr.supercore.constant import TaskType
from scripted_coordinator import control_client, runtime_client

from ringfence.model.errors import PeerError
from ringfence.server.fleet_service import ensure_secrets, read_private_address
from ringfence.server.flower_adapter import FlowerControl

Honest = Callable[[], None]
ACQUIRE = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])


def status_of(call: Callable[[], object]) -> int:
    try:
        call()
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


@pytest.mark.parametrize("token", [None, "wrong", "0" * 64])
@pytest.mark.parametrize("name", ["ListNodes", "RegisterNode", "StartRun"])
def test_a_control_call_without_the_token_is_refused(
    fleet: Fleet, honest: Honest, token: str | None, name: str
) -> None:
    request = {
        "ListNodes": ListNodesRequest(),
        "RegisterNode": RegisterNodeRequest(public_key=b"stolen"),
        "StartRun": StartRunRequest(),
    }[name]
    with control_client(fleet.federation, token=token) as control:
        assert status_of(lambda: getattr(control, name)(request)) == 401
    honest()


def test_a_control_call_with_the_token_is_answered(fleet: Fleet) -> None:
    token = ensure_secrets(fleet.federation.coordinator).control_token
    with control_client(fleet.federation, token=token) as control:
        assert len(control.ListNodes(ListNodesRequest()).nodes_info) == 3


def test_a_refused_control_call_is_an_error_of_ours(fleet: Fleet) -> None:
    home = fleet.federation.coordinator
    control = FlowerControl(address=read_private_address(home), ca_file=home.ca_file, token="wrong")
    with pytest.raises(PeerError, match="401"):
        control.node_ids()


@pytest.mark.parametrize("secret", [None, b"wrong", b"0" * 64])
def test_nobody_takes_a_server_app_without_the_secret(
    fleet: Fleet, honest: Honest, secret: bytes | None
) -> None:
    client = runtime_client(fleet.federation, secret=secret)
    assert status_of(lambda: client.AcquireTask(ACQUIRE)) in (401, 403)
    client.close()
    honest()


def test_the_process_that_starts_server_apps_is_answered(fleet: Fleet) -> None:
    secret = ensure_secrets(fleet.federation.coordinator).superexec_file.read_bytes().strip()
    client = runtime_client(fleet.federation, secret=secret)
    assert not client.AcquireTask(ACQUIRE).HasField("task")
    client.close()


def test_a_server_apps_call_without_its_own_token_is_refused(fleet: Fleet) -> None:
    client = runtime_client(fleet.federation, secret=None)
    assert status_of(lambda: client.GetNodes(GetNodesRequest())) in (401, 403)
    client.close()


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/v1/fleet/pull-messages", "/v1/fleet/activate-node", "/"]
)
def test_other_routes_are_not_served_on_loopback(fleet: Fleet, path: str) -> None:
    """Not Fleet either: on loopback it would be reached without a client certificate."""
    home = fleet.federation.coordinator
    with httpx.Client(
        base_url=f"https://{read_private_address(home)}", verify=_trust(str(home.ca_file))
    ) as client:
        assert {client.get(path).status_code, client.post(path).status_code} == {404}


def test_the_secrets_are_readable_by_their_owner_only(fleet: Fleet) -> None:
    folder = fleet.federation.coordinator.flower
    assert [(folder / name).stat().st_mode & 0o777 for name in ("control.token", "superexec.secret")] == [
        0o600,
        0o600,
    ]


def _trust(ca_file: str):
    import ssl

    return ssl.create_default_context(cafile=ca_file)
