"""The errors that Ringfence raises, by whose fault they are.

Every error carries an ``exit_code`` for the command line, a stable ``code`` for machines and a ``hint``: what the
operator should do next. Messages never hold conversation text, tokens, weights, counts or losses.
"""

from __future__ import annotations

from collections.abc import Mapping


class RingfenceError(Exception):
    """Root of every error that Ringfence raises on purpose.

    Args:
        message: what happened, in one sentence, without private data.
        hint: what the operator should do next, in one sentence.
    """

    exit_code = 1
    code = "failed"
    data: Mapping[str, object] | None = None  # of the few errors that have more to say to programs

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(RingfenceError):
    """A setting, a file of settings or a command-line value is wrong: the operator's to mend."""

    exit_code = 4
    code = "bad_config"


class StorageError(ConfigError):
    """The coordinator's database or artifacts cannot be used as they are: the operator's to mend."""

    exit_code = 1
    code = "bad_storage"


class StorageBusyError(StorageError):
    """Another process held the database for longer than is waited; nothing was changed."""

    exit_code = 3
    code = "storage_busy"


class DataError(RingfenceError):
    """A conversation or a data set is not in the agreed form: the data owner's to mend."""

    exit_code = 4
    code = "bad_data"


class PolicyError(RingfenceError):
    """The member's own policy says no."""

    exit_code = 1
    code = "refused_by_policy"


class BudgetError(RingfenceError):
    """A privacy budget or a bound that it rests on would be exceeded."""

    exit_code = 1
    code = "refused_by_budget"


class PeerError(RingfenceError):
    """The other side sent something that is not in the agreed form, or is not who it should be."""

    exit_code = 2
    code = "bad_peer"


class ConnectionFailedError(PeerError):
    """The other side cannot be reached, or refused this identity."""

    exit_code = 2
    code = "no_connection"


class DeadlineError(RingfenceError):
    """Something did not happen within its deadline."""

    exit_code = 3
    code = "deadline"


class TooOftenError(RingfenceError):
    """One caller asked more than its share; asking again later is right.

    Args:
        message: what happened, in one sentence.
        hint: what to do next.
        retry_after_s: seconds after which the call may be made again.
    """

    exit_code = 1
    code = "too_often"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ReleaseError(RingfenceError):
    """A release cannot be trusted, or cannot be used."""

    exit_code = 1
    code = "bad_release"


class RollbackError(ReleaseError):
    """Release metadata went back to an earlier version."""

    code = "release_rollback"


class ExpiredError(ReleaseError):
    """Release metadata is past its expiry."""

    code = "release_expired"


class ThresholdError(ReleaseError):
    """Too few of the agreed keys signed."""

    code = "release_threshold"


class TamperedError(ReleaseError):
    """A file differs from what was signed."""

    code = "release_tampered"


class NotFoundError(ReleaseError):
    """There is no release, file or draft of that name."""

    code = "release_not_found"
