"""A coordinator's server app under the test's control: any bundle, any question, sent over the real SuperLink."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping

import httpx
import numpy as np
from federation_harness import MadeFederation, wait_until
from flwr.app import Message
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.superexec_auth import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from ringfence.model.plan import Plan
from ringfence.model.round_messages import TRAIN_ACTION, TrainRequest, request_to_records
from ringfence.server.fleet_service import ensure_secrets, read_private_address
from ringfence.server.flower_adapter import build_bundle
from ringfence.server.round_channel import Arrival, GridChannel, round_of
from ringfence.server.signing_keys import load_coordinator_key

ACQUIRE_TASK = "/flwr.proto.Runtime/AcquireTask"
_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "{publisher}"

[tool.flwr.app.components]
serverapp = "ringfence.server.app:app"
clientapp = "ringfence.client.app:app"

[tool.flwr.app.config]
run = ""
"""


class Bearer:
    """Shows a token to the Control API."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def intercept(self, context, call_next):
        if self._token is not None:
            context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


class ScriptedCoordinator:
    """Starts a run and asks members what the test says, in the place of the installed server app."""

    def __init__(self, federation: MadeFederation, *, bundle: bytes | None = None) -> None:
        self._federation = federation
        content = bundle if bundle is not None else build_bundle()[0]
        self._control = control_client(federation, token=ensure_secrets(federation.coordinator).control_token)
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
            override_config=user_config_to_proto({"run": "scripted"}),
            federation="@none/default",
        )
        self.run_id = self._control.StartRun(request).run_id
        secret = ensure_secrets(federation.coordinator).superexec_file.read_bytes().strip()
        self._starter = runtime_client(federation, secret=secret)
        acquired = self._starter.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        self.grid = HttpGrid(
            read_private_address(federation.coordinator),
            False,
            federation.coordinator.ca_file.read_bytes(),
            token=acquired.token,
        )
        given = self.grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        # Flower keeps these for the process; a message takes its run and source from them.
        TaskIdentity.run_id, TaskIdentity.task_id = given.run.run_id, given.task_id
        TaskIdentity.node_id = given.context.node_id
        self.grid.set_run(run_from_proto(given.run))
        self.channel = GridChannel(self.grid, group="scripted")
        # Without it Flower counts the server app as dead after a minute, and ends the run.
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(self.grid._runtime_client))
        self._heartbeat.start()

    def __enter__(self) -> ScriptedCoordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.stop()
        with contextlib.suppress(httpx.HTTPStatusError):
            self._control.StopRun(StopRunRequest(run_id=self.run_id))
        self.grid.close()
        self._starter.close()
        self._control.close()

    def request(
        self, plan: Plan, *, round_: int = 1, dimension: int = 109, **changes: object
    ) -> TrainRequest:
        """Return a rightly signed question."""
        content = plan.canonical_json()
        values: dict[str, object] = {
            "run": "scripted",
            "plan": content,
            "signature": load_coordinator_key(self._federation.coordinator, name="plan").sign(content),
            "round": round_,
            "attempt": 1,
            "parameters": np.zeros(dimension),
        }
        return TrainRequest(**{**values, **changes})  # type: ignore[arg-type]

    def ask(self, node_id: int, request: TrainRequest, *, action: str = TRAIN_ACTION) -> str:
        """Send one question; return Flower's id of the message."""
        message = Message(request_to_records(request), node_id, action, ttl=600.0, group_id="scripted")
        (message_id,) = self.grid.push_messages([message])
        self.channel._waiting[message_id] = (node_id, round_of(request))
        return str(message_id)

    def collect(self, *, count: int = 1, timeout_s: float = 60.0) -> list[Arrival]:
        """Wait for so many answers."""
        found: list[Arrival] = []

        def enough() -> bool:
            found.extend(self.channel.collect())
            return len(found) >= count

        wait_until(enough, what="answers arrive", timeout_s=timeout_s)
        return found

    def silence(self, seconds: float) -> list[Arrival]:
        """Return what arrives within some seconds, which a test expects to be nothing."""
        found: list[Arrival] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found.extend(self.channel.collect())
            time.sleep(0.1)
        return found


def bundle_of(files: Mapping[str, bytes], *, publisher: str = "ringfence", name: str = "federation") -> bytes:
    """Return a bundle of these files under an app id, as Flower's own builder packs it."""
    project = _PROJECT.format(publisher=publisher, name=name).encode()
    content, _ = build_fab_from_files({"pyproject.toml": project, **files})
    return content


def control_client(federation: MadeFederation, *, token: str | None) -> ControlHttpClient:
    """Return a client of the Control API that shows this token, or none."""
    return ControlHttpClient.from_server_address(
        read_private_address(federation.coordinator),
        False,
        federation.coordinator.ca_file.read_bytes(),
        [RuntimeVersionHttpInterceptor(component_name="flwr CLI"), Bearer(token)],
    )


def runtime_client(federation: MadeFederation, *, secret: bytes | None) -> RuntimeHttpClient:
    """Return a client of the Runtime API that knows this secret of the process that starts server apps, or none."""
    interceptors: list[object] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if secret is not None:
        interceptors.append(
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE_TASK})
        )
    return RuntimeHttpClient.from_server_address(
        server_address=read_private_address(federation.coordinator),
        insecure=False,
        root_certificates=federation.coordinator.ca_file.read_bytes(),
        interceptors=interceptors,  # type: ignore[arg-type]
    )
