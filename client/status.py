"""One screen about a member: who it is, whether it takes part, what it spent, what it scores with. Gathered, then told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ringfence.client.agent_condition import AgentRecord, agent_runs, read_condition
from ringfence.client.audit_log import audit_entries, audit_file
from ringfence.client.identity import read_identity
from ringfence.client.ledger_reading import has_ledger, open_ledger_reader, personalisation_share
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings, load_member_settings
from ringfence.client.policy import Policy, load_policy
from ringfence.client.training_hours import inside
from ringfence.model.errors import RingfenceError

if TYPE_CHECKING:
    from ringfence.client.audit_chain import AuditEntry
    from ringfence.client.releases import ListedRelease
    from ringfence.privacy.budget_summary import BudgetSummary


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What is known without asking anybody.

    Attributes:
        settings: the member's own.
        spiffe_id: of its certificate.
        certificate_expires_at: UTC.
        agent_runs: whether an agent holds the folder.
        agent: what the agent wrote down last.
        runs: the newest answer of each run that this member answered, the one of the newest answer last.
        budget: None before the first round, or if it cannot be read.
        budget_problem: why it cannot be read; "" otherwise.
        releases: those that are known here.
        release_problem: why they cannot be read; "" otherwise.
        policy: the member's own; None if it cannot be read.
        policy_problem: why not; "" otherwise.
        is_open: whether the policy's hours are open now.
    """

    settings: MemberSettings
    spiffe_id: str
    certificate_expires_at: datetime
    agent_runs: bool
    agent: AgentRecord | None
    runs: tuple[AuditEntry, ...]
    budget: BudgetSummary | None
    budget_problem: str
    releases: tuple[ListedRelease, ...]
    release_problem: str
    policy: Policy | None
    policy_problem: str
    is_open: bool


def read_status(home: MemberHome, *, now: datetime) -> MemberStatus:
    """Gather a member's status from its own files.

    Raises:
        ConfigError: this folder has not joined a federation. The operator's to mend.
    """
    settings = load_member_settings(home)
    held = read_identity(home)
    policy, policy_problem = _policy(home)
    budget, budget_problem = _budget(home)
    releases, release_problem = _releases(home)
    return MemberStatus(
        settings=settings,
        spiffe_id=held.identity.spiffe_id,
        certificate_expires_at=held.expires_at,
        agent_runs=agent_runs(home),
        agent=read_condition(home),
        runs=_runs(home),
        budget=budget,
        budget_problem=budget_problem,
        releases=releases,
        release_problem=release_problem,
        policy=policy,
        policy_problem=policy_problem,
        is_open=policy is not None and inside(policy.hours.windows, now),
    )


def status_lines(status: MemberStatus, *, now: datetime) -> list[str]:
    """Return the screen for a person."""
    left = status.certificate_expires_at - now
    days = f"{left.total_seconds() / 86_400:.1f} days left" if left.total_seconds() > 0 else "EXPIRED"
    newest = status.runs[-1] if status.runs else None
    rows = [
        ("member", f"{status.settings.member} of {status.settings.federation}"),
        ("certificate", f"until {status.certificate_expires_at:%Y-%m-%d %H:%M} UTC, {days}"),
        ("agent", _agent_text(status)),
        ("runs", f"{len(status.runs)} seen" if status.runs else "none seen yet"),
        ("last answer", "none yet" if newest is None else _answer_text(newest)),
        ("budget", _budget_text(status)),
        ("release", _release_text(status)),
        ("policy", _policy_text(status)),
    ]
    return [f"{name:<12} {text}" for name, text in rows]


def status_data(status: MemberStatus) -> dict[str, object]:
    """Return the same for programs; shares in [0, 1], times ISO 8601 in UTC."""
    agent, budget, newest = status.agent, status.budget, status.runs[-1] if status.runs else None
    in_use = next((release for release in status.releases if release.in_use), None)
    return {
        "member": status.settings.member,
        "federation": status.settings.federation,
        "spiffe_id": status.spiffe_id,
        "certificate_expires_at": status.certificate_expires_at.isoformat(),
        "agent": {
            "runs": status.agent_runs,
            "connected": is_connected(status),
            **({} if agent is None else agent.model_dump(mode="json")),
        },
        "runs_seen": len(status.runs),
        "last_answer": None
        if newest is None
        else {
            "run": newest.run,
            "round": newest.round,
            "attempt": newest.attempt,
            "kind": newest.kind,
            "time": newest.time,
        },
        "budget": None
        if budget is None
        else {
            "lifetime_epsilon": budget.headline.lifetime_epsilon,
            "used_share": max(budget.headline.used_share, budget.fallback.used_share),
            "runs_left": budget.runs_left,
            "closed": budget.state.closed,
        },
        "release_in_use": None if in_use is None else in_use.version,
        "release_withdrawn": in_use is not None and in_use.yanked,
        "policy": None if status.policy is None else status.policy.model_dump(mode="json"),
        "training_hours_open": status.is_open,
        "problems": [
            text for text in (status.budget_problem, status.release_problem, status.policy_problem) if text
        ],
    }


def is_connected(status: MemberStatus) -> bool:
    """Return whether an agent runs and said last that it is connected."""
    return status.agent_runs and status.agent is not None and status.agent.connected_at is not None


def next_command(status: MemberStatus) -> str:
    """Return what to do next."""
    if not status.agent_runs:
        return "ringfence agent run"
    if not is_connected(status) or status.budget_problem or status.policy_problem:
        return "ringfence doctor"
    if not any(release.in_use for release in status.releases):
        return "ringfence model pull --use"
    return "ringfence budget show"


def _agent_text(status: MemberStatus) -> str:
    agent = status.agent
    if not status.agent_runs:
        return "does not run"
    if agent is None:
        return "runs"
    if agent.connected_at is None:
        return f"runs (process {agent.pid}), not connected{f': {agent.trouble}' if agent.trouble else ''}"
    since = f"{agent.connected_at:%Y-%m-%d %H:%M} UTC"
    return f"runs (process {agent.pid}), connected to {status.settings.fleet_address} since {since}"


def _answer_text(entry: AuditEntry) -> str:
    part = f"round {entry.round}" if entry.round else "evaluation"
    return f"{entry.kind} to {entry.run}, {part}, {entry.time.replace('T', ' ').removesuffix('Z')} UTC"


def _budget_text(status: MemberStatus) -> str:
    if status.budget_problem:
        return f"CANNOT BE READ: {status.budget_problem}"
    budget = status.budget
    if budget is None:
        return "nothing spent; the first round opens it"
    if budget.state.closed:
        return "closed for good"
    used = max(budget.headline.used_share, budget.fallback.used_share)
    text = f"{100 * used:.1f} % spent, {100 * (1 - used):.1f} % left"
    text += f" of epsilon {budget.headline.lifetime_epsilon:g} for life"
    return text if budget.runs_left is None else f"{text}; {budget.runs_left} more runs like the last"


def _release_text(status: MemberStatus) -> str:
    if status.release_problem:
        return f"CANNOT BE READ: {status.release_problem}"
    in_use = next((release for release in status.releases if release.in_use), None)
    text = "none in use" if in_use is None else f"{in_use.version} in use ({in_use.channel})"
    if in_use is not None and in_use.yanked:
        text += f", WITHDRAWN: {in_use.reason}"
    if status.agent is not None and status.agent.release_outcome:
        text += f". Last look: {status.agent.release_outcome}"
    return text


def _policy_text(status: MemberStatus) -> str:
    policy = status.policy
    if policy is None:
        return f"CANNOT BE READ: {status.policy_problem}"
    launched_by = ", ".join(policy.launch.launched_by) or "nobody"
    hours = "open" if status.is_open else "closed"
    return f"{launched_by} may launch, approval {policy.launch.approval}, hours {hours} now, releases: {policy.releases.updates}"


def _policy(home: MemberHome) -> tuple[Policy | None, str]:
    try:
        return load_policy(home), ""
    except RingfenceError as error:
        return None, error.message


def _budget(home: MemberHome) -> tuple[BudgetSummary | None, str]:
    from ringfence.privacy.budget_summary import summarise_budget

    try:
        if not has_ledger(home):
            return None, ""
        with open_ledger_reader(home) as reader:
            reader.verified_state()
            return summarise_budget(reader.entries(), personalisation_share=personalisation_share(home)), ""
    except RingfenceError as error:
        return None, error.message


def _releases(home: MemberHome) -> tuple[tuple[ListedRelease, ...], str]:
    from ringfence.client.releases import ReleaseStore

    if not (home.releases / "metadata").is_dir():
        return (), ""  # nothing was ever pulled
    try:
        return ReleaseStore(home).list(), ""
    except RingfenceError as error:
        return (), error.message


def _runs(home: MemberHome) -> tuple[AuditEntry, ...]:
    newest: dict[str, AuditEntry] = {}
    path = audit_file(home)
    if path.exists():
        for entry in audit_entries(path):
            if entry.run:
                newest[entry.run] = entry
    return tuple(sorted(newest.values(), key=lambda entry: entry.seq))
