"""``ringfence-coordinator backup`` and ``restore``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ringfence.model.console import JsonOption, emit, note
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption


def backup(
    target: Annotated[Path, typer.Argument(help="The file to write, or the folder to write it in.")],
    home: HomeOption = None,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Put the coordinator's private keys in as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write everything that the coordinator would miss into one file, also while it serves."""
    from ringfence.server.audit_events import AuditEvents
    from ringfence.server.backup import write_backup
    from ringfence.server.coordinator_database import open_artifacts, open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    now = datetime.now(UTC)
    database = open_database(located, settings=settings)
    file = target / f"{settings.federation}-{now:%Y%m%dT%H%M%SZ}.tar" if target.is_dir() else target
    manifest = write_backup(
        file,
        home=located,
        federation=settings.federation,
        database=database,
        artifacts=open_artifacts(located, settings=settings),
        with_keys=with_keys,
        now=lambda: datetime.now(UTC),
    )
    AuditEvents(database).record(
        "backup", subject=settings.federation, now=now, detail="with keys" if with_keys else ""
    )
    if with_keys:
        note(
            f"warning: {file} holds private keys. Who has it can act as this coordinator: keep it encrypted."
        )
    else:
        note(f"note: {file} holds no private keys: keep {located.keys} and {located.pki} by other means.")
    emit(
        f"The backup is in {file}: {len(manifest.files)} files.\n"
        f"Next: bring it to another machine; to try it: ringfence-coordinator restore {file} --home NEW",
        data={"file": str(file), "files": len(manifest.files), "with_keys": with_keys},
        as_json=as_json,
    )


def restore(
    source: Annotated[Path, typer.Argument(help="The backup.")],
    home: HomeOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set aside the coordinator that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a coordinator from a backup; nothing that is there is deleted."""
    from ringfence.server.restore import restore_backup

    located = CoordinatorHome.locate(home)
    done = restore_backup(source, home=located, replace=replace, now=datetime.now(UTC))
    made_at = done.manifest.made_at
    note(f"warning: whatever happened after {made_at:%Y-%m-%d %H:%M} UTC is forgotten here. Look through:")
    note("  members: who was suspended since is active again, who joined since must be invited again")
    note(f"  invitations: the {done.cancelled_invitations} that were open are cancelled; invite again")
    note("  runs: they go on from their last round here; one whose members refuse has to be started anew")
    note("  releases: what was published since must be published again before members follow")
    for key in done.missing_keys:
        note(
            f"warning: {key} is missing, or another than at the time of the backup. Bring it back before you serve."
        )
    aside = f"\nWhat was there is in {done.set_aside}." if done.set_aside else ""
    emit(
        f"{located.root} is the coordinator of {made_at:%Y-%m-%d %H:%M} UTC.{aside}\n"
        "Next: ringfence-coordinator member list, then: ringfence-coordinator serve",
        data={
            "home": str(located.root),
            "made_at": made_at.isoformat(),
            "set_aside": str(done.set_aside) if done.set_aside else None,
            "missing_keys": list(done.missing_keys),
            "cancelled_invitations": done.cancelled_invitations,
        },
        as_json=as_json,
    )
