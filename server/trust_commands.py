"""``ringfence-coordinator trust``: who governs, and who may approve releases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from ringfence.server.members import Member
    from ringfence.server.release_trust import ReleaseTrust

application = new_application("trust", "Decide with the members who may approve releases.")

_SOON = timedelta(days=14)


@application.callback()
def _trust() -> None:
    """Decide with the members who may approve releases."""


@application.command(epilog="Example: ringfence-coordinator trust draft --threshold 2")
def draft(
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", min=1, help="Members that a stable release needs; 2 by default."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Discard an open draft.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draft who governs and who approves: the active members' approval keys. The members must sign it.

    Run it once the first members are admitted, again when one joins or leaves, and to renew what is about to expire.
    """
    trust, located = open_trust(home)
    made = trust.draft_trust(active_members(located), threshold=threshold, replace=replace)
    file = trust.draft_file(made.id)
    emit(
        f"Drafted: {made.purpose}.\n"
        f"Next: send {file} to the members, who run: ringfence approve sign {file.name}\n"
        "      then: ringfence-coordinator trust publish SIGNATURE_FILE...",
        data={"draft": made.id, "file": str(file)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator trust publish trust-2.1a2b3c4d.signature.json")
def publish(
    signatures: Annotated[
        list[Path] | None,
        typer.Argument(help="Signature files that members sent; none if they signed online."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take in the members' signatures, and publish who may approve, once there are enough."""
    trust, located = open_trust(home)
    draft_id = take_signatures(trust, located=located, files=signatures or [], prefix=("trust-",))
    state = trust.publish(draft_id)
    emit(
        f"Published root {state.root.signed.version} and targets {state.targets.signed.version}.\n"
        "Next: ringfence-coordinator run start PLAN",
        data={"root": state.root.signed.version, "targets": state.targets.signed.version},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator trust status --json")
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every role: version, threshold, keys, expiry."""
    trust, _ = open_trust(home)
    roles = trust.status()
    now = datetime.now(UTC)
    for role in roles:
        # The timestamp is renewed by the running service; everything else needs somebody to act.
        if role.role != "timestamp" and role.expires_at - now < _SOON:
            note(f"warning: {role.role} expires on {role.expires_at:%Y-%m-%d}")
    lines = [
        f"{role.role:<10} version {role.version:<4} {role.threshold} of {', '.join(role.keys)};"
        f" expires {role.expires_at:%Y-%m-%d}"
        for role in roles
    ]
    emit(
        "\n".join([*lines, "Next: ringfence-coordinator release list"]),
        data={
            "roles": [
                {
                    "role": role.role,
                    "version": role.version,
                    "threshold": role.threshold,
                    "keys": list(role.keys),
                    "expires_at": role.expires_at.isoformat(),
                }
                for role in roles
            ]
        },
        as_json=as_json,
    )


def open_trust(home: Path | None) -> tuple[ReleaseTrust, CoordinatorHome]:
    """Return the release repository of a coordinator's folder, and the folder."""
    from ringfence.server.release_trust import ReleaseTrust

    located = CoordinatorHome.locate(home)
    return ReleaseTrust(located, now=lambda: datetime.now(UTC)), located


def active_members(home: CoordinatorHome) -> tuple[Member, ...]:
    """Return the members whose signatures count."""
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.members import ActiveMembers, MemberRegistry

    return ActiveMembers(MemberRegistry(open_database(home))).all()


def take_signatures(
    trust: ReleaseTrust, *, located: CoordinatorHome, files: list[Path], prefix: tuple[str, ...]
) -> str:
    """Add signature files to the open draft of a kind, and return its name.

    Raises:
        NotFoundError: no draft of this kind is open.
        PeerError: a file is for another draft, or a signature in it does not verify. The signer's fault.
    """
    from ringfence.model.drafts import load_signature_file
    from ringfence.model.errors import NotFoundError, PeerError

    found = [summary.id for summary in trust.drafts() if summary.id.startswith(prefix)]
    if not found:
        raise NotFoundError("No such draft is open.", hint="Draft it first.")
    for file in files:
        signed = load_signature_file(file)
        if signed.draft_id != found[0]:
            raise PeerError(
                f"{file} is for another draft, {signed.draft_id}.", hint=f"Have {found[0]} signed."
            )
        trust.accept_signatures(
            signed.draft_id, signatures=signed.signatures, members=active_members(located)
        )
    return found[0]
