"""``ringfence identity``: make this company's keys, accept the coordinator's welcome."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application

application = new_application("identity", "Make this company's keys, and join a federation.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]


@application.callback()
def _identity() -> None:
    """Make this company's keys, and join a federation."""


@application.command(epilog="Example: ringfence identity create acme")
def create(
    member: Annotated[str, typer.Argument(help="The identifier that the company would like, such as acme.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the request; MEMBER.request.json by default.")
    ] = None,
    size_class: Annotated[
        int,
        typer.Option("--size-class", help="Power of two near the number of conversations; becomes public."),
    ] = 256,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the keys, and write the request for the coordinator. The keys never leave this machine."""
    from ringfence.client.identity import create_identity

    located = MemberHome.locate(home)
    request_file = out or Path(f"{member}.request.json")
    create_identity(located, member=member, request_file=request_file, size_class=size_class)
    emit(
        f"Keys are in {located.root}, the request in {request_file}.\n"
        "Next: send the request to the coordinator, and accept its answer: ringfence identity accept FILE",
        data={"home": str(located.root), "request": str(request_file)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence identity accept acme.welcome.json")
def accept(
    welcome: Annotated[Path, typer.Argument(help="The coordinator's answer.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the coordinator's welcome and install it: certificate, root of trust, settings."""
    from ringfence.client.identity import accept_welcome
    from ringfence.model.joining import load_welcome_bundle

    located = MemberHome.locate(home)
    settings = accept_welcome(located, welcome=load_welcome_bundle(welcome), now=datetime.now(UTC))
    emit(
        f"This is {settings.member} of {settings.federation}.\n"
        f"What it agrees to stands in {located.policy_file}; see: ringfence policy show\n"
        f"Next: name the data in {located.settings_file}, then: ringfence data check",
        data={"member": settings.member, "federation": settings.federation, "home": str(located.root)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence identity show --json")
def show(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show who this member is, and until when its certificate holds."""
    from ringfence.client.identity import read_identity

    found = read_identity(MemberHome.locate(home))
    held = "expired on" if found.expires_at <= datetime.now(UTC) else "holds until"
    emit(
        f"{found.identity.spiffe_id}\nThe certificate {held} {found.expires_at:%Y-%m-%d %H:%M} UTC.\n"
        "Next: ringfence model pull",
        data={
            "spiffe_id": found.identity.spiffe_id,
            "member": found.identity.member,
            "federation": found.identity.federation,
            "expires_at": found.expires_at.isoformat(),
        },
        as_json=as_json,
    )
