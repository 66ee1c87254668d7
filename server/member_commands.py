"""``ringfence-coordinator member``: who takes part."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConfigError
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from pathlib import Path

    from ringfence.server.enrolment import Enrolment
    from ringfence.server.invitations import KeptInvitation
    from ringfence.server.members import Member
    from ringfence.server.membership import Membership

application = new_application("member", "Invite companies, approve, suspend and remove them.")

MemberArgument = Annotated[str, typer.Argument(help="A member's identifier.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, for the record here; the member is not told.")
]

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@application.callback()
def _member() -> None:
    """Invite companies, approve, suspend and remove them."""


@application.command(epilog="Example: ringfence-coordinator member invite acme --expires 72h")
def invite(
    member: Annotated[str, typer.Argument(help="The identifier that the company gets, such as acme.")],
    expires: Annotated[
        str, typer.Option("--expires", help="How long it can be used: 30m, 72h, 7d; up to 30d.")
    ] = "72h",
    require_approval: Annotated[
        bool, typer.Option("--require-approval", help="Certify nothing before: member approve NAME.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="For a member that needs a new certificate; it keeps its history."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an invitation: one line, good once. Who holds it joins under this name, so send it where only they read it."""
    from pydantic import TypeAdapter, ValidationError

    from ringfence.model.plan import Name
    from ringfence.server.enrolment import is_awaiting

    try:
        name = TypeAdapter(Name).validate_python(member)
    except ValidationError as error:
        raise ConfigError(
            f"{member!r} cannot be an identifier.",
            hint="Use small letters, digits and . _ - only, beginning with a letter or digit.",
        ) from error
    enrolment = _enrolment(home)
    now = datetime.now(UTC)
    earlier = [found for found in enrolment.invitations.pending(name) if is_awaiting(found, now=now)]
    made = enrolment.invite(
        name, valid_for=_duration(expires), require_approval=require_approval, again=again
    )
    for found in earlier:
        note(
            f"The earlier invitation of {name} is withdrawn: it {_invitation_line(found)}, and holds no more."
        )
    emit(
        f"{made.text()}\n"
        f"It is good once, for {expires}. Next: send it to the company, which runs: ringfence join INVITATION"
        + (f"\n      then: ringfence-coordinator member approve {name}" if require_approval else ""),
        data={
            "member": name,
            "invitation": made.text(),
            "id": made.id,
            "address": made.address,
            "expires": expires,
            "require_approval": require_approval,
            "withdrawn": [found.id for found in earlier],
        },
        as_json=as_json,
    )


@application.command("list", epilog="Example: ringfence-coordinator member list --json")
def list_members(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the members, and the invitations that may still be used."""
    from ringfence.server.enrolment import is_awaiting

    enrolment = _enrolment(home)
    members = enrolment.members.all()
    now = datetime.now(UTC)
    invited = [found for found in enrolment.invitations.all() if is_awaiting(found, now=now)]
    lines = [f"{member.id:<24} {member.status}" for member in members]
    lines += [f"{found.member:<24} {_invitation_line(found)}" for found in invited]
    waiting = next((found.member for found in invited if found.state == "waiting"), None)
    following = f"approve {waiting}" if waiting else "invite NAME"
    emit(
        "\n".join(
            [*(lines or ["There is no member yet."]), f"Next: ringfence-coordinator member {following}"]
        ),
        data={
            "members": [_data(member) for member in members],
            "invitations": [_invitation_data(found) for found in invited],
        },
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member show acme")
def show(member: MemberArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one member, or who waits to become it."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.denials import Denials
    from ringfence.server.enrolment import is_awaiting

    enrolment = _enrolment(home)
    now = datetime.now(UTC)
    invited = [found for found in enrolment.invitations.pending(member) if is_awaiting(found, now=now)]
    found = enrolment.members.find(member)
    if found is None and not invited:
        enrolment.members.get(member)  # says that there is none, and what to do
    data: dict[str, object] = _data(found) if found is not None else {"id": member, "status": "invited"}
    denial = Denials(open_database(CoordinatorHome.locate(home))).present(member)
    if found is not None and found.status != "active" and denial is not None:
        data |= {"since": denial.denied_at.isoformat(), "reason": denial.reason}
    lines = [f"{key}: {value}" for key, value in data.items()]
    lines += [_invitation_line(waiting) for waiting in invited]
    emit(
        "\n".join([*lines, f"Next: {_next(member, found, invited)}"]),
        data={**data, "invitations": [_invitation_data(waiting) for waiting in invited]},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member approve acme")
def approve(member: MemberArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let in who waits under a name. Compare the key with what they read to you first: member show NAME."""
    admitted = _enrolment(home).approve(member)
    emit(
        f"{member} is a member.\nNext: ringfence-coordinator member list",
        data=_data(admitted),
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member suspend acme --reason 'asked for a pause'")
def suspend(
    member: MemberArgument, reason: ReasonOption = "", home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Refuse a member everywhere from the next call on, for now."""
    changed = _membership(home).suspend(member, reason=reason)
    emit(
        f"{member} is suspended.\n"
        "Next: ringfence-coordinator trust draft, if its approval key shall no longer count either",
        data=_data(changed),
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator member resume acme")
def resume(member: MemberArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Serve a suspended member again."""
    changed = _membership(home).resume(member)
    emit(
        f"{member} is active.\nNext: ringfence-coordinator member list", data=_data(changed), as_json=as_json
    )


@application.command(epilog="Example: ringfence-coordinator member remove acme --reason 'contract ended'")
def remove(
    member: MemberArgument, reason: ReasonOption = "", home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Refuse a member everywhere for good. What it did stays on record, and nobody else gets its name."""
    changed = _membership(home).remove(member, reason=reason)
    emit(
        f"{member} is removed.\nNext: ringfence-coordinator trust draft, so that its approval key no longer counts",
        data=_data(changed),
        as_json=as_json,
    )


def _enrolment(home: Path | None) -> Enrolment:
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.enrolment import Enrolment

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    return Enrolment(
        located,
        settings=settings,
        database=open_database(located, settings=settings),
        now=lambda: datetime.now(UTC),
    )


def _membership(home: Path | None) -> Membership:
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.membership import Membership

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    return Membership(
        located,
        federation=settings.federation,
        database=open_database(located, settings=settings),
        now=lambda: datetime.now(UTC),
    )


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if found is None:
        raise ConfigError(f"{text!r} is not a length of time.", hint="Write it like 30m, 72h or 7d.")
    return int(found[1]) * _UNITS[found[2]]


def _data(member: Member) -> dict[str, object]:
    from cryptography import x509

    from ringfence.model.key_files import key_fingerprint

    certificate = x509.load_pem_x509_certificate(member.certificate.encode())
    return {
        "id": member.id,
        "status": member.status,
        "spiffe_id": member.spiffe_id,
        "size_class": member.size_class,
        "node_id": member.node_id,
        "key": key_fingerprint(member.certificate_public_key),
        "certificate_expires_at": certificate.not_valid_after_utc.isoformat(),
        "admitted_at": member.admitted_at.isoformat(),
    }


def _invitation_line(found: KeptInvitation) -> str:
    until = f"{found.expires_at:%Y-%m-%d %H:%M} UTC"
    if found.state == "waiting":
        return f"waits for approval with the key {_request_key(found)}, until {until}"
    return f"is invited until {until}"


def _invitation_data(found: KeptInvitation) -> dict[str, object]:
    return {
        "id": found.id,
        "member": found.member,
        "state": found.state,
        "again": found.again,
        "expires_at": found.expires_at.isoformat(),
        "key": _request_key(found) if found.state == "waiting" else None,
    }


def _request_key(found: KeptInvitation) -> str:
    from ringfence.model.key_files import key_fingerprint, public_pem
    from ringfence.server.certificate_authority import key_of_request

    csr = found.request.csr if found.request is not None else ""
    return key_fingerprint(public_pem(key_of_request(csr.encode())))


def _next(name: str, member: Member | None, invited: list[KeptInvitation]) -> str:
    if any(found.state == "waiting" for found in invited):
        return f"ringfence-coordinator member approve {name}"
    if member is None:
        return "wait until the company has joined"
    if member.status == "active":
        return "ringfence-coordinator run start PLAN"
    return f"ringfence-coordinator member {'resume' if member.status == 'suspended' else 'invite'} {name}" + (
        " --again" if member.status == "removed" else ""
    )
