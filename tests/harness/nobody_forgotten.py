"""A member at which nobody is ever forgotten, for tests of something else."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class NobodyForgotten:
    """In the place of `ringfence.client.withdrawals.Withdrawals`."""

    def stamp(self) -> None:
        """Never change."""

    def settle(self) -> None:
        """Have nothing to withdraw."""

    def held(self) -> AbstractContextManager[None]:
        """Hold nothing."""
        return nullcontext()
