"""The coordinator's one door to Flower's internals.

Ringfence pins ``flwr==1.41.0``; everything on the coordinator's side that is not Flower's documented API is used here and
nowhere else, under a contract test. What Flower leaves open is closed by `ringfence.server.fleet_gateway` and by the
token that this module asks of every Control call.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringfence.model.errors import ConnectionFailedError, PeerError
from ringfence.model.log_format import VARIABLE, LogFormat, log_to_stderr
from ringfence.server.thin_bundle import BUNDLE_PROJECT

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flwr.app import Message
    from flwr.serverapp import Grid
    from flwr.supercore.auth.typing import AccountInfo
    from flwr.supercore.control import ControlHttpClient

log = logging.getLogger("ringfence.rounds")
PUBLIC_KEY_HEADER = b"flwr-public-key"
SERVER_APP_NODE = 1
"""Flower's number of the receiver of every answer."""
_FEDERATION = "@none/default"
_MAX_REPLY_BYTES = 128 << 20
_MAX_REPLY_PARTS = 8
"""An honest reply has three."""
_QUIET_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "FLWR_LOG_LEVEL": "CRITICAL",  # until our own log stands: its lines are in another form
}


@dataclass(frozen=True, slots=True)
class RunState:
    """What Flower says about a run.

    Attributes:
        status: "starting", "running" or "finished".
        outcome: "completed", "failed", "stopped", or "" while it is not finished.
        details: Flower's words about a failure, for the coordinator's own eyes.
    """

    status: str
    outcome: str
    details: str


def quiet_environment(home: Path) -> dict[str, str]:
    """Return the environment for Flower's processes: no telemetry, no update check, no installs, state below ``home``."""
    return {**_QUIET_ENVIRONMENT, "FLWR_HOME": str(home)}


def quieten_flower() -> None:
    """Leave Flower's errors in the log and nothing else: it sets its own level when it is imported."""
    import flwr.supercore.logger  # noqa: F401

    for name in ("flwr", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for own in list(logger.handlers):
            logger.removeHandler(own)  # it writes in a form of its own, tracebacks included


def build_bundle() -> tuple[bytes, str]:
    """Return the bundle that Flower asks for and its SHA-256: one project file, made in memory."""
    from flwr.cli.build import build_fab_from_files

    content, _ = build_fab_from_files({"pyproject.toml": BUNDLE_PROJECT.encode()})
    return content, hashlib.sha256(content).hexdigest()


def create_superlink(
    *,
    host: str,
    port: int,
    database: Path,
    ca_file: Path,
    certificate_file: Path,
    key_file: Path,
    control_token: str,
    superexec_secret: bytes,
) -> FastAPI:
    """Return Flower's SuperLink as an ASGI application, with node authentication and a token on its Control API.

    The caller serves it on loopback and exposes only what the gateway lets through.

    Args:
        host: loopback address of the private listener.
        port: of the same.
        database: SQLite file of Flower's state.
        ca_file: certificates that Flower's own clients verify the private listener with, PEM.
        certificate_file: of the private listener, PEM.
        key_file: of the private listener, PEM.
        control_token: bearer token of the Control API.
        superexec_secret: shared with the process that starts server apps.
    """
    os.environ.update(_QUIET_ENVIRONMENT)
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    quieten_flower()

    class TokenAuthentication(NoOpControlAuthnPlugin):
        """Asks every Control call for the coordinator's token; Flower's own plugin admits anybody."""

        def validate_tokens_in_metadata(
            self, metadata: Sequence[tuple[str, str | bytes]]
        ) -> tuple[bool, AccountInfo | None]:
            given = str(dict(metadata).get("flwr-oidc-access-token", ""))
            if not hmac.compare_digest(given.encode(), control_token.encode()):
                return False, None
            return super().validate_tokens_in_metadata(metadata)

    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=host,
        port=port,
        insecure=False,
        certificates=(ca_file.read_bytes(), certificate_file.read_bytes(), key_file.read_bytes()),
        superexec_auth_secret=superexec_secret,
        authn_plugin=TokenAuthentication(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(ca_file),
        ssl_certfile=str(certificate_file),
        ssl_keyfile=str(key_file),
        database=str(database),
        isolation="process",
        runtime_dependency_install=False,
    )
    application = create_app(config, SuperLinkLifespan)
    _leave_out_idle_middleware(application)
    return application


def _leave_out_idle_middleware(application: FastAPI) -> None:
    """Take away what every request passes and what does nothing here: more than half of what a request cost.

    Event logs and tracing are off, there is no license plugin, and nobody logs in: so nothing that these would do is lost.
    What refuses stays: authentication of the Control API and of nodes, and the translation of errors.
    """
    from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
    from flwr.superlink.routers.control.middlewares import (
        ControlEventLogMiddleware,
        ControlLicenseMiddleware,
        ControlSensitiveResponseMiddleware,
    )
    from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware

    idle: tuple[object, ...] = (
        ControlSensitiveResponseMiddleware,
        ControlLicenseMiddleware,
        ControlEventLogMiddleware,
        RuntimeTracingMiddleware,
        FleetEventLogMiddleware,
    )
    application.user_middleware = [each for each in application.user_middleware if each.cls not in idle]


def superexec_command(
    *, python: str, address: str, ca_file: Path, secret_file: Path, parent_pid: int
) -> list[str]:
    """Return the command of the process that starts a server app for each run."""
    return [
        python,
        "-c",
        f"from {__name__} import run_flower_superexec; run_flower_superexec()",
        "--runtime-api-address",
        address,
        "--root-certificates",
        str(ca_file),
        "--superexec-auth-secret-file",
        str(secret_file),
        "--parent-pid",
        str(parent_pid),
    ]


def run_flower_superexec() -> None:
    """Start a server app for each run, as the command line says, until this process is ended."""
    from flwr.supercore.cli import flower_superexec

    log_to_stderr(LogFormat(os.environ.get(VARIABLE, LogFormat.TEXT)))
    quieten_flower()
    # Flower starts its own programs by name: they lie beside this Python, which need not be on the PATH of who serves.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    flower_superexec()


class FlowerControl:
    """The coordinator's own use of Flower's Control API, over the private listener.

    Raises:
        ConnectionFailedError: from every method, when the SuperLink does not answer.
        PeerError: from every method, when it refuses.
    """

    def __init__(self, *, address: str, ca_file: Path, token: str) -> None:
        self._address = address
        self._ca_file = ca_file
        self._token = token

    def register_node(self, public_key_pem: bytes, *, name: str) -> int:
        """Register a member's node key; return Flower's node id. Registering again returns the same id."""
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest

        with self._client() as client:
            for node in _call(client.ListNodes, ListNodesRequest()).nodes_info:
                if node.public_key == public_key_pem:
                    return int(node.node_id)
            response = _call(client.RegisterNode, RegisterNodeRequest(public_key=public_key_pem, name=name))
        return int(response.node_id)

    def unregister_node(self, node_id: int) -> None:
        """Remove a member's node."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        with self._client() as client:
            _call(client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def node_ids(self) -> dict[bytes, int]:
        """Return the registered nodes: public key (PEM) to node id; Flower also lists those that were unregistered."""
        from flwr.proto.control_pb2 import ListNodesRequest
        from flwr.supercore.constant import NodeStatus

        with self._client() as client:
            nodes = _call(client.ListNodes, ListNodesRequest()).nodes_info
        return {
            bytes(node.public_key): int(node.node_id)
            for node in nodes
            if node.status != NodeStatus.UNREGISTERED
        }

    def start_run(self, run: str) -> int:
        """Start the installed server app for a run that the coordinator has prepared; return Flower's run id."""
        from flwr.common.serde import user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab

        content, digest = build_bundle()
        request = StartRunRequest(
            fab=Fab(hash_str=digest, content=content),
            override_config=user_config_to_proto({"run": run}),
            federation=_FEDERATION,
        )
        with self._client() as client:
            return int(_call(client.StartRun, request).run_id)

    def run_state(self, run_id: int) -> RunState | None:
        """Return Flower's view of a run, or None if it does not know it."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._client() as client:
            try:
                runs = _call(client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict
            except PeerError:
                return None
        if run_id not in runs:
            return None
        status = runs[run_id].status
        return RunState(status=status.status, outcome=status.sub_status, details=status.details)

    def stop_run(self, run_id: int) -> bool:
        """Stop a run; return whether Flower did."""
        from flwr.proto.control_pb2 import StopRunRequest

        with self._client() as client:
            return bool(_call(client.StopRun, StopRunRequest(run_id=run_id)).success)

    def _client(self) -> ControlHttpClient:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        return ControlHttpClient.from_server_address(
            self._address,
            False,
            self._ca_file.read_bytes(),
            [RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Bearer(self._token)],
        )


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Any) -> Any:  # noqa: ANN401 - Flower's own interceptor form
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


def _call(method: Any, request: Any) -> Any:  # noqa: ANN401 - any of Flower's request and response pairs
    import httpx

    try:
        return method(request)
    except httpx.HTTPStatusError as error:
        raise PeerError(f"Flower's SuperLink refused the call ({error.response.status_code}).") from error
    except httpx.HTTPError as error:
        raise ConnectionFailedError(
            "Flower's SuperLink does not answer.", hint="Start the coordinator: ringfence-coordinator serve"
        ) from error


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one message.

    Attributes:
        reply_to: Flower's id of the message that it answers.
        message: Flower's message; None when none will come, or when its parts do not make one.
        lost: True when none will come.
    """

    reply_to: str
    message: Message | None
    lost: bool = False


@dataclass(slots=True)
class _Announced:
    reply_to: str
    parts: tuple[str, ...]
    is_readable: bool = True
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class ReplyCollector:
    """Collects replies one by one, without waiting for any of them.

    Flower's own `Grid.pull_messages` waits until each part of each announced reply has come. A member that announces a
    reply and sends no more would hold up the round for minutes, and one whose parts do not make a message would end the
    run for everybody.

    Args:
        grid: as Flower hands it to the server app; any other than its HTTP grid is asked in Flower's own way.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid: Any = grid
        self._announced: dict[str, _Announced] = {}

    def collect(self, message_ids: Sequence[str]) -> list[Reply]:
        """Return the replies to these messages that are complete since the last call."""
        from flwr.superlink.grid import HttpGrid

        if not isinstance(self._grid, HttpGrid):
            return [
                Reply(reply_to=message.metadata.reply_to_message_id, message=message)
                for message in self._grid.pull_messages(message_ids)
            ]
        awaited = set(message_ids) - {announced.reply_to for announced in self._announced.values()}
        if awaited:
            self._hear(awaited)
        replies = []
        for message_id in list(self._announced):
            reply = self._complete(message_id)
            if reply is not None:
                del self._announced[message_id]
                replies.append(reply)
        return replies

    def _hear(self, message_ids: set[str]) -> None:
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

        response = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        for message, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            parts = tuple(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
            self._announced[message.metadata.message_id] = _Announced(
                reply_to=message.metadata.reply_to_message_id,
                parts=parts[:_MAX_REPLY_PARTS],
                is_readable=len(parts) <= _MAX_REPLY_PARTS,
            )

    def _complete(self, message_id: str) -> Reply | None:
        """Return the reply if it is decided what it is, else None: a part is still on its way."""
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
        from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        announced = self._announced[message_id]
        if not announced.is_readable:
            return Reply(reply_to=announced.reply_to, message=None)
        client, node = self._grid._runtime_client, self._grid.node
        run_id = self._grid.run.run_id
        for part in announced.parts:
            if part in announced.contents:
                continue
            response = client.PullObject(PullObjectRequest(node=node, run_id=run_id, object_id=part))
            if not response.object_found:
                return Reply(reply_to=announced.reply_to, message=None, lost=True)
            if not response.object_available:
                return None
            announced.contents[part] = bytes(response.object_content)
            announced.size += len(announced.contents[part])
            if announced.size > _MAX_REPLY_BYTES:
                return Reply(reply_to=announced.reply_to, message=None)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=message_id)
        )
        try:
            with no_object_id_recompute():
                whole: Any = inflate_object_from_contents(message_id, announced.contents)
            whole.metadata.__dict__["_message_id"] = message_id
        except Exception as error:  # noqa: BLE001 - whatever a member's bytes do to Flower's decoder, only they are lost
            log.warning("a reply cannot be read: %s", type(error).__name__)
            return Reply(reply_to=announced.reply_to, message=None)
        return Reply(reply_to=announced.reply_to, message=whole)


def message_sources(body: bytes) -> tuple[int, set[int]]:
    """Return who sends a PushMessages request and who its messages claim to come from.

    Raises:
        PeerError: the body is not such a request.
    """
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from google.protobuf.message import DecodeError

    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError as error:
        raise PeerError("The body is not a PushMessages request.") from error
    return request.node.node_id, {message.metadata.src_node_id for message in request.messages_list}


def asking_node(body: bytes) -> int:
    """Return who asks in a Fleet PullMessages request; 0 if it is none, which Flower refuses."""
    from flwr.proto.fleet_pb2 import PullMessagesRequest
    from google.protobuf.message import DecodeError

    try:
        return int(PullMessagesRequest.FromString(body).node.node_id)
    except DecodeError:
        return 0


def announced_messages(path: str, body: bytes, answer: bytes) -> list[tuple[int, set[str]]]:
    """Return the receiver of each message of a PushMessages call that Flower took, and its parts that are still to come.

    Args:
        path: of the call, of the Fleet or the Runtime API.
        body: the request.
        answer: what Flower answered.
    """
    from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
    from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

    request: PushMessagesRequest | PushAppMessagesRequest
    if path.startswith("/v1/runtime/"):
        request = PushAppMessagesRequest.FromString(body)
        wanted = set(PushAppMessagesResponse.FromString(answer).objects_to_push)
    else:
        request = PushMessagesRequest.FromString(body)
        wanted = set(PushMessagesResponse.FromString(answer).objects_to_push)
    return [
        (message.metadata.dst_node_id, wanted & {part.object_id for part in iterate_object_tree(tree)})
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=False)
    ]


def stored_part(body: bytes) -> str:
    """Return which part a PushObject request brings."""
    from flwr.proto.message_pb2 import PushObjectRequest

    return str(PushObjectRequest.FromString(body).object_id)
