"""``ringfence approve``: look at what the federation would publish, and countersign it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.client.member_home import MemberHome
from ringfence.model.console import JsonOption, emit, new_application, note
from ringfence.model.errors import ConfigError

if TYPE_CHECKING:
    from ringfence.model.drafts import Draft, DraftSummary

application = new_application("approve", "Countersign releases, and who may approve them.")

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The member's folder.", envvar="RINGFENCE_HOME")
]
DraftArgument = Annotated[str, typer.Argument(help="A draft's name, or a file that the coordinator sent.")]
UnseenOption = Annotated[
    bool,
    typer.Option("--unsafe-unseen", help="Go on although no candidate with these files was pulled here."),
]


@application.callback()
def _approve() -> None:
    """Countersign releases, and who may approve them."""


@application.command("list", epilog="Example: ringfence approve list --json")
def list_drafts(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the drafts that await signatures."""
    from ringfence.client.approvals import ApprovalClient
    from ringfence.client.coordinator_connection import open_release_channel
    from ringfence.client.declined_drafts import declined_drafts

    located = MemberHome.locate(home)
    with open_release_channel(located) as channel:
        drafts = ApprovalClient(channel).list_drafts()
    lines = [line for draft in drafts for line in _progress(draft)] or ["No draft awaits signatures."]
    declined = [found for found in declined_drafts(located) if found.draft in {draft.id for draft in drafts}]
    lines += [
        f"A draft of the name {found.draft} was declined here on {found.declined_at:%Y-%m-%d}: {found.reason}"
        for found in declined
    ]
    if drafts:
        lines.append(f"Next: ringfence approve show {drafts[0].id}")
    emit(
        "\n".join(lines),
        data={
            "drafts": [_summary_data(draft) for draft in drafts],
            "declined": [found.model_dump(mode="json") for found in declined],
        },
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence approve show release-0.2.0")
def show(draft: DraftArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what signing a draft would mean, read from the very bytes that would be signed."""
    from ringfence.client.approvals import review

    located = MemberHome.locate(home)
    found = review(located, draft=_fetch(draft, home=located), unsafe_unseen=True)
    emit(
        "\n".join(
            [
                *found.lines,
                f"Next: ringfence approve sign {draft}, or: ringfence approve decline {draft} --reason CODE",
            ]
        ),
        data={"changes": list(found.lines)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence approve sign release-0.2.0 --yes")
def sign(
    draft: DraftArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the signatures to a file; the default for a draft file."),
    ] = None,
    unsafe_unseen: UnseenOption = False,
    although_declined: Annotated[
        bool, typer.Option("--although-declined", help="Sign what was declined here before.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a draft means, and sign it with this member's approval key.

    A release is signed only if a candidate with the same files was pulled here. A draft that the coordinator sent as a
    file is answered with a file; any other is answered over the connection.
    """
    from ringfence.client.approvals import (
        ApprovalClient,
        review,
        save_signatures,
        sign_draft,
        signature_file,
    )
    from ringfence.client.coordinator_connection import open_release_channel
    from ringfence.client.declined_drafts import require_not_declined
    from ringfence.client.departures import record_departure
    from ringfence.client.member_settings import load_member_settings

    located = MemberHome.locate(home)
    fetched = _fetch(draft, home=located)
    found = review(located, draft=fetched, unsafe_unseen=unsafe_unseen)
    for line in found.lines:
        note(line)
    if not although_declined:
        require_not_declined(located, draft=fetched)
    if not yes:
        _confirm()
    signatures = sign_draft(
        located, draft=fetched, unsafe_unseen=unsafe_unseen, although_declined=although_declined
    )
    answer = out or (
        Path(f"{fetched.id}.{signatures[0].key_id[:8]}.signature.json") if _is_file(draft) else None
    )
    roles = ", ".join(signature.role for signature in signatures)
    if answer is not None:
        save_signatures(answer, draft_id=fetched.id, signatures=signatures)
        emit(
            f"Signed {roles}; the signatures are in {answer}.\nNext: send that file to the coordinator.",
            data={"draft": fetched.id, "signed": roles.split(", "), "file": str(answer)},
            as_json=as_json,
        )
        return
    record_departure(
        located,
        kind="approval",
        destination=load_member_settings(located).release_address,
        content=signature_file(fetched.id, signatures=signatures),
    )
    with open_release_channel(located) as channel:
        summary = ApprovalClient(channel).submit(fetched.id, signatures=signatures)
    state = "It can be published now." if summary.is_complete else "It needs more signatures."
    emit(
        "\n".join([f"Signed {roles}. {state}", *_progress(summary), "Next: ringfence approve list"]),
        data={"draft": fetched.id, "signed": roles.split(", "), "progress": _summary_data(summary)},
        as_json=as_json,
    )


@application.command(epilog="Example: ringfence approve decline release-0.2.0 --reason quality")
def decline(
    draft: DraftArgument,
    reason: Annotated[
        str,
        typer.Option("--reason", help="quality, fairness, privacy, provenance, process or other."),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record here that a draft is not signed, and why; sign refuses it from then on. The coordinator is not told by this.

    What keeps a draft from being published is that the signature is missing, not this record.
    """
    from ringfence.client.declined_drafts import decline_draft, declined_file

    located = MemberHome.locate(home)
    made = decline_draft(located, draft=_fetch(draft, home=located), reason=reason, now=datetime.now(UTC))
    emit(
        f"{made.draft} is declined: {made.reason}. That is recorded in {declined_file(located)}, and nowhere else.\n"
        f"Next: tell the coordinator yourself that {made.draft} is declined, and why; then: ringfence approve list",
        data={**made.model_dump(mode="json"), "file": str(declined_file(located)), "coordinator_told": False},
        as_json=as_json,
    )


def _fetch(draft: str, *, home: MemberHome) -> Draft:
    from ringfence.client.approvals import ApprovalClient
    from ringfence.client.coordinator_connection import open_release_channel
    from ringfence.client.founding import pin_first_root
    from ringfence.client.releases import ReleaseStore
    from ringfence.model.drafts import load_draft

    if _is_file(draft):
        return load_draft(Path(draft))
    with open_release_channel(home) as channel:
        if pin_first_root(home, channel=channel):
            # Compared with the newest that is published, not with what happens to be stored here.
            ReleaseStore(home).refresh()
        return ApprovalClient(channel).get_draft(draft)


def _is_file(draft: str) -> bool:
    return "/" in draft or draft.endswith(".json")


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            "Nobody is there to confirm the signature.", hint="Say --yes to sign without asking."
        )
    if not typer.confirm("Sign this?", err=True):
        raise typer.Abort


def _progress(draft: DraftSummary) -> list[str]:
    lines = [f"{draft.id}: {draft.purpose}"]
    for role in draft.roles:
        signed = ", ".join(role.signed_by) or "nobody"
        awaited = ", ".join(role.awaited_from) or "nobody"
        lines.append(
            f"  {role.role}: {len(role.signed_by)} of {role.threshold} ({signed}); may still sign: {awaited}"
        )
    return lines


def _summary_data(draft: DraftSummary) -> dict[str, object]:
    return {
        "id": draft.id,
        "purpose": draft.purpose,
        "complete": draft.is_complete,
        "roles": [
            {
                "role": role.role,
                "threshold": role.threshold,
                "signed_by": list(role.signed_by),
                "awaited_from": list(role.awaited_from),
            }
            for role in draft.roles
        ],
    }
