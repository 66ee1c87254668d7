"""Who has a key, asked of the database beside the event loop: one that does not answer makes nobody else wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from ringfence.model.errors import RingfenceError, StorageError

LONGEST_LOOK_S = 10.0
"""Less than what a member's call waits for its answer."""
_THREADS = 4
_LOG = logging.getLogger("ringfence.gateway")

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


class MemberLookup(Generic[_Key, _Found]):
    """Looks members up, each time anew, so that a suspension holds from the next call on.

    Trouble is said in the log as it begins and as it ends, not with each call that meets it.

    Args:
        member_of: returns the active member with this key, or None; it may wait.
        log: where trouble is said.
        longest_s: seconds that one look may take.
    """

    def __init__(
        self,
        member_of: Callable[[_Key], _Found | None],
        *,
        log: logging.Logger = _LOG,
        longest_s: float = LONGEST_LOOK_S,
    ) -> None:
        self._member_of = member_of
        self._log = log
        self._longest_s = longest_s
        # Its own, so that the looks that wait for the database hold up nothing else that runs beside the loop.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="members")
        self._trouble = ""

    async def find(self, key: _Key) -> _Found | None:
        """Return the active member with this key, or None.

        Raises:
            StorageError: it cannot be said now. The operator's to mend.
        """
        try:
            async with asyncio.timeout(self._longest_s):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, self._member_of, key)
        except TimeoutError as error:
            self._say("The database does not answer.")
            raise StorageError("The database does not answer.", hint="Check that it runs.") from error
        except RingfenceError as error:
            self._say(error.message)
            raise StorageError(error.message, hint=error.hint) from error
        if self._trouble:
            self._trouble = ""
            self._log.warning("members are looked up again")
        return found

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._log.error("no member can be looked up: %s", trouble)
        self._trouble = trouble
