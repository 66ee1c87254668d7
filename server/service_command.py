"""``ringfence-coordinator install-service``: the coordinator as a systemd service that may do little else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from ringfence.model.service_unit import ServiceUnit


def install_service(
    user: Annotated[
        str | None, typer.Option("--user", help="The account that it runs as; the folder's owner by default.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The unit file; below /etc/systemd/system by default.")
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the unit and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a unit that differs.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a systemd unit for `serve`: it may write its folder and use the network, and no more."""
    from ringfence.model.service_install import known_user, owner_of, place_unit, require_access
    from ringfence.model.service_unit import unit_text
    from ringfence.server.coordinator_settings import load_coordinator_settings

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    account = known_user(user) if user is not None else owner_of(located.root)
    require_access(
        account,
        folder=located.root,
        files=[
            located.settings_file,
            located.intermediate_file,
            located.server_key_file,
            *sorted(located.keys.rglob("*.key")),  # with those that wait to take another's place
        ],
    )
    place_unit(
        unit_text(coordinator_unit(located, user=account)),
        name=f"ringfence-coordinator-{settings.federation}",
        user=account,
        to=to,
        print_only=print_only,
        force=force,
        following="Next: systemctl daemon-reload && systemctl enable --now {name}\n"
        "      then: systemctl status {name}, and: ringfence-coordinator doctor",
        as_json=as_json,
    )


def coordinator_unit(home: CoordinatorHome, *, user: str) -> ServiceUnit:
    """Return the unit of a coordinator.

    Raises:
        ConfigError: its settings cannot be read. The operator's to mend.
    """
    from ringfence.model.service_install import program_folders, program_path
    from ringfence.model.service_unit import ServiceUnit
    from ringfence.server.coordinator_settings import load_coordinator_settings

    settings = load_coordinator_settings(home)
    secrets = [] if settings.database_url_file is None else [(home.root / settings.database_url_file).parent]
    return ServiceUnit(
        description=f"Ringfence coordinator of {settings.federation}",
        command=[*program_path("ringfence-coordinator"), "serve", "--home", str(home.root)],
        user=user,
        namespaces=(),
        writable=[home.root, *_local_artifacts(settings.artifacts_url)],
        program=program_folders(),
        read_only=[folder for folder in secrets if not folder.is_relative_to(home.root)],
        # It signs intermediates, offline; the service has no use for it.
        hidden=[home.root_key_file],
        after=("postgresql.service",),
    )


def _local_artifacts(url: str | None) -> list[Path]:
    return [Path(url.removeprefix("file://"))] if url is not None and url.startswith("file:///") else []
