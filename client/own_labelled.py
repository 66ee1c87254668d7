"""A member's labelled conversations, for looking at them at home: evaluation and calibration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.data_commands import chosen_data
from ringfence.client.member_home import MemberHome
from ringfence.client.passing_home import passing_home
from ringfence.client.reading_progress import reading_progress
from ringfence.client.snapshot import Snapshot
from ringfence.client.taking_snapshot import take_snapshot

_SECRET_BYTES = 32


@contextmanager
def own_labelled(
    home: MemberHome, files: list[Path] | None, *, labelled_only: bool = True
) -> Iterator[Snapshot]:
    """Yield the labelled conversations of the files, or the member's own, without those of people whom it forgot.

    With ``labelled_only`` off those that nobody decided come as well, to be counted.

    Raises:
        ConfigError, DataError: nothing is labelled, or it cannot be read. The member's to mend.
    """
    with ExitStack() as stack:
        # A look leaves nothing behind: without a member's folder, what is read lies elsewhere meanwhile.
        where = home if home.settings_file.exists() else passing_home(stack, home)
        secret = contribution_secret(home) if where is home else os.urandom(_SECRET_BYTES)
        progress = stack.enter_context(reading_progress())
        yield stack.enter_context(
            take_snapshot(
                where,
                data=chosen_data(files, home),
                secret=secret,
                progress=progress,
                labelled_only=labelled_only,
            )
        )
