"""``ringfence-coordinator``: invite members, launch training, publish releases."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application, run_application
from ringfence.server import (
    audit_commands,
    backup_commands,
    ca_commands,
    candidate_command,
    control_plane_commands,
    database_commands,
    doctor_command,
    keys_commands,
    member_commands,
    plan_commands,
    release_commands,
    run_commands,
    serve_commands,
    service_command,
    trust_commands,
)
from ringfence.server.coordinator_home import CoordinatorHome

application = new_application(
    "ringfence-coordinator", "Coordinate a federation: admit members, launch training runs, publish releases."
)
release_commands.application.command(
    epilog="Example: ringfence-coordinator release candidate grooming-risk-1 --version 0.2.0"
)(candidate_command.candidate)
for _group in (
    member_commands,
    ca_commands,
    keys_commands,
    trust_commands,
    plan_commands,
    run_commands,
    release_commands,
    database_commands,
):
    application.add_typer(_group.application)
application.command(epilog="Example: ringfence-coordinator serve --home /srv/ringfence")(serve_commands.serve)
application.command(epilog="Example: ringfence-coordinator serve-fleet --home /srv/ringfence")(
    serve_commands.serve_fleet
)
application.command(epilog="Example: ringfence-coordinator serve-releases --home /srv/ringfence")(
    control_plane_commands.serve_releases
)
application.command(epilog="Example: ringfence-coordinator audit --last 20")(audit_commands.audit)
application.command(epilog="Example: ringfence-coordinator backup /srv/backups")(backup_commands.backup)
application.command(epilog="Example: ringfence-coordinator restore my-federation-20260301T120000Z.tar")(
    backup_commands.restore
)
application.command(
    "install-service", epilog="Example: ringfence-coordinator install-service --user ringfence"
)(service_command.install_service)


application.command(epilog="Example: ringfence-coordinator doctor --json")(doctor_command.doctor)


@application.command(epilog="Example: ringfence-coordinator init my-federation --server-name fl.example.org")
def init(
    federation: Annotated[str, typer.Argument(help="Identifier of the federation; never changes.")],
    home: serve_commands.HomeOption = None,
    demonstration: Annotated[
        bool, typer.Option("--demonstration", help="A federation on invented or public data.")
    ] = False,
    fleet_address: Annotated[
        str, typer.Option("--fleet-address", help="host:port for training.")
    ] = "127.0.0.1:8443",
    release_address: Annotated[
        str, typer.Option("--release-address", help="host:port for releases.")
    ] = "127.0.0.1:9443",
    enrolment_address: Annotated[
        str, typer.Option("--enrolment-address", help="host:port for companies that join.")
    ] = "127.0.0.1:9444",
    server_name: Annotated[
        list[str] | None,
        typer.Option("--server-name", help="DNS name or IP address in the listeners' certificate."),
    ] = None,
    fleet_public_address: Annotated[
        str | None,
        typer.Option("--fleet-public-address", help="host:port that members are given, if it is another."),
    ] = None,
    release_public_address: Annotated[
        str | None,
        typer.Option("--release-public-address", help="host:port that members are given, if it is another."),
    ] = None,
    enrolment_public_address: Annotated[
        str | None,
        typer.Option("--enrolment-public-address", help="host:port that invitations name, if it is another."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set up a coordinator: certificate authority, signing keys, settings.

    Members are given the addresses on which it listens; the first --server-name instead of 0.0.0.0.
    """
    from pydantic import ValidationError

    from ringfence.model.errors import ConfigError
    from ringfence.model.plan import describe
    from ringfence.server.coordinator_settings import CoordinatorSettings, require_reachable
    from ringfence.server.initialisation import initialise_coordinator

    located = CoordinatorHome.locate(home)
    try:
        settings = CoordinatorSettings(
            federation=federation,
            demonstration=demonstration,
            fleet_address=fleet_address,
            release_address=release_address,
            enrolment_address=enrolment_address,
            fleet_public_address=fleet_public_address,
            release_public_address=release_public_address,
            enrolment_public_address=enrolment_public_address,
            server_names=tuple(server_name or ("localhost", "127.0.0.1")),
        )
    except ValidationError as error:
        raise ConfigError(
            f"These settings are not valid: {describe(error)}", hint="Correct the named ones."
        ) from error
    require_reachable(settings)
    initialise_coordinator(located, settings=settings, now=datetime.now(UTC))
    emit(
        f"{located.root} is set up for {federation}.\n"
        f"The key of the root of all certificates is {located.root_key_file}. Move it to a medium that is kept offline, and\n"
        "copy it to a second one: it is needed once a year (ringfence-coordinator ca renew), and to recover from a break-in.\n"
        "Next: ringfence-coordinator serve, and: ringfence-coordinator member invite NAME",
        data={
            "home": str(located.root),
            "federation": federation,
            "root_key_file": str(located.root_key_file),
        },
        as_json=as_json,
    )


def main() -> None:
    """Run the command line."""
    sys.exit(run_application(application))


if __name__ == "__main__":
    main()
