"""A crash at any write of a publication leaves the old state or the new one, and running it again completes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from trust_harness import FILES, TrustFederation, make_trust_federation, prepare_trust_federation

from ringfence.model.errors import ConfigError
from ringfence.server.release_repository import RepositoryState

_WRITES = ("open", "fsync", "replace", "link", "symlink", "mkdir", "unlink")


class Crash(BaseException):
    """The machine stops: nothing may catch this and go on."""


class CrashAt:
    """Lets a number of operating-system writes happen, and none after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
        self.seen = 0
        self._left = after
        for name in _WRITES:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, write: Callable[..., object]) -> Callable[..., object]:
        def counted(*given: object, **named: object) -> object:
            self.seen += 1
            self._left -= 1
            if self._left < 0:
                raise Crash
            return write(*given, **named)

        return counted


def served(federation: TrustFederation) -> tuple[int, ...]:
    """The versions that a member would be served, after reading every file of the state."""
    state = federation.trust.repository.read()
    return _versions(state)


def _versions(state: RepositoryState) -> tuple[int, ...]:
    return tuple(
        getattr(state, role).signed.version
        for role in ("root", "targets", "stable", "candidate", "snapshot", "timestamp")
    )


def prepare_release(federation: TrustFederation) -> str:
    federation.catch_up("acme", "beta")
    draft = federation.trust.draft_release(federation.folder("0.2.0", files={"a": b"2"}), version="0.2.0")
    federation.sign(draft, "acme", "beta")
    return draft.id


def prepare_rotation(federation: TrustFederation) -> str:
    # The hardest case: clients take a new root as soon as they see it, before the metadata that fits it.
    federation.registry.suspend("gamma")
    federation.catch_up("acme", "beta")
    draft = federation.trust.draft_trust(federation.active)
    federation.sign(draft, "acme", "beta")
    return draft.id


@pytest.mark.parametrize("prepare", [prepare_release, prepare_rotation], ids=lambda prepare: prepare.__name__)
def test_a_crash_at_any_write_leaves_the_old_state_or_the_new_one(
    prepare: Callable[[TrustFederation], str], tmp_path: Path
) -> None:
    made = make_trust_federation(tmp_path / "made")
    made.release("0.1.0")
    draft_id = prepare(made)
    before = served(made)
    kept = tmp_path / "kept"
    shutil.copytree(made.home.root, kept, symlinks=True)
    outcomes, crashes, after = set(), 0, 0
    while True:
        shutil.rmtree(made.home.root)
        shutil.copytree(kept, made.home.root, symlinks=True)
        with pytest.MonkeyPatch.context() as patch:
            machine = CrashAt(patch, after=after)
            try:
                made.trust.publish(draft_id)
                done = True
            except Crash:
                done = False
        now = served(made)
        outcomes.add(now)
        if done:
            break
        crashes += 1
        # What a member sees in between is whole, not only readable: every signature is checked.
        with made.serving() as address:
            made.store("beta", address).refresh()
        if draft_id in {summary.id for summary in made.trust.drafts()}:
            made.trust.publish(draft_id)
        assert served(made)[2] == before[2] + 1
        shutil.rmtree(made.members["beta"].releases)
        after += 1
    assert crashes > 10
    assert machine.seen == after
    assert len(outcomes) == 2
    assert before in outcomes


def test_a_full_disk_leaves_the_old_state_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_trust_federation(tmp_path)
    draft_id = prepare_release(made)
    before = served(made)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            made.trust.publish(draft_id)
    assert served(made) == before
    made.trust.publish(draft_id)
    assert served(made)[2] == before[2] + 1


def test_two_drafts_are_never_open_at_once(tmp_path: Path) -> None:
    made = make_trust_federation(tmp_path)
    made.trust.draft_release(made.folder("0.1.0"), version="0.1.0")
    with pytest.raises(ConfigError, match=r"release-0.1.0 is still open"):
        made.trust.draft_release(made.folder("0.2.0"), version="0.2.0")
    replaced = made.trust.draft_release(made.folder("0.2.0"), version="0.2.0", replace=True)
    assert [draft.id for draft in made.trust.drafts()] == [replaced.id]


def test_a_version_is_published_once(tmp_path: Path) -> None:
    made = make_trust_federation(tmp_path)
    made.release("0.1.0")
    with pytest.raises(ConfigError, match="a version never changes"):
        made.trust.draft_release(made.folder("x", files={"a": b"other"}), version="0.1.0")
    made.trust.publish_candidate(made.folder("c"), version="0.2.0-rc.1")
    with pytest.raises(ConfigError, match="a version never changes"):
        made.trust.publish_candidate(made.folder("c"), version="0.2.0-rc.1")


@pytest.mark.parametrize(
    ("members", "threshold"), [(1, None), (2, None), (3, 1), (3, 3)], ids=lambda value: str(value)
)
def test_a_federation_of_any_size_publishes_with_k_members_and_not_with_fewer(
    members: int, threshold: int | None, tmp_path: Path
) -> None:
    names = ("acme", "beta", "gamma")[:members]
    needed = threshold or min(2, members)
    made = prepare_trust_federation(tmp_path, names=names)
    draft = made.trust.draft_trust(made.active, threshold=threshold)
    for count, name in enumerate(names[:needed], start=1):
        made.sign(draft, name)
        assert made.trust.drafts()[0].is_complete is (count == needed)
    made.trust.publish(draft.id)
    for name in names:
        made.welcome(name)
    made.release("0.1.0", signers=names[:needed])
    with made.serving() as address:
        assert made.store(names[0], address).pull().version == "0.1.0"


@pytest.mark.parametrize("threshold", [0, 4])
def test_a_threshold_that_nobody_or_everybody_and_more_would_reach_is_refused(
    threshold: int, tmp_path: Path
) -> None:
    made = prepare_trust_federation(tmp_path)
    with pytest.raises(ConfigError, match="between 1 and"):
        made.trust.draft_trust(made.active, threshold=threshold)


def test_the_timestamp_is_signed_anew_in_good_time_and_members_accept_it(tmp_path: Path) -> None:
    made = make_trust_federation(tmp_path)
    first = made.trust.repository.read().timestamp.signed
    assert made.trust.refresh_timestamp() is False
    made.clock[0] += timedelta(hours=25)
    assert made.trust.refresh_timestamp() is True
    renewed = made.trust.repository.read().timestamp.signed
    assert renewed.version == first.version + 1
    assert renewed.expires > first.expires
    with made.serving() as address:
        made.store("acme", address).refresh()


def test_what_was_published_before_stays_served_after_a_rotation(tmp_path: Path) -> None:
    made = make_trust_federation(tmp_path)
    made.release("0.1.0", files=FILES)
    draft_id = prepare_rotation(made)
    made.trust.publish(draft_id)
    with made.serving() as address:
        # beta never saw the first root but in its welcome, and follows the chain from there.
        shutil.rmtree(made.members["beta"].releases)
        assert made.store("beta", address).pull().version == "0.1.0"
