"""Which code stands for which error: all that leaves a member when it does not answer with an update."""

from __future__ import annotations

from ringfence.client.participation import UnknownAppError
from ringfence.client.plan_approvals import NotApprovedError
from ringfence.model.errors import BudgetError, ConfigError, DataError, PeerError, PolicyError
from ringfence.model.round_messages import RefusalCode

_CODES: tuple[tuple[type[Exception], RefusalCode], ...] = (
    (UnknownAppError, RefusalCode.UNKNOWN_APP),
    (NotApprovedError, RefusalCode.NOT_APPROVED),
    (PolicyError, RefusalCode.POLICY),
    (BudgetError, RefusalCode.BUDGET),
    (PeerError, RefusalCode.BAD_REQUEST),
    (DataError, RefusalCode.NO_DATA),
    (ConfigError, RefusalCode.NO_DATA),
)


def refusal_code(error: Exception) -> RefusalCode:
    """Return the code that stands for an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return RefusalCode.FAILED
