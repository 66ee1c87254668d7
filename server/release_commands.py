"""``ringfence-coordinator release``: publish what members countersigned; withdraw what must go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ringfence.model.console import JsonOption, emit, new_application
from ringfence.server.serve_commands import HomeOption
from ringfence.server.trust_commands import open_trust, take_signatures

application = new_application("release", "Publish releases that members countersigned.")

ReplaceOption = Annotated[bool, typer.Option("--replace", help="Discard an open draft.")]


@application.callback()
def _release() -> None:
    """Publish releases that members countersigned."""


@application.command(epilog="Example: ringfence-coordinator release draft 0.2.0 --candidate 0.2.0-rc.1")
def draft(
    version: Annotated[str, typer.Argument(help="The version to publish, such as 0.2.0.")],
    folder: Annotated[Path | None, typer.Option("--folder", help="Folder of the release.")] = None,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", help="Take the files of a published candidate, such as 0.2.0-rc.1."),
    ] = None,
    replace: ReplaceOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draft a stable release for the members to countersign."""
    from ringfence.model.errors import ConfigError

    source: Path | str | None = folder or candidate
    if source is None or (folder and candidate):
        raise ConfigError(
            "A release comes from a folder or from a candidate.",
            hint="Give --candidate VERSION or --folder FOLDER.",
        )
    trust, _ = open_trust(home)
    made = trust.draft_release(source, version=version, replace=replace)
    emit(
        f"Drafted: {made.purpose}. {', '.join(trust.approvers())} may sign.\n"
        f"Next: the members run: ringfence approve sign {made.id}\n"
        "      then: ringfence-coordinator release publish",
        data={"draft": made.id, "file": str(trust.draft_file(made.id))},
        as_json=as_json,
    )


@application.command(
    epilog="Example: ringfence-coordinator release publish release-0.2.0.1a2b3c4d.signature.json"
)
def publish(
    signatures: Annotated[
        list[Path] | None,
        typer.Argument(help="Signature files that members sent; none if they signed online."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish the drafted release or withdrawal, once enough members signed."""
    trust, located = open_trust(home)
    draft_id = take_signatures(trust, located=located, files=signatures or [], prefix=("release-", "yank-"))
    state = trust.publish(draft_id)
    emit(
        f"Published {draft_id}.\nNext: the members run: ringfence model pull",
        data={"draft": draft_id, "stable": state.stable.signed.version},
        as_json=as_json,
    )


@application.command(
    epilog='Example: ringfence-coordinator release yank 0.2.0 --reason "calibration was wrong"'
)
def yank(
    version: Annotated[str, typer.Argument(help="The stable release to withdraw.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, in one line; every member reads it.")],
    replace: ReplaceOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draft the withdrawal of a release. It takes the members' signatures, as the release did."""
    trust, _ = open_trust(home)
    made = trust.draft_yank(version, reason=reason, replace=replace)
    emit(
        f"Drafted: {made.purpose}.\nNext: the members run: ringfence approve sign {made.id}\n"
        "      then: ringfence-coordinator release publish",
        data={"draft": made.id, "file": str(trust.draft_file(made.id))},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence-coordinator release status --json")
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the open draft, and whose signatures it awaits."""
    trust, _ = open_trust(home)
    drafts = trust.drafts()
    lines = []
    for made in drafts:
        lines.append(f"{made.id}: {made.purpose}")
        for role in made.roles:
            signed = ", ".join(role.signed_by) or "nobody"
            awaited = ", ".join(role.awaited_from) or "nobody"
            lines.append(
                f"  {role.role}: {len(role.signed_by)} of {role.threshold} ({signed}); may still sign: {awaited}"
            )
    following = "release publish" if any(made.is_complete for made in drafts) else "release list"
    emit(
        "\n".join([*(lines or ["No draft is open."]), f"Next: ringfence-coordinator {following}"]),
        data={"drafts": [{**asdict(made), "complete": made.is_complete} for made in drafts]},
        as_json=as_json,
    )


@application.command("list", epilog="Example: ringfence-coordinator release list --json")
def list_releases(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List what is published."""
    from ringfence.model.versions import CHANNELS

    trust, _ = open_trust(home)
    found = [(channel, release) for channel in CHANNELS for release in trust.releases(channel)]
    lines = [
        f"{release.version!s:<16} {channel:<10} {f'withdrawn: {release.reason}' if release.yanked else 'published'}"
        for channel, release in found
    ]
    emit(
        "\n".join([*(lines or ["Nothing is published yet."]), "Next: ringfence-coordinator release status"]),
        data={
            "releases": [
                {
                    "channel": channel,
                    "version": str(release.version),
                    "yanked": release.yanked,
                    "reason": release.reason,
                }
                for channel, release in found
            ]
        },
        as_json=as_json,
    )
