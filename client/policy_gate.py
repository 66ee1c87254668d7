"""The gate that a plan passes before anything is computed for it: the member's policy as it stands now, and a person."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import MemberLedger
from ringfence.client.plan_approvals import PlanApprovals
from ringfence.client.policy import load_policy
from ringfence.client.policy_check import Asked, SpendingTally, check_plan
from ringfence.model.plan import Plan


class PolicyGate:
    """Permits plans, or says which line of the policy does not.

    The policy is read anew each time, so that a change by the member holds from the next round on.

    Args:
        home: the member's folder.
        ledger: what was spent already.
        now: returns the present, UTC.
    """

    def __init__(self, home: MemberHome, *, ledger: MemberLedger, now: Callable[[], datetime]) -> None:
        self._home = home
        self._ledger = ledger
        self._now = now
        self._approvals = PlanApprovals(home)
        self._tally = SpendingTally()

    def permit(self, plan: Plan, asked: Asked = "answer") -> None:
        """Return if the plan may be answered now.

        Args:
            plan: of the question.
            asked: what it asks for.

        Raises:
            PolicyError: a line of the policy refuses it, or a person has not approved it.
            ConfigError: the policy cannot be read, and so nothing is permitted. The member's to mend.
        """
        policy = load_policy(self._home)
        self._tally.add(self._ledger.entries(after=self._tally.seq))
        spent = self._tally.spending(order=self._ledger.order, plan_digest=plan.digest())
        check_plan(plan, policy=policy, now=self._now(), spent=spent, asked=asked)
        if policy.launch.approval == "manual":
            self._approvals.require(plan, now=self._now(), asked=asked, spent=spent)
