"""``ringfence agent``: take part in the federation."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.client.service_command import install_service
from ringfence.model.console import JsonOption, emit, new_application
from ringfence.model.log_format import LogFormat, LogFormatOption, log_to_stderr

application = new_application("agent", "Take part in the federation's training runs.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]


@application.callback()
def _agent() -> None:
    """Take part in the federation's training runs."""


@application.command(epilog="Example: ringfence agent run --poll 1")
def run(
    home: HomeOption = None,
    poll: Annotated[
        float, typer.Option("--poll", min=0.05, max=60, help="Seconds between questions for work.")
    ] = 0.25,
    log_format: LogFormatOption = LogFormat.TEXT,
    as_json: JsonOption = False,
) -> None:
    """Answer training rounds until stopped. Opens no port; needs outbound access to the coordinator only."""
    # Before numpy is loaded: an agent that waits has no use for a thread, and the buffers, of each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ringfence.client.agent import run_agent

    log_to_stderr(log_format)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup the agent outlives its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    located = MemberHome.locate(home)
    run_agent(located, stop=stop, poll_s=poll)
    emit(
        "The agent has stopped; what was charged is kept.\nNext: ringfence agent run",
        data={"home": str(located.root)},
        as_json=as_json,
    )


application.command("install-service", epilog="Example: ringfence agent install-service --user ringfence")(
    install_service
)
