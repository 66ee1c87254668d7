"""``ringfence identity``: who this member is, and a new certificate for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application

application = new_application("identity", "Show who this member is; renew its certificate.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]


@application.callback()
def _identity() -> None:
    """Show who this member is; renew its certificate."""


@application.command(epilog="Example: ringfence identity renew")
def renew(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Fetch a new certificate for this member's key. A running agent does this by itself."""
    from ringfence.client.identity_client import renew_identity

    renewed = renew_identity(MemberHome.locate(home), now=datetime.now(UTC))
    emit(
        f"The certificate holds until {renewed.expires_at:%Y-%m-%d %H:%M} UTC.\nNext: ringfence agent run",
        data={"member": renewed.identity.member, "expires_at": renewed.expires_at.isoformat()},
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
