"""A member's code has one way out for answers and one for releases; read from the source, so that no new one slips in."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "client"

# What sends an answer to the coordinator, and the one module that may.
SENDING = {"PushMessages", "PushObject", "PushMessagesRequest", "PushObjectRequest"}
SENDER = "flower_adapter.py"

# What opens a connection, and the modules that may use it, each with its reason.
OPENING_MODULES = {
    "socket", "ssl", "http", "urllib", "urllib3", "httpx", "httpcore", "requests", "aiohttp", "websockets",
    "smtplib", "ftplib", "telnetlib", "xmlrpc", "asyncio", "socketserver", "subprocess", "webbrowser",
    "multiprocessing.connection.Client", "multiprocessing.connection.Listener",
    "sqlalchemy", "psycopg", "fsspec", "duckdb",
}  # fmt: skip
OPENING_CALLS = {
    "secure_channel", "insecure_channel", "open_channel", "create_connection", "open_connection", "urlopen",
    "FleetHttpClient", "system", "popen", "posix_spawn", "execv", "execve", "start_server", "add_secure_port",
    "add_insecure_port", "bind", "listen",
}  # fmt: skip
ALLOWED = {
    ("flower_adapter.py", "ssl"): "mutual TLS of the fleet connection",
    ("flower_adapter.py", "httpx"): "errors of the fleet connection, as Flower raises them",
    ("flower_adapter.py", "FleetHttpClient"): "the fleet connection",
    ("enrolment.py", "ssl"): "fetches the trust bundle, believed only when its hash is the invitation's",
    ("enrolment.py", "socket"): "the same",
    ("enrolment.py", "create_connection"): "the same",
    ("coordinator_probe.py", "ssl"): "one request without content, for the doctor",
    ("coordinator_probe.py", "http"): "the same",
    (
        "release_following.py",
        "subprocess",
    ): "our own command, `ringfence model`, in a process that ends with the look",
    ("sql_source.py", "sqlalchemy"): "the member's own database, in a process without a part in training",
    ("sql_source.py", "psycopg"): "names of its types",
    ("source_files.py", "fsspec"): "the member's own object store, in the same process",
    ("table_files.py", "duckdb"): "its errors alone; the connection is that of table_source.py",
    ("table_source.py", "duckdb"): "the member's own files; DuckDB's network and other files are locked off",
    ("coordinator_connection.py", "open_channel"): "the release client's channel factory",
    ("releases.py", "open_channel"): "takes the factory as an argument",
    ("release_download.py", "open_channel"): "takes the factory as an argument",
}


def modules() -> list[Path]:
    return sorted(CLIENT.rglob("*.py"))


def names(source: str) -> Iterator[str]:
    """Yield every name that a module imports, reads or calls; text and comments are none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            for alias in node.names:
                yield alias.name
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield from (
                argument.value
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def sends(source: str) -> set[str]:
    return SENDING & set(names(source))


def opens(source: str) -> set[str]:
    found = set(names(source))
    whole = {
        module for module in OPENING_MODULES if any(f"{name}.".startswith(f"{module}.") for name in found)
    }
    return whole | (OPENING_CALLS & found)


def methods_that_send(source: str) -> set[str]:
    return {
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        and SENDING & {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    }


def test_only_the_fleet_connection_sends_and_only_in_answer() -> None:
    assert {path.name for path in modules() if sends(path.read_text())} == {SENDER}
    assert methods_that_send((CLIENT / SENDER).read_text()) == {"answer"}


def test_nothing_else_in_the_client_opens_a_connection() -> None:
    found = {(path.name, name) for path in modules() for name in opens(path.read_text())}
    assert found - set(ALLOWED) == set()


def test_only_the_firewall_makes_what_the_connection_sends() -> None:
    makers = {
        path.name
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Cleared"
    }
    assert makers == {"firewall.py"}
    assert {path.name for path in modules() if "_ISSUED_HERE" in set(names(path.read_text()))} == {
        "firewall.py"
    }


def test_only_the_app_of_the_simulation_puts_answers_into_messages_without_the_firewall() -> None:
    """It runs in Flower's own engine and in tests, where nothing leaves the machine; the agent never calls it."""
    users = {path.name for path in modules() if "answer_to_records" in set(names(path.read_text()))}
    assert users == {"answer_schema.py", "app.py"}
    importers = {path.name for path in modules() if "ringfence.client.app" in set(names(path.read_text()))}
    assert importers == set()
    takers = {path.name for path in modules() if "checked_wire_form" in set(names(path.read_text()))}
    assert takers == {"firewall.py"}


@pytest.mark.parametrize(
    "source",
    [
        "def f(client):\n    client.PushMessages(1)",
        "def f(client):\n    getattr(client, 'PushObject')(1)",
        "from flwr.proto.fleet_pb2 import PushMessagesRequest",
    ],
)
def test_another_sender_would_be_found(source: str) -> None:
    assert sends(source)


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "import http.client",
        "from urllib.request import urlopen",
        "def f():\n    import httpx",
        "import grpc\nchannel = grpc.insecure_channel('x')",
        "from ringfence.model.channels import open_channel",
        "from flwr.supernode.fleet_http_client import FleetHttpClient",
        "import asyncio\nasyncio.open_connection('x', 1)",
        "import os\nos.system('curl')",
        "from multiprocessing.connection import Client",
        "import subprocess",
        "import fsspec",
        "from sqlalchemy import create_engine",
    ],
)
def test_another_way_out_would_be_found(source: str) -> None:
    assert opens(source)
