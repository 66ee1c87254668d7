"""``ringfence-coordinator serve``, and the part of it that serves the fleet. A coordinator is the whole of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from ringfence.model.console import JsonOption, emit
from ringfence.model.log_format import VARIABLE as LOG_FORMAT_VARIABLE
from ringfence.model.log_format import LogFormat, LogFormatOption, log_to_stderr
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.grpc_environment import settle_grpc

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The coordinator's folder.", envvar="RINGFENCE_COORDINATOR_HOME")
]


def serve(
    home: HomeOption = None, log_format: LogFormatOption = LogFormat.TEXT, as_json: JsonOption = False
) -> None:
    """Serve the federation: fleet gateway, release service, run starter. Runs until stopped."""
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.supervisor import supervise

    log_to_stderr(log_format)
    settle_grpc()  # its children's as well
    os.environ[LOG_FORMAT_VARIABLE] = log_format.value  # its children's, server apps included
    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    logging.getLogger("ringfence.coordinator").info(
        "serving %s: members at %s, releases at %s",
        *(settings.federation, settings.fleet_address, settings.release_address),
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    supervise(located, stop=stop)
    emit_stopped(located, command="serve", as_json=as_json)


def serve_fleet(
    home: HomeOption = None, log_format: LogFormatOption = LogFormat.TEXT, as_json: JsonOption = False
) -> None:
    """Serve the fleet gateway and Flower's SuperLink behind it. Part of serve."""
    from ringfence.model.settings_file import split_address
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.fleet_service import serve_fleet as serve_until_stopped
    from ringfence.server.members import MemberRegistry

    log_to_stderr(log_format)
    settle_grpc()
    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    registry = MemberRegistry(open_database(located, settings=settings))

    def member_of(public_key: bytes) -> str | None:
        member = registry.find_by_public_key(public_key)
        return member.id if member is not None and member.status == "active" else None

    asyncio.run(
        serve_until_stopped(
            located,
            public=split_address(settings.fleet_address),
            private=("127.0.0.1", settings.private_port),
            member_of=member_of,
            metrics_address=settings.fleet_metrics_address,
        )
    )
    emit_stopped(located, command="serve-fleet", as_json=as_json)


def emit_stopped(home: CoordinatorHome, *, command: str, as_json: bool) -> None:
    """Print how a service that was told to stop is started again."""
    emit(
        f"Stopped; runs that were under way go on when it serves again.\nNext: ringfence-coordinator {command}",
        data={"home": str(home.root)},
        as_json=as_json,
    )
