"""What python-tuf refuses, in the house's own errors: which attack or fault it stopped, and what to do next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)

from ringfence.model.errors import (
    ConnectionFailedError,
    ExpiredError,
    NotFoundError,
    ReleaseError,
    RingfenceError,
    RollbackError,
    TamperedError,
    ThresholdError,
)

_KEEP = "The installed releases go on working."
_TELL = f"Nothing was installed. Tell the coordinator, and the other members. {_KEEP}"


@contextlib.contextmanager
def house_errors() -> Iterator[None]:
    """Raise the house's errors for what python-tuf raises inside the block.

    Raises:
        RollbackError: metadata went back, or does not fit the snapshot (rollback, mix and match).
        ExpiredError: metadata is past its expiry (freeze, or a coordinator that is away).
        ThresholdError: too few of the agreed keys signed (stolen keys, a removed member, a false root).
        TamperedError: a file or metadata differs from what was signed.
        ConnectionFailedError: the coordinator cannot be reached, or does not serve this identity.
        ReleaseError: a file could not be written here.
    """
    try:
        yield
    except RingfenceError:
        raise
    except ExpiredMetadataError as error:
        raise ExpiredError(
            "The coordinator's release metadata has expired.",
            hint=f"Updates wait until it publishes fresh metadata. {_KEEP}",
        ) from error
    except UnsignedMetadataError as error:
        raise ThresholdError(
            "Release metadata is signed by too few of the agreed keys.", hint=_TELL
        ) from error
    except BadVersionNumberError as error:
        raise RollbackError(
            "The coordinator offers older release metadata than this member has seen, or metadata that does not"
            " belong together.",
            hint=_TELL,
        ) from error
    except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise TamperedError("A file differs from what was signed.", hint=_TELL) from error
    except RepositoryError as error:
        raise TamperedError("The release metadata is not in the agreed form.", hint=_TELL) from error
    except DownloadHTTPError as error:
        raise NotFoundError(
            "The coordinator does not have a file that its metadata lists.", hint="Tell the coordinator."
        ) from error
    except DownloadError as error:
        if isinstance(error.__cause__, RingfenceError):
            raise error.__cause__ from error
        raise ConnectionFailedError(
            "The download from the coordinator failed.",
            hint="Try again; if it happens again, tell the coordinator.",
        ) from error
    except OSError as error:
        raise ReleaseError(
            f"The release could not be written: {error.strerror}.",
            hint="Check the disk and the folder's owner.",
        ) from error
