"""``ringfence-coordinator release candidate``: from a completed run to something that members can evaluate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ringfence.model.console import JsonOption, emit
from ringfence.server.serve_commands import HomeOption


def candidate(
    run: Annotated[str, typer.Argument(help="Name of a completed run.")],
    version: Annotated[str, typer.Option("--version", help="The version that it shall have once stable.")],
    number: Annotated[int, typer.Option("--rc", min=1, help="Number of the candidate for that version.")] = 1,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the release of a completed run, check it, and publish it for members to evaluate."""
    from ringfence.server.candidate import build_candidate
    from ringfence.server.run_store import RunStore
    from ringfence.server.trust_commands import open_trust

    trust, located = open_trust(home)
    name = f"{version}-rc.{number}"
    folder = build_candidate(
        RunStore.of(located).open(run), version=version, home=located, now=datetime.now(UTC)
    )
    trust.publish_candidate(folder, version=name)
    emit(
        f"Candidate {name} is published; its files are in {folder}.\n"
        f"Next: the members look at it: ringfence model pull --channel candidate\n"
        f"      then: ringfence-coordinator release draft {version} --candidate {name}",
        data={"candidate": name, "folder": str(folder)},
        as_json=as_json,
    )
