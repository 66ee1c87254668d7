"""What both adapters use of Flower's undocumented side. When the pin moves, this names what is missing."""

from __future__ import annotations

import importlib
import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

PIN = "1.41.0"
ROOT = Path(__file__).resolve().parents[1]

# Dotted place -> parameters that the adapters pass by name or position; None for a value or a class that is only named.
USED: dict[str, tuple[str, ...] | None] = {
    "flwr.cli.build:build_fab_from_files": ("files",),
    "flwr.common.constant:HEARTBEAT_DEFAULT_INTERVAL": None,
    "flwr.common.serde:message_from_proto": ("message_proto",),
    "flwr.common.serde:message_to_proto": ("message",),
    "flwr.common.serde:run_from_proto": ("run_proto",),
    "flwr.common.serde:user_config_to_proto": ("user_config",),
    "flwr.app.message:remove_content_from_message": ("message",),
    "flwr.supercore.cli:flower_superexec": (),
    "flwr.supercore.constant:NodeStatus.UNREGISTERED": None,
    "flwr.supercore.control:ControlHttpClient.from_server_address": None,
    "flwr.supercore.heartbeat:HeartbeatSender": ("heartbeat_fn",),
    "flwr.supercore.heartbeat:HeartbeatSender.start": ("self",),
    "flwr.supercore.heartbeat:HeartbeatSender.stop": ("self",),
    "flwr.supercore.heartbeat:HeartbeatSender.is_running": None,
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": ("obj",),
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": ("obj",),
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": ("tree",),
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": (),
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": (
        "object_id",
        "object_contents",
    ),
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": ("component_name",),
    "flwr.supercore.interceptors.http.runtime_version:RuntimeVersionHttpInterceptor": ("component_name",),
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": ("public_key",),
    "flwr.supernode.fleet_http_client:FleetHttpClient": ("interceptors", "verify", "timeout"),
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": ("private_key", "public_key"),
    "flwr.superlink.auth_plugin:NoOpControlAuthnPlugin.validate_tokens_in_metadata": ("self", "metadata"),
    "flwr.superlink.cli.flower_superlink:SuperLinkLifespan": None,
    "flwr.superlink.config_loader:SuperLinkLifespanConfig": (
        "control_address",
        "health_server_address",
        "host",
        "port",
        "insecure",
        "certificates",
        "superexec_auth_secret",
        "authn_plugin",
        "event_log_plugin",
        "fleet_event_log_plugin",
        "enable_event_log",
        "artifact_provider",
        "enable_supernode_auth",
        "fleet_api_type",
        "fleet_api_address",
        "simulation",
        "ssl_ca_certfile",
        "ssl_certfile",
        "ssl_keyfile",
        "database",
        "isolation",
        "runtime_dependency_install",
    ),
    "flwr.supercore.routers.runtime.tracing:RuntimeTracingMiddleware": None,
    "flwr.superlink.routers.control.middlewares:ControlEventLogMiddleware": None,
    "flwr.superlink.routers.control.middlewares:ControlLicenseMiddleware": None,
    "flwr.superlink.routers.control.middlewares:ControlSensitiveResponseMiddleware": None,
    "flwr.superlink.routers.fleet.middlewares:FleetEventLogMiddleware": None,
    "flwr.superlink.grid:HttpGrid._runtime_client": None,
    "flwr.superlink.grid:HttpGrid.run": None,
    "flwr.superlink.main:create_app": ("config", "superlink_lifespan_class"),
}

CALLS = {
    "flwr.supernode.fleet_http_client:FleetHttpClient": (
        "ActivateNode",
        "DeactivateNode",
        "SendNodeHeartbeat",
        "PullMessages",
        "PushMessages",
        "GetRun",
        "PushObject",
        "PullObject",
        "ConfirmMessageReceived",
        "close",
    ),
    "flwr.supercore.control:ControlHttpClient": (
        "ListNodes",
        "RegisterNode",
        "UnregisterNode",
        "StartRun",
        "StopRun",
        "ListRuns",
    ),
    "flwr.supercore.runtime:RuntimeHttpClient": ("PullMessages", "PullObject", "ConfirmMessageReceived"),
}

FIELDS = {
    "flwr.proto.fleet_pb2:ActivateNodeRequest": {"public_key", "heartbeat_interval"},
    "flwr.proto.fleet_pb2:ActivateNodeResponse": {"node_id"},
    "flwr.proto.fleet_pb2:DeactivateNodeRequest": {"node_id"},
    "flwr.proto.fleet_pb2:PullMessagesRequest": {"node"},
    "flwr.proto.fleet_pb2:PullMessagesResponse": {"messages_list", "message_object_trees"},
    "flwr.proto.fleet_pb2:PushMessagesRequest": {
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",
    },
    "flwr.proto.fleet_pb2:PushMessagesResponse": {"objects_to_push", "session_id"},
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatRequest": {"node", "heartbeat_interval"},
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatResponse": {"success"},
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": {"node", "run_id", "message_object_id"},
    "flwr.proto.message_pb2:PullObjectRequest": {"node", "run_id", "object_id"},
    "flwr.proto.message_pb2:PullObjectResponse": {"object_found", "object_available", "object_content"},
    "flwr.proto.message_pb2:PushObjectRequest": {
        "node",
        "run_id",
        "session_id",
        "object_id",
        "object_content",
    },
    "flwr.proto.message_pb2:Metadata": {"src_node_id", "dst_node_id", "message_id", "reply_to_message_id"},
    "flwr.proto.node_pb2:Node": {"node_id"},
    "flwr.proto.run_pb2:GetRunRequest": {"node", "run_id"},
    "flwr.proto.run_pb2:GetRunResponse": {"run"},
    "flwr.proto.control_pb2:ListNodesResponse": {"nodes_info"},
    "flwr.proto.control_pb2:RegisterNodeRequest": {"public_key", "name"},
    "flwr.proto.control_pb2:RegisterNodeResponse": {"node_id"},
    "flwr.proto.control_pb2:UnregisterNodeRequest": {"node_id"},
    "flwr.proto.control_pb2:StartRunRequest": {"fab", "override_config", "federation"},
    "flwr.proto.control_pb2:StartRunResponse": {"run_id"},
    "flwr.proto.control_pb2:StopRunRequest": {"run_id"},
    "flwr.proto.control_pb2:StopRunResponse": {"success"},
    "flwr.proto.control_pb2:ListRunsRequest": {"run_id"},
    "flwr.proto.control_pb2:ListRunsResponse": {"run_dict"},
    "flwr.proto.fab_pb2:Fab": {"hash_str", "content"},
    "flwr.proto.runtime_pb2:PullAppMessagesRequest": {"message_ids"},
    "flwr.proto.runtime_pb2:PushAppMessagesRequest": {"messages_list", "message_object_trees"},
    "flwr.proto.runtime_pb2:PushAppMessagesResponse": {"objects_to_push"},
    "flwr.proto.runtime_pb2:PullAppMessagesResponse": {"messages_list", "message_object_trees"},
}


def find(place: str) -> Any:
    module, _, attributes = place.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise AssertionError(f"flwr {version('flwr')} has no module {module}") from error
    for attribute in attributes.split("."):
        assert hasattr(found, attribute), f"flwr {version('flwr')} has no {place}"
        found = getattr(found, attribute)
    return found


def test_flower_is_the_version_that_the_adapters_were_written_against() -> None:
    assert version("flwr") == PIN, "Read both adapters against the new version, then move PIN here."
    assert f'"flwr=={PIN}"' in (ROOT / "pyproject.toml").read_text()
    assert f"flwr=={PIN}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("place", USED)
def test_what_the_adapters_use_is_there(place: str) -> None:
    found, names = find(place), USED[place]
    if names is None:
        return
    parameters = inspect.signature(found).parameters
    missing = [name for name in names if name not in parameters]
    assert missing == [], f"flwr {version('flwr')}: {place} takes no {missing}; it takes {list(parameters)}"
    required = {
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    if place.startswith("flwr.superlink.config_loader"):
        assert required <= set(names), f"{place} asks for more: {required - set(names)}"


@pytest.mark.parametrize(("place", "call"), [(place, call) for place in CALLS for call in CALLS[place]])
def test_the_clients_have_the_calls(place: str, call: str) -> None:
    assert callable(find(f"{place}.{call}"))


@pytest.mark.parametrize("place", FIELDS)
def test_the_messages_have_the_fields(place: str) -> None:
    missing = FIELDS[place] - set(find(place).DESCRIPTOR.fields_by_name)
    assert missing == set(), f"flwr {version('flwr')}: {place} has no {sorted(missing)}"


def test_the_headers_and_routes_of_the_gateway_are_flowers() -> None:
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
    from flwr.superlink.routers.fleet.router import router

    from ringfence.server.fleet_gateway import ALLOWED_PATHS
    from ringfence.server.flower_adapter import PUBLIC_KEY_HEADER

    assert FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode() == PUBLIC_KEY_HEADER
    served = {route.path for route in router.routes}
    assert served >= ALLOWED_PATHS
    assert served - ALLOWED_PATHS == {
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-fab",
    }, "Flower serves a Fleet call that is new: decide whether members need it."


def test_what_every_request_passes_is_what_was_weighed() -> None:
    """The adapter leaves out five that do nothing here. Another one in Flower's list has to be weighed first."""
    from flwr.superlink.config_loader import get_license_plugin
    from flwr.superlink.main import _get_middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    idle = {
        "ControlSensitiveResponseMiddleware",  # forbids caching what a login returns; nobody logs in
        "ControlLicenseMiddleware",  # asks a plugin that is not part of this Flower
        "ControlEventLogMiddleware",  # writes to plugins that are not given
        "FleetEventLogMiddleware",
        "RuntimeTracingMiddleware",  # acts when FLWR_TRACING_ENABLED is 1
    }
    kept = {"ControlAuthenticationMiddleware", "ProtobufTranslationMiddleware", "NodeAuthMiddleware"}
    names = {each.cls.__name__ for each in _get_middleware() if each.cls is not BaseHTTPMiddleware}
    assert names == idle | kept
    assert get_license_plugin() is None


def test_every_call_that_an_adapter_makes_is_listed_here() -> None:
    """An adapter that starts to use another part of Flower must add it above."""
    known = {
        place.partition(":")[0] + ":" + place.partition(":")[2].split(".")[0] for place in (*USED, *FIELDS)
    }
    found = set()
    for side in ("client", "server"):
        source = (ROOT / side / "flower_adapter.py").read_text()
        for module, names in re.findall(r"^\s+from (flwr[\w.]*) import ([\w, ]+)$", source, re.MULTILINE):
            found |= {f"{module}:{name.strip()}" for name in names.split(",")}
        for module, names in re.findall(r"^\s+from (flwr[\w.]*) import \(([^)]*)\)", source, re.MULTILINE):
            found |= {f"{module}:{name.strip()}" for name in names.split(",") if name.strip()}
    documented = {"flwr.app:Message", "flwr.serverapp:Grid"}
    only_for_types = {"flwr.supercore.auth.typing:AccountInfo", "flwr.supercore.control:ControlHttpClient"}
    requests = {name for name in found if name.endswith("Request")}
    assert found - known - documented - only_for_types - requests == set()


def test_a_call_that_went_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    client = find("flwr.supernode.fleet_http_client:FleetHttpClient")
    monkeypatch.delattr(client, "PullMessages")
    with pytest.raises(AssertionError, match=r"FleetHttpClient\.PullMessages"):
        find("flwr.supernode.fleet_http_client:FleetHttpClient.PullMessages")
    with pytest.raises(AssertionError, match=r"no module flwr\.somewhere"):
        find("flwr.somewhere:Else")
