"""``ringfence-coordinator keys``: the coordinator's own signing keys, and new ones in their place."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConfigError
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.serve_commands import HomeOption

if TYPE_CHECKING:
    from ringfence.server.key_rotation import OwnKey
    from ringfence.server.signing_keys import KeyName

application = new_application("keys", "Look after the coordinator's own signing keys.")


@application.callback()
def _keys() -> None:
    """Look after the coordinator's own signing keys."""


@application.command("list", epilog="Example: ringfence-coordinator keys list --json")
def list_keys(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the signing keys: what each is for, its fingerprint, where it lies and how old it is. Certificates: ca show."""
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.key_rotation import own_keys

    located = CoordinatorHome.locate(home)
    load_coordinator_settings(located)  # says that nothing is set up there, and what to do
    keys = own_keys(located)
    now = datetime.now(UTC)
    waiting = any(key.waits for key in keys)
    following = "trust draft, so that the members agree on what waits" if waiting else "ca show"
    emit(
        "\n".join([*(_line(key, now=now) for key in keys), f"Next: ringfence-coordinator {following}"]),
        data={"keys": [_data(key) for key in keys]},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator keys rotate snapshot timestamp candidate")
def rotate(
    names: Annotated[
        list[str],
        typer.Argument(help="candidate, snapshot, timestamp; or plan, which takes more of everybody."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Replace the plan key without asking.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make new signing keys in the place of present ones, as once a year, or when they may be in other hands.

    New keys for candidate, snapshot and timestamp wait until the members have signed a root of trust that names them. A new
    plan key holds at once, and every member joins again by a new invitation; until then it refuses every plan.
    """
    from ringfence.server.coordinator_database import open_database
    from ringfence.server.coordinator_settings import load_coordinator_settings
    from ringfence.server.key_rotation import begin_rotation, rotate_plan_key

    located = CoordinatorHome.locate(home)
    settings = load_coordinator_settings(located)
    wanted = _wanted(names)
    database = open_database(located, settings=settings)
    now = datetime.now(UTC)
    if wanted == ("plan",):
        if not yes:
            _confirm()
        done = rotate_plan_key(located, settings=settings, database=database, now=now)
        for member in done.withdrawn:
            note(f"The open invitation of {member} is withdrawn: it pins the key of before.")
        lines = [f"      ringfence-coordinator member invite {member} --again" for member in done.members]
        emit(
            "\n".join(
                [
                    "Plans are signed with a new key. Runs that did not complete are started anew, as others.",
                    "Next: let every member join again; it keeps its keys, its ledger and its history:",
                    *(lines or ["      there is none yet"]),
                ]
            ),
            data={"rotated": ["plan"], "members": list(done.members), "withdrawn": list(done.withdrawn)},
            as_json=as_json,
        )
        return
    begin_rotation(located, names=wanted, database=database, now=now)
    emit(
        f"New keys wait: {', '.join(wanted)}. The present ones sign until the members have agreed.\n"
        "Next: ringfence-coordinator trust draft --replace, which the members sign; then: ringfence-coordinator trust publish",
        data={"rotated": list(wanted), "members": [], "withdrawn": []},
        as_json=as_json,
    )


def _wanted(names: list[str]) -> tuple[KeyName, ...]:
    from ringfence.server.key_rotation import ROTATABLE

    found = tuple(name for name in ROTATABLE if name in names)
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise ConfigError(
            f"{unknown[0]} is no key that can be rotated.",
            hint=f"Choose of {', '.join(ROTATABLE)}. Certificates: ca renew. governance is never enough alone, and stays.",
        )
    if "plan" in found and found != ("plan",):
        raise ConfigError(
            "The plan key is rotated by itself: it takes new invitations, the others take signatures.",
            hint="Run two commands, keys rotate plan apart.",
        )
    return found


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            "Nobody is there to confirm.", hint="Say --yes: every member then has to join again."
        )
    if not typer.confirm("Every member will refuse every plan until it has joined again. Go on?", err=True):
        raise typer.Abort


def _line(key: OwnKey, *, now: datetime) -> str:
    if key.problem:
        return f"{key.name:<10} {key.problem}"
    age = "" if key.made_at is None else f"{(now - key.made_at).days} days old"
    waits = "; waits for trust draft" if key.waits else ""
    return f"{key.name:<10} {key.fingerprint}  {age}{waits}  {key.file}"


def _data(key: OwnKey) -> dict[str, object]:
    return {
        "name": key.name,
        "fingerprint": key.fingerprint,
        "made_at": key.made_at.isoformat() if key.made_at is not None else None,
        "file": str(key.file),
        "waits": key.waits,
        "problem": key.problem,
    }
