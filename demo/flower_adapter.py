"""The simulation's one door to Flower's internals.

Ringfence pins ``flwr==1.41.0``. An in-process grid has to do what Flower's SuperLink does for real messages: say which
task sends them, number them, and put failures into replies. What that takes beyond Flower's documented API is here.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import ServerApp
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from ringfence.model.errors import ConfigError

__all__ = [
    "PARTITION_ID_KEY",
    "FlowerRun",
    "client_app_failed",
    "node_unknown",
    "number_message",
    "run_on_ray",
    "server_identity",
]

_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Without these two, Ray listens on every interface and runs what anybody sends: despite its name the first keeps
    # Linux on loopback too, the second asks other users of this machine for a token.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


@contextmanager
def server_identity(*, run_id: int) -> Iterator[None]:
    """Be the server app of a run while the block lasts: every message that is made says so.

    Flower keeps this for the whole process, so that one block at a time may be open.
    """
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = run_id, run_id, SUPERLINK_NODE_ID
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def number_message(message: Message) -> str:
    """Give a message the identifier that a SuperLink would, and return it."""
    number = str(uuid4())
    message.metadata.__dict__["_message_id"] = number
    return number


def client_app_failed(kind: str) -> Error:
    """Return what a member's node reports when its app raises. ``kind`` is the error's class, never its text."""
    return Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=kind)


def node_unknown() -> Error:
    """Return what Flower reports for a message to a node that is not there."""
    return Error(code=ErrorCode.NODE_UNAVAILABLE, reason="unknown node")


def run_on_ray(server_app: ServerApp, client_app: ClientApp, *, nodes: int) -> None:
    """Run both apps on Flower's simulation engine, one actor a processor; return when the server app does.

    Ray keeps to this machine and to this user: loopback only, a token, no dashboard, no usage statistics.

    Raises:
        ConfigError: Ray was loaded before, with other settings. The caller's to mend.
        Exception: whatever the server app raises.
        RuntimeError: the engine itself failed.
    """
    if "ray" in sys.modules and any(
        os.environ.get(name) != _RAY_ENVIRONMENT[name] for name in _RAY_ENVIRONMENT
    ):
        # Ray reads its environment when it is imported, and would listen on every interface.
        raise ConfigError(
            "This process has loaded Ray with settings of its own.",
            hint="Simulate in a process of its own: ringfence simulate --engine ray",
        )
    os.environ.update(_RAY_ENVIRONMENT)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    from flwr.simulation import run_simulation
    from flwr.supercore import telemetry

    # Read from the environment when Flower was first imported, which is long ago.
    telemetry.FLWR_TELEMETRY_ENABLED = "0"
    logging.getLogger("ray").setLevel(logging.ERROR)
    run_simulation(
        server_app,
        client_app,
        num_supernodes=nodes,
        backend_name="ray",
        backend_config={
            "init_args": {
                "include_dashboard": False,
                "logging_level": logging.ERROR,
                "log_to_driver": False,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
