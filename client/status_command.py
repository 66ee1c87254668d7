"""``ringfence status``: one screen about this member, from its own files alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit


def status(
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show who this member is, whether its agent is connected, what it answered and spent, and what it scores with.

    Asks nobody: it reads the member's own files, beside a running agent. For the connection itself there is the doctor.
    """
    from ringfence.client.status import next_command, read_status, status_data, status_lines

    now = datetime.now(UTC)
    found = read_status(MemberHome.locate(home), now=now)
    emit(
        "\n".join([*status_lines(found, now=now), f"Next: {next_command(found)}"]),
        data=status_data(found),
        as_json=as_json,
    )
