"""``ringfence-coordinator member``: who takes part."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from ringfence.server.members import Member

application = new_application("member", "Admit companies, welcome them, suspend them.")

MemberArgument = Annotated[str, typer.Argument(help="A member's identifier.")]


@application.callback()
def _member() -> None:
    """Admit companies, welcome them, suspend them."""


@application.command(epilog="Example: ringfence-coordinator member admit acme.request.json --as acme")
def admit(
    request: Annotated[Path, typer.Argument(help="What the company sent: MEMBER.request.json.")],
    name: Annotated[
        str | None,
        typer.Option("--as", help="The identifier to give; what the company asked for by default."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Certify a company's keys for seven days, under the name that is decided here."""
    from ringfence.model.joining import load_join_request
    from ringfence.server.admission import admit_member
    from ringfence.server.certificate_authority import load_certificate_authority
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.members import MemberRegistry

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    asked = load_join_request(request)
    member = admit_member(
        asked,
        member=name or asked.member,
        authority=load_certificate_authority(located, federation=settings.federation),
        registry=MemberRegistry(open_database(located, settings=settings)),
        now=datetime.now(UTC),
    )
    emit(
        f"{member.id} is a member.\n"
        f"Next: ringfence-coordinator trust draft, once the first members are in; then: member welcome {member.id}",
        data=_data(member),
        as_json=as_json,
    )


@application.command("list", epilog="Example: ringfence-coordinator member list --json")
def list_members(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the members."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.members import MemberRegistry

    members = MemberRegistry(open_database(CoordinatorHome.locate(home))).all()
    lines = [f"{member.id:<24} {member.status}" for member in members] or ["There is no member yet."]
    emit(
        "\n".join([*lines, "Next: ringfence-coordinator member admit REQUEST"]),
        data={"members": [_data(member) for member in members]},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member show acme")
def show(member: MemberArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one member."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.members import MemberRegistry

    found = MemberRegistry(open_database(CoordinatorHome.locate(home))).get(member)
    emit(
        "\n".join([*(f"{key}: {value}" for key, value in _data(found).items()), f"Next: {_next(found)}"]),
        data=_data(found),
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member welcome acme --out acme.welcome.json")
def welcome(
    member: MemberArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write it; MEMBER.welcome.json by default.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the file by which a member connects, and knows what to trust. It holds nothing secret."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.members import MemberRegistry
    from ringfence.server.welcome import compose_welcome

    located = CoordinatorHome.locate(home)
    bundle = compose_welcome(
        located,
        settings=load_coordinator_settings(located),
        member=MemberRegistry(open_database(located)).get(member),
        now=datetime.now(UTC),
    )
    written = out or Path(f"{member}.welcome.json")
    bundle.save(written)
    emit(
        f"The welcome is in {written}.\nNext: send it to {member}, who runs: ringfence identity accept {written.name}",
        data={"member": member, "file": str(written)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member suspend acme")
def suspend(member: MemberArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Refuse a member everywhere from the next call on."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.members import MemberRegistry

    changed = MemberRegistry(open_database(CoordinatorHome.locate(home))).suspend(member)
    emit(
        f"{member} is suspended.\n"
        "Next: ringfence-coordinator trust draft, if its approval key shall no longer count either",
        data=_data(changed),
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member resume acme")
def resume(member: MemberArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Serve a suspended member again."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.members import MemberRegistry

    changed = MemberRegistry(open_database(CoordinatorHome.locate(home))).resume(member)
    emit(
        f"{member} is active.\nNext: ringfence-coordinator member list", data=_data(changed), as_json=as_json
    )


def _data(member: Member) -> dict[str, object]:
    return {
        "id": member.id,
        "status": member.status,
        "spiffe_id": member.spiffe_id,
        "size_class": member.size_class,
        "node_id": member.node_id,
        "admitted_at": member.admitted_at.isoformat(),
    }


def _next(member: Member) -> str:
    action = "suspend" if member.status == "active" else "resume"
    return f"ringfence-coordinator member {action} {member.id}"
