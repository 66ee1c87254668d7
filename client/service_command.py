"""``ringfence agent install-service``: the agent as a systemd service that may do little else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption

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
    home: Annotated[
        Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a systemd unit for this member's agent: it may write its folder, read its data, reach the network, and no more."""
    from ringfence.client.member_settings import load_member_settings
    from ringfence.model.service_install import known_user, owner_of, place_unit, require_access
    from ringfence.model.service_unit import unit_text

    located = MemberHome.locate(home)
    settings = load_member_settings(located)
    account = known_user(user) if user is not None else owner_of(located.root)
    require_access(
        account, folder=located.root, files=[located.settings_file, located.policy_file, located.key_file]
    )
    place_unit(
        unit_text(agent_unit(located, user=account)),
        name=f"ringfence-agent-{settings.member}",
        user=account,
        to=to,
        print_only=print_only,
        force=force,
        following="Next: systemctl daemon-reload && systemctl enable --now {name}\n"
        "      then: systemctl status {name}, and: ringfence status",
        as_json=as_json,
    )


def agent_unit(home: MemberHome, *, user: str) -> ServiceUnit:
    """Return the unit of a member's agent.

    Raises:
        ConfigError: the member's settings or policy cannot be read. The operator's to mend.
    """
    from ringfence.client.member_settings import load_member_settings
    from ringfence.client.policy import load_policy
    from ringfence.client.source_files import local_folders
    from ringfence.model.service_install import program_folders, program_path
    from ringfence.model.service_unit import ServiceUnit

    settings = load_member_settings(home)
    anchor = load_policy(home).anchor_file(home).parent
    data = local_folders(home, settings.data)
    return ServiceUnit(
        description=f"Ringfence agent of {settings.member} in {settings.federation}",
        command=[*program_path("ringfence"), "agent", "run", "--home", str(home.root)],
        user=user,
        # The worker that trains cuts itself off from the network, which takes a namespace of its own.
        namespaces=("user", "net"),
        writable=[home.root, *([] if anchor.is_relative_to(home.root) else [anchor])],
        program=program_folders(),
        read_only=sorted(folder for folder in data if not folder.is_relative_to(home.root)),
        # It belongs to a person, who countersigns releases with it.
        hidden=[home.approval],
    )
