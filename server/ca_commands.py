"""``ringfence-coordinator ca``: the root that lies offline, and the intermediate that signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from cryptography import x509

application = new_application("ca", "Look after the certificate authority.")

SOON = timedelta(days=45)


@application.callback()
def _ca() -> None:
    """Look after the certificate authority."""


@application.command()
def show(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show until when root, intermediate and listeners' certificate hold, and whether the root's key lies here.

    Example: ringfence-coordinator ca show
    """
    from cryptography import x509

    from ringfence.server.certificate_authority import load_certificate_authority
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.root_authority import load_root

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    shown = {
        "root": load_root(located),
        "intermediate": load_certificate_authority(located, federation=settings.federation).certificate,
        "listeners": x509.load_pem_x509_certificate(located.server_certificate_file.read_bytes()),
    }
    now = datetime.now(UTC)
    if located.root_key_file.exists():
        note(f"warning: the root's key still lies in {located.root_key_file}. Move it offline.")
    if shown["intermediate"].not_valid_after_utc - now < SOON:
        note("warning: the intermediate ends soon. Bring the root's key back for: ca renew --root-key FILE")
    emit(
        "\n".join(
            [
                *(f"{name:<13} until {_day(found)}  {_fingerprint(found)}" for name, found in shown.items()),
                "Next: ringfence-coordinator ca renew --root-key FILE, once a year",
            ]
        ),
        data={
            "root_key_is_here": located.root_key_file.exists(),
            **{
                name: {
                    "expires_at": found.not_valid_after_utc.isoformat(),
                    "sha256": _fingerprint(found),
                }
                for name, found in shown.items()
            },
        },
        as_json=as_json,
    )


@application.command()
def renew(
    root_key: Annotated[
        Path, typer.Option("--root-key", help="The root's key, brought back from where it is kept.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new intermediate with the root's key: once a year, or at once if the present one may be in other hands.

    Example: ringfence-coordinator ca renew --root-key /media/usb/root.key
    """
    from ringfence.server.certificate_authority import renew_certificate_authority, write_server_certificate
    from ringfence.server.coordinator_settings import load_coordinator_settings

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    now = datetime.now(UTC)
    authority = renew_certificate_authority(
        located, federation=settings.federation, root_key=root_key, now=now
    )
    write_server_certificate(located, authority=authority, names=settings.certified_names, now=now)
    emit(
        f"A new intermediate signs until {_day(authority.certificate)}; what the old one signed holds until it ends.\n"
        "Next: take the root's key offline again. Members need nothing: they pinned the root.",
        data={"expires_at": authority.certificate.not_valid_after_utc.isoformat()},
        as_json=as_json,
    )


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _fingerprint(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()
