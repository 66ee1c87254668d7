"""``ringfence join`` and ``ringfence leave``: one pasted string in, one word out."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, note
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from ringfence.model.diagnosis import Finding
    from ringfence.model.joining import JoinRequest

_CHECKED_WITHIN_S = 5.0
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]


def join(
    invitation: Annotated[
        str, typer.Argument(help="The line that the coordinator sent, or - to read it from standard input.")
    ],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="A JSONL file of conversations; may be given again.")
    ] = None,
    size_class: Annotated[
        int | None,
        typer.Option(
            "--size-class",
            help="Power of two near the number of conversations; becomes public. By default from the data, else 256.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", min=0, help="Seconds to wait for approval, where the coordinator asks for it."
        ),
    ] = 600.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join a federation with an invitation. Keys are made here and never leave; no file has to be edited.

    Ends with what `ringfence doctor` finds; a warning or a failure there does not undo the joining.
    """
    from ringfence.client.enrolment import join as join_federation
    from ringfence.client.identity import DEFAULT_SIZE_CLASS, read_identity
    from ringfence.model.invitation import parse_invitation

    located = MemberHome.locate(home)
    parsed = parse_invitation(sys.stdin.read(1000) if invitation == "-" else invitation)
    files = _checked(data or [])
    joined = join_federation(
        located,
        invitation=parsed,
        now=lambda: datetime.now(UTC),
        size_class=size_class or _size_class(files) or DEFAULT_SIZE_CLASS,
        files=[str(file) for file in files],
        wait_s=wait,
        on_awaited=_tell_fingerprint,
    )
    settings = joined.settings
    if size_class is not None and size_class != settings.size_class:
        note(
            f"The size class stays {settings.size_class}: it was asked for with this invitation before."
            " Another one takes a new invitation."
        )
    findings = _diagnosed(located)
    until = read_identity(located).expires_at
    steps = [
        f"This is {settings.member} of {settings.federation}, in {located.root}.",
        f"What it agrees to stands in {located.policy_file}; see: ringfence policy show",
    ]
    if not settings.data.is_named:
        steps.append(f"Name the conversations under [data] in {located.settings_file}.")
    if joined.is_founding:
        steps.append(
            "The founding members agree on who approves releases: ringfence approve list, once asked."
        )
    emit(
        "\n".join([*steps, "Next: ringfence data check, then: ringfence agent run"]),
        data={
            "member": settings.member,
            "federation": settings.federation,
            "home": str(located.root),
            "certificate_expires_at": until.isoformat(),
            "size_class": settings.size_class,
            "founding": joined.is_founding,
            "findings": [asdict(finding) for finding in findings],
        },
        as_json=as_json,
    )


def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Leave without asking.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave the federation: the coordinator serves this member no more. Its ledger, audit log and releases stay here."""
    from ringfence.client.coordinator_connection import open_release_channel
    from ringfence.client.departures import record_departure
    from ringfence.client.identity_client import IdentityClient
    from ringfence.client.identity_expiry import require_valid
    from ringfence.client.member_settings import load_member_settings

    located = MemberHome.locate(home)
    member = require_valid(located, now=datetime.now(UTC)).identity
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("Nobody is there to confirm.", hint="Say --yes to leave without asking.")
        if not typer.confirm(f"End the membership of {member.member} in {member.federation}?", err=True):
            raise typer.Abort
    record_departure(located, kind="leave", destination=load_member_settings(located).release_address)
    with open_release_channel(located) as channel:
        IdentityClient(channel).leave()
    # The keys stay: should the company come back, it is the same one.
    located.certificate_file.unlink(missing_ok=True)
    emit(
        f"{member.member} has left {member.federation}. Keys, budget ledger, audit log and releases are still in {located.root}.\n"
        "Next: stop the agent, if it runs. To come back: ask for a new invitation, then: ringfence join INVITATION",
        data={"member": member.member, "federation": member.federation, "home": str(located.root)},
        as_json=as_json,
    )


def _diagnosed(home: MemberHome) -> list[Finding]:
    """Run the doctor's checks, print what does not pass, and return it. Nothing of it undoes the joining."""
    from ringfence.client.doctor_command import diagnose
    from ringfence.model.diagnosis import diagnosis_text

    try:
        found = diagnose(home, timeout_s=_CHECKED_WITHIN_S, now=datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - the company is a member, whatever a check stumbles over
        note(f"The checks broke off ({type(error).__name__}). Run them again: ringfence doctor")
        return []
    # That no agent runs yet is what the next command is for.
    findings = [finding for finding in found if finding.level != "PASS" and finding.check != "agent"]
    if findings:
        note(diagnosis_text(findings))
    return findings


def _tell_fingerprint(request: JoinRequest) -> None:
    from cryptography import x509

    from ringfence.model.key_files import key_fingerprint, public_pem

    key = x509.load_pem_x509_csr(request.csr.encode()).public_key()
    note(
        f"Somebody at the coordinator has to approve. Read them this key: {key_fingerprint(public_pem(key))}"
    )


def _checked(files: list[Path]) -> list[Path]:
    found = []
    for file in files:
        path = file.expanduser().absolute()
        try:
            with path.open("rb"):
                found.append(path)
        except OSError as error:
            raise ConfigError(f"Cannot read {path}: {error.strerror}", hint="Correct --data.") from error
    return found


def _size_class(files: list[Path]) -> int | None:
    """Return the power of two nearest to the number of the files' conversations, or None without any."""
    from ringfence.privacy.training import nearest_size_class

    count = 0
    for file in files:
        with file.open("rb") as lines:
            count += sum(1 for line in lines if line.strip())
    return nearest_size_class(count) if count else None
