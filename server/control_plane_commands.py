"""``ringfence-coordinator serve-releases``: the control plane as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import signal

from ringfence.model.console import JsonOption
from ringfence.model.log_format import LogFormat, LogFormatOption, log_to_stderr
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.grpc_environment import settle_grpc
from ringfence.server.serve_commands import HomeOption, emit_stopped


def serve_releases(
    home: HomeOption = None, log_format: LogFormatOption = LogFormat.TEXT, as_json: JsonOption = False
) -> None:
    """Serve releases and approvals to members. Part of serve; runs until stopped."""
    log_to_stderr(log_format)
    settle_grpc()
    located = CoordinatorHome.locate(home)
    asyncio.run(_serve_until_stopped(located))
    emit_stopped(located, command="serve-releases", as_json=as_json)


async def _serve_until_stopped(home: CoordinatorHome) -> None:
    from ringfence.server.control_plane import serve_control_plane as serving
    from ringfence.server.coordinator_settings import load_coordinator_settings

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(home, load_coordinator_settings(home)) as running:
        log = logging.getLogger("ringfence.control")
        log.info("members are served at %s, companies join at %s", running.address, running.enrolment_address)
        await stop.wait()
