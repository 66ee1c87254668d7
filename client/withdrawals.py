"""What waits to be withdrawn is withdrawn before anything leaves: the agent's side of forgetting a person.

A request to forget somebody excludes them, removes what was derived from them, and names the unsent answers that may hold
them; all of it under the cache's lock. The agent, which has the ledger open, charges and marks answers as sent under the same
lock. So an answer is either sent before the request, and the request finds it so, or it is looked at after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ringfence.client.erasure import PayloadOwner, withdraw_pending
from ringfence.client.exclusions import exclusions_stamp
from ringfence.client.member_home import MemberHome
from ringfence.client.row_cache import RowCache

_NEVER = object()


class Withdrawals:
    """Finishes what requests to forget people left to the agent.

    Args:
        home: the member's folder.
        owner: whoever has the ledger open.
    """

    def __init__(self, home: MemberHome, *, owner: PayloadOwner) -> None:
        self._home = home
        self._owner = owner
        self._settled: object = _NEVER

    def stamp(self) -> object:
        """Return something that changes whenever somebody is forgotten."""
        return exclusions_stamp(self._home)

    def settle(self) -> None:
        """Withdraw what waits for it, having waited for a request that is under way; costs nothing if nobody was forgotten.

        Raises:
            ConfigError, BudgetError: as `ringfence.client.erasure.finish_withdrawals`.
        """
        if self.stamp() != self._settled:
            with self.held():
                pass

    @contextmanager
    def held(self) -> Iterator[None]:
        """Settle, and keep everybody from forgetting anybody for the length of the block.

        Raises:
            ConfigError, BudgetError: as `settle`.
        """
        with RowCache(self._home).lock():
            if self.stamp() != self._settled:
                withdraw_pending(self._home, owner=self._owner)
                self._settled = self.stamp()
            yield
