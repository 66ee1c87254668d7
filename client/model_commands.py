"""``ringfence model``: pull releases, verify them, take one into use."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.calibrate_command import calibrate
from ringfence.client.evaluate_command import evaluate
from ringfence.client.member_home import MemberHome
from ringfence.client.personalise_command import personalise
from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from ringfence.client.releases import ListedRelease, ReleaseStore
    from ringfence.model.versions import Channel

application = new_application("model", "Pull releases of the detector, verify them, take one into use.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]


application.command(epilog="Example: ringfence model evaluate labelled.jsonl --capacity 0.05")(evaluate)
application.command(epilog="Example: ringfence model calibrate labelled.jsonl")(calibrate)
application.command(epilog="Example: ringfence model personalise --epsilon 1")(personalise)


@application.callback()
def _model() -> None:
    """Pull releases of the detector, verify them, take one into use."""


@application.command(epilog="Example: ringfence model pull --use")
def pull(
    channel: Annotated[
        str, typer.Option("--channel", help="stable: countersigned by members; candidate: for evaluation.")
    ] = "stable",
    version: Annotated[
        str, typer.Option("--version", help="A version, or latest: the highest that was not withdrawn.")
    ] = "latest",
    use_it: Annotated[bool, typer.Option("--use", help="Take it into use at once.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download a release and verify every file against what the members signed."""
    store = _store(home)
    before = store.in_use()
    installed = store.pull(_channel(channel), version)
    if use_it:
        store.use(installed.version)
    in_use = store.in_use()
    _warn_if_withdrawn(store, version=before)
    following = (
        "ringfence score FILE" if in_use == installed.version else f"ringfence model use {installed.version}"
    )
    emit(
        f"Release {installed.version} is verified and lies in {installed.folder}.\nNext: {following}",
        data={
            "version": installed.version,
            "channel": installed.channel,
            "folder": str(installed.folder),
            "in_use": in_use,
        },
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence model verify 0.1.0")
def verify(
    version: Annotated[str | None, typer.Argument(help="A version; the one in use by default.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file of an installed release against the signed metadata. Needs no connection."""
    store = _store(home)
    chosen = version or store.current().resolve().name
    installed = store.verify(chosen)
    _warn_if_withdrawn(store, version=chosen)
    emit(
        f"Release {installed.version} is what was signed, file by file.\nNext: ringfence model show {installed.version}",
        data={"version": installed.version, "folder": str(installed.folder), "verified": True},
        as_json=as_json,
    )


@application.command("list", epilog="Example: ringfence model list --json")
def list_releases(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the releases that are installed here or that the stored, signed metadata names."""
    releases = _store(home).list()
    lines = [_row(release) for release in releases] or ["No release is known here yet."]
    emit(
        "\n".join([*lines, "Next: ringfence model pull"]),
        data={"releases": [asdict(release) for release in releases]},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence model use 0.1.0")
def use(
    version: Annotated[str, typer.Argument(help="An installed version.")],
    allow_candidate: Annotated[
        bool, typer.Option("--allow-candidate", help="Take a release that only the coordinator vouches for.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify an installed release, and score with it from now on. `ringfence model rollback` goes back."""
    installed = _store(home).use(version, allow_candidate=allow_candidate)
    emit(
        f"Release {installed.version} is in use.\nNext: ringfence score FILE",
        data={"version": installed.version, "folder": str(installed.folder)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence model rollback")
def rollback(
    allow_candidate: Annotated[
        bool,
        typer.Option("--allow-candidate", help="Also to a release that only the coordinator vouches for."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the release that was in use before, and score with it again; a second time comes back. Needs no connection."""
    store = _store(home)
    left = store.in_use()
    installed = store.rollback(allow_candidate=allow_candidate)
    emit(
        f"Release {installed.version} is in use again, instead of {left}.\n"
        "Next: ringfence score FILE; whether the agent takes newer releases by itself: ringfence policy show",
        data={"version": installed.version, "folder": str(installed.folder), "left": left},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence model show 0.1.0")
def show(
    version: Annotated[str | None, typer.Argument(help="A version; the one in use by default.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the files of an installed release, and where its model card lies."""
    store = _store(home)
    chosen = version or store.current().resolve().name
    manifest = store.manifest(chosen)
    folder = store.verify(chosen).folder
    _warn_if_withdrawn(store, version=chosen)
    rows = [
        f"  {file.size_bytes:>12,}  {file.sha256[:16]}  {name}"
        for name, file in sorted(manifest.files.items())
    ]
    emit(
        "\n".join(
            [
                f"{manifest.name} {manifest.version} ({manifest.channel}), in {folder}",
                *rows,
                f"Next: read {folder / 'README.md'}, or: ringfence model use {chosen}",
            ]
        ),
        data={"folder": str(folder), "manifest": manifest.model_dump(mode="json")},
        as_json=as_json,
    )


def _store(home: Path | None) -> ReleaseStore:
    from ringfence.client.releases import ReleaseStore

    return ReleaseStore(MemberHome.locate(home))


def _channel(text: str) -> Channel:
    from ringfence.model.versions import CHANNELS

    for channel in CHANNELS:
        if channel == text:
            return channel
    raise ConfigError(f"There is no channel {text!r}.", hint=f"Choose one of {', '.join(CHANNELS)}.")


def _warn_if_withdrawn(store: ReleaseStore, *, version: str | None) -> None:
    for release in store.list():
        if release.version == version and release.yanked:
            note(f"warning: release {version} was withdrawn: {release.reason}")
            note("  fix: ringfence model pull --use")


def _row(release: ListedRelease) -> str:
    marks = [
        mark
        for mark, is_set in (
            ("in use", release.in_use),
            ("installed", release.installed and not release.in_use),
            (f"withdrawn: {release.reason}", release.yanked),
        )
        if is_set
    ]
    return f"{release.version:<16} {release.channel:<10} {', '.join(marks) or 'not installed'}"
