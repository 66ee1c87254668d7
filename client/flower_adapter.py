"""The member's one door to Flower's internals: a fleet connection that obeys the member.

Ringfence pins ``flwr==1.41.0``; everything on the member's side that is not Flower's documented API is used here and
nowhere else, under a contract test. Compared with a stock SuperNode the connection presents a client certificate, never
fetches the coordinator's bundle, checks every object against its hash, and raises instead of ending the process.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ringfence.client.firewall import Cleared
from ringfence.client.stoppable import unless_stopped
from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError
from ringfence.model.fleet_waiting import LONGEST_WAIT_S, WAIT_HEADER

if TYPE_CHECKING:
    from flwr.proto.fleet_pb2 import PullMessagesResponse

_QUIET_ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_CALL_TIMEOUT_S = 30.0
_OBJECT_TIMEOUT_S = 20.0
_OBJECT_POLL_S = 0.05
# A refusal is a well-formed answer, so Flower's error channel, which carries free text, is never used.


@dataclass(frozen=True, slots=True)
class FleetTask:
    """A message for this member, not yet trusted.

    Attributes:
        message: Flower's message, content included.
        action: Flower's message type, such as "train.update".
        app_id: the app that the coordinator says this run belongs to.
        run_id: Flower's id of the run.
    """

    message: Any
    action: str
    app_id: str
    run_id: int


class RunOverError(PeerError):
    """The run that a message belongs to has ended."""

    code = "run_over"


class FleetConnection:
    """An activated connection to the fleet gateway, used as a context manager.

    Args:
        address: ``host:port`` of the gateway.
        ca_file: the federation's CA certificates, PEM.
        certificate_file: this member's certificate chain, PEM.
        key_file: its private key, PEM; the same key is the Flower node key.
        last_node_id: Flower's id of this node from an earlier connection, if known.
        max_message_bytes: largest message that is taken.

    Raises:
        ConfigError: the key or a certificate cannot be read. The member's to mend.
        ConnectionFailedError: the gateway does not answer or refuses this member; also from every method.
    """

    def __init__(
        self,
        address: str,
        *,
        ca_file: Path,
        certificate_file: Path,
        key_file: Path,
        last_node_id: int | None = None,
        max_message_bytes: int = 64 << 20,
    ) -> None:
        os.environ.update(_QUIET_ENVIRONMENT)
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
        from flwr.supernode.fleet_http_client import FleetHttpClient
        from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

        try:
            key = load_pem_private_key(key_file.read_bytes(), None)
            tls = _mutual_tls(ca_file, certificate_file, key_file)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise ConfigError(
                "The member's key or certificate cannot be read.", hint="Run: ringfence identity show"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(
                "The member's key is not an EC key.", hint="Create a new identity and ask to be admitted."
            )
        self._waiting = _Waiting()
        self._max_message_bytes = max_message_bytes
        self._last_node_id = last_node_id
        self._key = key
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
                self._waiting,
            ],
            verify=tls,
            timeout=_CALL_TIMEOUT_S,
        )
        # Flower follows redirects: an answer would go wherever the coordinator points, past the audit log's destination.
        self._client._client.follow_redirects = False
        self._runs: dict[int, str] = {}
        self._node: Any = None
        self._heartbeat: Any = None

    def __enter__(self) -> Self:
        """Activate the node and start its heartbeat."""
        from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
        from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
        from flwr.proto.node_pb2 import Node
        from flwr.supercore.heartbeat import HeartbeatSender
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(self._key.public_key()),
            heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
        )
        try:
            try:
                response = self._call(self._client.ActivateNode, request)
            except ConnectionFailedError:
                if self._last_node_id is None:
                    raise
                # After a crash the coordinator still counts this node as connected, and would refuse it for a minute.
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self._last_node_id))
                response = self._call(self._client.ActivateNode, request)
        except BaseException:
            self._client.close()
            raise
        self._node = Node(node_id=response.node_id)
        self._heartbeat = HeartbeatSender(self._send_heartbeat)
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the heartbeat, deactivate the node and close the connection."""
        from flwr.proto.fleet_pb2 import DeactivateNodeRequest

        if self._heartbeat is not None and self._heartbeat.is_running:
            self._heartbeat.stop()
        if self._node is not None:
            # If this fails the coordinator learns it from the missing heartbeat.
            with suppress(PeerError):
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    @property
    def node_id(self) -> int:
        """Flower's id of this member's node."""
        return int(self._node.node_id)

    def receive(self, *, stop: threading.Event | None = None) -> FleetTask | None:
        """Return the next message for this member, or None.

        Args:
            stop: if given, the coordinator is asked to hold the question for a while if it has nothing, and the wait
                ends when this is set. None asks once.

        Raises:
            PeerError: the message is not whole, too large, or an object differs from its hash. The coordinator's fault.
        """
        from flwr.common.serde import message_from_proto
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        response = self._pull(stop)
        if response is None or not response.messages_list:
            return None
        try:
            message = message_from_proto(response.messages_list[0])
            parts = [item.object_id for item in iterate_object_tree(response.message_object_trees[0])]
        except Exception as error:
            raise PeerError("A message for this member cannot be read.") from error
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        contents: dict[str, bytes] = {}
        size = 0
        for part in dict.fromkeys(parts):
            contents[part] = self._pull_object(run_id, part)
            size += len(contents[part])
            if size > self._max_message_bytes:
                raise PeerError("A message for this member is larger than it accepts.")
        self._call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=message_id),
            of_run=True,
        )
        try:
            whole: Any = inflate_object_from_contents(message_id, contents)
            whole.metadata.__dict__["_message_id"] = message_id
        except Exception as error:
            raise PeerError("A message for this member cannot be read.") from error
        return FleetTask(
            message=whole, action=message.metadata.message_type, app_id=self._app_of(run_id), run_id=run_id
        )

    def answer(self, task: FleetTask, cleared: Cleared) -> None:
        """Send an answer that the firewall cleared. Nothing else of this member goes out.

        The running time that Flower asks for is sent as zero: durations say something about the data.

        Raises:
            TypeError: the firewall did not clear it, or it was sent before. A defect of the caller; nothing goes out.
        """
        from flwr.app import Message
        from flwr.app.message import remove_content_from_message
        from flwr.common.serde import message_to_proto
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.proto.message_pb2 import PushObjectRequest
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )

        if type(cleared) is not Cleared:
            raise TypeError("Only what the firewall cleared is sent.")
        content = cleared.take()
        try:
            reply = Message(content, reply_to=task.message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
        except Exception as error:
            raise PeerError("A message for this member cannot be answered.") from error
        with no_object_id_recompute():
            response = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[0.0],
                ),
                of_run=True,
            )
            wanted = set(response.objects_to_push)
            for object_id, item in get_all_nested_objects(reply).items():
                if object_id in wanted:
                    self._call(
                        self._client.PushObject,
                        PushObjectRequest(
                            node=self._node,
                            run_id=task.run_id,
                            session_id=response.session_id,
                            object_id=object_id,
                            object_content=item.deflate(),
                        ),
                        of_run=True,
                    )

    def _pull(self, stop: threading.Event | None) -> PullMessagesResponse | None:
        from flwr.proto.fleet_pb2 import PullMessagesRequest

        request = PullMessagesRequest(node=self._node)
        self._waiting.wait_s = 0.0 if stop is None else LONGEST_WAIT_S
        if stop is None:
            return self._call(self._client.PullMessages, request)  # type: ignore[no-any-return]
        return unless_stopped(lambda: self._call(self._client.PullMessages, request), stop=stop)

    def _app_of(self, run_id: int) -> str:
        from flwr.common.serde import run_from_proto
        from flwr.proto.run_pb2 import GetRunRequest

        if run_id not in self._runs:
            request = GetRunRequest(node=self._node, run_id=run_id)
            response = self._call(self._client.GetRun, request, of_run=True)
            self._runs[run_id] = run_from_proto(response.run).fab_id
        return self._runs[run_id]

    def _pull_object(self, run_id: int, object_id: str) -> bytes:
        from flwr.proto.message_pb2 import PullObjectRequest

        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        deadline = time.monotonic() + _OBJECT_TIMEOUT_S
        while True:
            response = self._call(self._client.PullObject, request, of_run=True)
            if response.object_found and response.object_available:
                break
            # The coordinator announces a message before its last object is stored.
            if not response.object_found or time.monotonic() > deadline:
                raise PeerError("A message for this member is not complete.")
            time.sleep(_OBJECT_POLL_S)
        content = bytes(response.object_content)
        if hashlib.sha256(content).hexdigest() != object_id:
            raise PeerError("A part of a message for this member differs from its hash.")
        return content

    def _send_heartbeat(self) -> bool:
        from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

        try:
            response = self._call(
                self._client.SendNodeHeartbeat,
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL),
            )
        except PeerError:
            return False
        return bool(response.success)

    def _call(self, method: Callable[[Any], Any], request: Any, *, of_run: bool = False) -> Any:  # noqa: ANN401 - any of Flower's pairs
        import httpx

        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            # Flower answers a call about an ended run like the gateway answers a member that is not admitted. The next
            # call, which is about no run, tells the two apart.
            if status == httpx.codes.FORBIDDEN and of_run:
                raise RunOverError("The run has ended.") from error
            if status == httpx.codes.SERVICE_UNAVAILABLE:
                raise ConnectionFailedError(
                    f"The coordinator cannot serve now (HTTP {status}).",
                    hint="The coordinator's database does not answer; the agent tries again.",
                ) from error
            if status == httpx.codes.TOO_MANY_REQUESTS:
                raise ConnectionFailedError(
                    f"The coordinator takes no more of this member now (HTTP {status}).",
                    hint="The agent tries again; look whether two agents run with this member's key.",
                ) from error
            raise ConnectionFailedError(
                f"The coordinator refused a call (HTTP {status}).",
                hint="Ask the coordinator whether this member is active; check that this machine's clock is right.",
            ) from error
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise ConnectionFailedError(
                "The coordinator does not answer.",
                hint="Check the address, the firewall and the certificate.",
            ) from error
        except ValueError as error:  # Flower's word for bytes that are no answer of its protocol
            raise ConnectionFailedError(
                "What answers at the coordinator's address does not speak its protocol.",
                hint="Check the address, and that both sides run the same version.",
            ) from error


@dataclass(slots=True)
class _Waiting:
    """Asks the coordinator, with each question for messages, to hold it."""

    wait_s: float = 0.0

    def intercept(self, context: Any, call_next: Any) -> Any:  # noqa: ANN401 - Flower's own interceptor form
        if self.wait_s and context.rpc_method.endswith("/PullMessages"):
            context.request.headers[WAIT_HEADER] = f"{self.wait_s:.1f}"
        return call_next(context)


def _mutual_tls(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca_file)
    context.load_cert_chain(certificate_file, key_file)
    return context
