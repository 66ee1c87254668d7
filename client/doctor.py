"""The member's doctor: what can keep a member from taking part, each with its fix. Judgements only; see `doctor_command`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ringfence.client.coordinator_probe import GatewayAnswer
from ringfence.model.diagnosis import Finding, check_clock, check_lifetime

if TYPE_CHECKING:
    from ringfence.client.agent_condition import AgentRecord
    from ringfence.client.identity_client import SeenIdentity
    from ringfence.client.member_settings import MemberSettings
    from ringfence.client.policy import Policy

_HTTP_NOT_SERVED = 403
_HTTP_SLOW_DOWN = 429
SERVER_CERTIFICATE_WARNS_BELOW = timedelta(days=2)
CERTIFICATE_WARNS_BELOW = timedelta(days=2)  # it is renewed with a third of seven days left


def check_name(host: str, addresses: Sequence[str], problem: str) -> Finding:
    """Judge whether the coordinator's name has an address."""
    if not addresses:
        return Finding(
            "DNS",
            "FAIL",
            f"{host} has no address: {problem}.",
            "Check the name in member.toml, and this machine's DNS.",
        )
    return Finding("DNS", "PASS", f"{host} is {', '.join(addresses[:3])}.")


def check_port(check: str, address: str, problem: str) -> Finding:
    """Judge whether a port of the coordinator takes connections."""
    if problem:
        return Finding(
            check,
            "FAIL",
            f"{address} takes no connection: {problem}.",
            "Allow outbound TCP to it in the firewall; ask whether the coordinator is up.",
        )
    return Finding(check, "PASS", f"{address} takes connections.")


def check_gateway(answer: GatewayAnswer, *, now: datetime) -> list[Finding]:
    """Judge TLS, the clock and the admission from one answer of the fleet gateway."""
    if answer.tls_problem:
        return [
            Finding("TLS", "FAIL", answer.tls_problem, answer.tls_fix),
            check_clock(None, against="the coordinator"),
        ]
    findings = [Finding("TLS", "PASS", f"{answer.protocol}; the chain ends at the pinned root.")]
    if answer.server_expires_at is not None:
        lifetime = check_lifetime(
            "TLS",
            begins_at=now,
            expires_at=answer.server_expires_at,
            now=now,
            warn_below=SERVER_CERTIFICATE_WARNS_BELOW,
            fix="Tell the coordinator that its listeners' certificate ends.",
        )
        if lifetime.level != "PASS":
            findings = [lifetime]
    told = answer.server_time
    findings.append(check_clock(None if told is None else now - told, against="the coordinator"))
    findings.append(_check_fleet(answer))
    return findings


def _check_fleet(answer: GatewayAnswer) -> Finding:
    if answer.refused_by:
        return Finding(
            "fleet",
            "FAIL",
            f"The gateway does not take this member's certificate: {answer.refused_by}.",
            "See the certificate's dates above; if it has expired, ask the coordinator to invite this member again.",
        )
    if answer.status == _HTTP_NOT_SERVED:
        return Finding(
            "fleet",
            "FAIL",
            "The gateway knows this certificate and does not serve it: the member is suspended or was removed.",
            "Ask the coordinator: ringfence-coordinator member show NAME",
        )
    if answer.status == _HTTP_SLOW_DOWN:
        return Finding("fleet", "WARN", "The gateway asks this member to slow down.", "Run one agent only.")
    return Finding("fleet", "PASS", "The gateway serves this member.")


def check_certificate(*, begins_at: datetime, expires_at: datetime, now: datetime) -> Finding:
    """Judge the member's own certificate."""
    return check_lifetime(
        "certificate",
        begins_at=begins_at,
        expires_at=expires_at,
        now=now,
        warn_below=CERTIFICATE_WARNS_BELOW,
        fix="A running agent renews it. If it has ended, ask the coordinator to invite this member again.",
    )


def check_policy(policy: Policy, *, federation: str) -> Finding:
    """Judge whether the policy lets the federation that was joined ask for anything at all."""
    if federation not in policy.launch.launched_by:
        return Finding(
            "policy",
            "WARN",
            f"Nobody of {federation} may launch training here, so every question is refused.",
            f'Decide, then write launched_by = ["{federation}"] into policy.toml.',
        )
    return Finding("policy", "PASS", f"{federation} may launch; approval is {policy.launch.approval}.")


def check_agent(*, runs: bool, record: AgentRecord | None) -> Finding:
    """Judge whether the member's agent takes part now."""
    if not runs:
        return Finding(
            "agent",
            "WARN",
            "No agent runs on this folder.",
            "Start it: ringfence agent run; or for good: ringfence agent install-service",
        )
    if record is None or record.connected_at is None:
        trouble = "" if record is None or not record.trouble else f": {record.trouble}"
        return Finding(
            "agent",
            "WARN",
            f"It runs and is not connected{trouble}",
            "Mend what failed above; it comes back.",
        )
    return Finding("agent", "PASS", f"It runs, connected since {record.connected_at:%Y-%m-%d %H:%M} UTC.")


def check_identity(seen: SeenIdentity, *, settings: MemberSettings) -> Finding:
    """Judge whether the coordinator sees the member that this folder is."""
    if (seen.federation, seen.member) != (settings.federation, settings.member):
        return Finding(
            "identity",
            "FAIL",
            f"The coordinator sees {seen.member} of {seen.federation}; member.toml says {settings.member} of "
            f"{settings.federation}.",
            "Put the folder of the right member in its place: --home.",
        )
    if not seen.is_in_fleet:
        return Finding(
            "identity",
            "WARN",
            f"The coordinator sees {seen.member}, and the fleet does not know its key yet.",
            "It learns it within seconds while it serves; else tell the coordinator.",
        )
    return Finding("identity", "PASS", f"The coordinator sees {seen.member} of {seen.federation}.")
