"""The coordinator's doctor: what can keep a federation from being served. Judgements only; see `doctor_command`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ringfence.model.diagnosis import Finding, check_lifetime
from ringfence.server.coordinator_settings import reachable_hint

if TYPE_CHECKING:
    from cryptography import x509

    from ringfence.server.admin_client import Condition, MemberStanding
    from ringfence.server.release_trust import RoleStatus

# Each is left with about a third of its life when its renewal is due.
_WARN_BELOW = {
    "root": timedelta(days=90),
    "intermediate": timedelta(days=45),
    "listeners": timedelta(days=14),
}
_RENEW = {
    "root": "Prepare a new federation root with your members; see ringfence-coordinator ca show",
    "intermediate": "Bring the root's key back for: ringfence-coordinator ca renew --root-key FILE",
    "listeners": "`serve` renews it by itself: look into its log, and start it again.",
}
_ROLE_WARNS_BELOW = timedelta(days=14)
_TIMESTAMP_WARNS_BELOW = timedelta(hours=12)


def check_certificates(
    certificates: Iterable[tuple[str, x509.Certificate]], *, now: datetime
) -> list[Finding]:
    """Judge until when root, intermediate and listeners' certificate hold."""
    return [
        check_lifetime(
            f"{name} certificate",
            begins_at=certificate.not_valid_before_utc,
            expires_at=certificate.not_valid_after_utc,
            now=now,
            warn_below=_WARN_BELOW[name],
            fix=_RENEW[name],
        )
        for name, certificate in certificates
    ]


def check_root_key(*, is_here: bool, file: str) -> Finding:
    """Judge whether the root's key lies where it should not."""
    if is_here:
        return Finding(
            "root key",
            "WARN",
            f"It lies on this machine, in {file}.",
            "Move it to a medium that is kept offline, with a second copy elsewhere.",
        )
    return Finding("root key", "PASS", "It is not on this machine.")


def check_roles(roles: Sequence[RoleStatus], *, now: datetime) -> list[Finding]:
    """Judge the expiry of each role of the release metadata; none is fine before the first ceremony."""
    if not roles:
        return [
            Finding(
                "releases",
                "WARN",
                "Nobody was agreed on who may approve releases, so none can be published.",
                "With the first members in: ringfence-coordinator trust draft",
            )
        ]
    fixes = {
        "timestamp": "`serve` signs it anew every hour: start it, or look into its log.",
        "candidate": "Publish the next candidate: ringfence-coordinator release candidate RUN --version VERSION",
    }
    renew = "Have it signed anew with the members: ringfence-coordinator trust draft"
    return [
        check_lifetime(
            f"{role.role} metadata",
            begins_at=now,
            expires_at=role.expires_at,
            now=now,
            warn_below=_TIMESTAMP_WARNS_BELOW if role.role == "timestamp" else _ROLE_WARNS_BELOW,
            fix=fixes.get(role.role, renew),
        )
        for role in roles
    ]


def check_given_addresses(unreachable: Mapping[str, str]) -> Finding:
    """Judge whether members can reach the listeners at the addresses that they are given.

    Args:
        unreachable: why they cannot, by listener, from `unreachable_listeners`.
    """
    for listener in unreachable:
        said = "; ".join(f"{name}: {problem}" for name, problem in unreachable.items())
        return Finding("addresses", "FAIL", f"No invitation can be used. {said}.", reachable_hint(listener))
    return Finding("addresses", "PASS", "The listeners' certificate names what members are given.")


def check_listener(name: str, address: str, problem: str) -> Finding:
    """Judge whether one of the coordinator's listeners takes connections."""
    if problem:
        return Finding(
            f"{name} listener",
            "FAIL",
            f"{address} takes no connection: {problem}.",
            "Start it: ringfence-coordinator serve; if it runs, look into its log for who holds the port.",
        )
    return Finding(f"{name} listener", "PASS", f"{address} takes connections.")


def check_condition(condition: Condition, *, version: str) -> list[Finding]:
    """Judge what the serving coordinator says of itself.

    Args:
        condition: its own word.
        version: of the program that asks.
    """
    since = f"{condition.serving_since:%Y-%m-%d %H:%M} UTC"
    serving = Finding("serving", "PASS", f"It serves since {since}.")
    if condition.version != version:
        serving = Finding(
            "serving",
            "WARN",
            f"What serves since {since} is version {condition.version}; {version} is installed.",
            "Start it again, so that it is the installed version that serves.",
        )
    fleet = Finding("fleet", "PASS", f"SuperLink answers; it knows {condition.known_nodes} nodes.")
    if not condition.fleet_answers:
        fleet = Finding(
            "fleet",
            "FAIL",
            "SuperLink does not answer, so no round is carried out.",
            "`serve` starts it again by itself: look into its log for why it ends.",
        )
    return [serving, fleet]


def check_members(members: Sequence[MemberStanding]) -> Finding:
    """Judge whether members are there and were heard of since the coordinator serves."""
    active = [member for member in members if member.status == "active"]
    if not active:
        return Finding(
            "members",
            "WARN",
            "There is no active member.",
            "Invite one: ringfence-coordinator member invite NAME",
        )
    silent = [member.id for member in active if member.last_call_at is None]
    outside = [member.id for member in active if not member.in_fleet]
    text = f"{len(active)} active, {len(active) - len(silent)} heard of since it serves"
    if outside:
        return Finding(
            "members",
            "WARN",
            f"{text}. The fleet does not know {', '.join(outside)}.",
            "It learns them within seconds while it serves; else look into the log of serve.",
        )
    if silent:
        return Finding(
            "members", "WARN", f"{text}. Not {', '.join(silent)}.", "Have them run: ringfence doctor"
        )
    return Finding("members", "PASS", f"{text}.")
