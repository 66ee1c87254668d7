"""The agent follows releases as the policy says; whatever happens to a release is a line of log and stops no round."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from federation_harness import wait_until
from trust_harness import FILES, TrustFederation, make_trust_federation

from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings, save_member_settings
from ringfence.client.policy import default_policy
from ringfence.client.policy_rules import ReleaseRules
from ringfence.client.policy_text import save_policy
from ringfence.client.release_choice import choose_release
from ringfence.client.release_following import ReleaseFollower, look_for_release, look_in_own_process
from ringfence.client.releases import ListedRelease, ReleaseStore
from ringfence.model.detector import Detector
from ringfence.model.errors import ConnectionFailedError, ExpiredError, ReleaseError
from ringfence.model.feature_set import load_feature_set
from ringfence.model.release_examples import write_examples


def release(version: str, *marks: str) -> ListedRelease:
    channel = "candidate" if "-" in version else "stable"
    return ListedRelease(
        version, channel, "installed" in marks, "in use" in marks, "withdrawn" in marks, "bad thresholds"
    )


OLD, NEW, NEXT_MAJOR = release("1.1.0", "in use"), release("1.2.0"), release("2.0.0")
GONE = release("1.1.0", "in use", "withdrawn")


@pytest.mark.parametrize(
    ("releases", "updates", "taken", "action", "version"),
    [
        pytest.param([], "use", None, "nothing", "", id="nothing is published"),
        pytest.param([OLD], "use", None, "nothing", "", id="the newest is in use"),
        pytest.param([OLD, NEW], "use", None, "use", "1.2.0", id="a newer one is used"),
        pytest.param([OLD, NEW], "hold", None, "hold", "1.2.0", id="a newer one is held"),
        pytest.param([OLD, NEW], "off", None, "nothing", "", id="nothing is wanted"),
        pytest.param([NEW], "use", None, "use", "1.2.0", id="the first one is used"),
        pytest.param([NEW], "hold", None, "hold", "1.2.0", id="the first one is held"),
        pytest.param([OLD, NEXT_MAJOR], "use", None, "hold", "2.0.0", id="scores that mean something new"),
        pytest.param(
            [OLD, release("1.3.0-rc.1")], "use", None, "nothing", "", id="a candidate is for people"
        ),
        pytest.param([OLD, release("1.2.0", "withdrawn")], "use", None, "nothing", "", id="a withdrawn one"),
        pytest.param([GONE, NEW], "use", None, "use", "1.2.0", id="withdrawn in use: forward"),
        pytest.param([release("1.0.0"), GONE], "use", None, "use", "1.0.0", id="withdrawn in use: back"),
        pytest.param([release("1.0.0"), GONE], "hold", None, "hold", "1.0.0", id="withdrawn in use: held"),
        pytest.param([GONE], "use", None, "nothing", "", id="withdrawn in use and nothing else"),
        pytest.param([OLD, NEW], "use", "1.2.0", "hold", "1.2.0", id="a person went back by hand"),
        pytest.param([OLD, release("1.3.0")], "use", "1.2.0", "use", "1.3.0", id="and then a newer one came"),
        pytest.param([release("1.0.0"), GONE], "use", "1.0.0", "use", "1.0.0", id="back to one taken before"),
        pytest.param([release("1.0.0"), OLD], "use", None, "nothing", "", id="never back by itself"),
        pytest.param(
            [release("1.9.0", "in use"), release("1.10.0")], "use", None, "use", "1.10.0", id="10 > 9"
        ),
    ],
)
def test_the_policy_decides_what_is_done_about_a_release(
    releases: list[ListedRelease], updates: str, taken: str | None, action: str, version: str
) -> None:
    choice = choose_release(releases, updates=updates, taken=taken)  # type: ignore[arg-type]
    assert (choice.action, choice.version) == (action, version)
    assert ("was withdrawn: bad thresholds" in choice.reason) == (GONE in releases)


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    made = make_trust_federation(tmp_path)
    made.release("0.1.0")
    return made


def set_policy(home: MemberHome, *, updates: str, check_hours: float = 4.0) -> None:
    rules = ReleaseRules.model_validate({"updates": updates, "check_hours": check_hours})
    save_policy(home, policy=default_policy().model_copy(update={"releases": rules}), replace=True)


def look(federation: TrustFederation, address: str, *, trial: Callable[[Path], None]) -> ReleaseStore:
    store = federation.store("gamma", address)
    look_for_release(federation.members["gamma"], store=store, trial=trial)
    return store


@pytest.mark.parametrize(("updates", "in_use"), [("use", "0.1.0"), ("hold", None)])
def test_a_release_is_pulled_tried_and_then_used_or_held(
    federation: TrustFederation, updates: str, in_use: str | None
) -> None:
    set_policy(federation.members["gamma"], updates=updates)
    tried: list[str] = []
    with federation.serving() as address:
        store = look(federation, address, trial=lambda folder: tried.append(folder.name))
    assert tried == ["0.1.0"]
    assert store.in_use() == in_use
    assert store.list()[0].installed


def refuse(folder: Path) -> None:
    raise ReleaseError(f"Release {folder.name} does not work here.")


def test_a_release_that_does_not_work_here_does_not_take_the_place_of_one_that_does(
    federation: TrustFederation,
) -> None:
    set_policy(federation.members["gamma"], updates="use")
    with federation.serving() as address:
        look(federation, address, trial=lambda folder: None)
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    with federation.serving() as address:
        with pytest.raises(ReleaseError, match=r"0\.2\.0 does not work here"):
            look(federation, address, trial=refuse)
        assert federation.store("gamma", address).in_use() == "0.1.0"


def test_who_goes_back_by_hand_is_not_brought_forward_again(federation: TrustFederation) -> None:
    set_policy(federation.members["gamma"], updates="use")
    with federation.serving() as address:
        look(federation, address, trial=lambda folder: None)
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    with federation.serving() as address:
        store = look(federation, address, trial=lambda folder: None)
        assert store.in_use() == "0.2.0"
        store.use("0.1.0")
        assert look(federation, address, trial=lambda folder: None).in_use() == "0.1.0"


def serve_at(federation: TrustFederation, name: str, address: str) -> MemberHome:
    """Have a member's own settings name the address, as its processes read them."""
    home = federation.members[name]
    settings = load_member_settings(home, environment={})
    save_member_settings(home, settings=settings.model_copy(update={"release_address": address}))
    return home


def detector_files(folder: Path) -> dict[str, bytes]:
    features = load_feature_set("static-128")
    detector = Detector(features, features.warm_start)
    folder.mkdir()
    detector.save(folder)
    write_examples(detector, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_look_in_a_process_of_its_own_takes_a_whole_release_into_use_and_refuses_one_that_scores_otherwise(
    federation: TrustFederation, tmp_path: Path
) -> None:
    files = detector_files(tmp_path / "whole")
    federation.release("0.2.0", files=files)
    with federation.serving() as address:
        home = serve_at(federation, "gamma", address)
        set_policy(home, updates="use")
        assert look_in_own_process(home, threading.Event()) == "Release 0.2.0 is in use."
    scores = files["examples.scores.jsonl"].replace(b'"logit": ', b'"logit": 9', 1)
    federation.release("0.3.0", files={**files, "examples.scores.jsonl": scores})
    with federation.serving() as address:
        serve_at(federation, "gamma", address)
        with pytest.raises(ReleaseError, match=r"0\.3\.0 does not work here"):
            look_in_own_process(home, threading.Event())
    assert ReleaseStore(home).in_use() == "0.2.0"


def test_a_look_that_finds_nobody_says_so(federation: TrustFederation) -> None:
    home = serve_at(federation, "gamma", "127.0.0.1:9")
    set_policy(home, updates="use")
    with pytest.raises(ReleaseError, match="cannot be reached"):
        look_in_own_process(home, threading.Event())


class Looks:
    """Stands for looking: each look meets the next fate, and the last one for good."""

    def __init__(self, *fates: str | Exception) -> None:
        self.fates = list(fates)
        self.count = 0

    def __call__(self, home: MemberHome, stop: threading.Event) -> str:
        self.count += 1
        fate = self.fates.pop(0) if len(self.fates) > 1 else self.fates[0]
        if isinstance(fate, Exception):
            raise fate
        return fate


def test_a_follower_goes_on_looking_whatever_befell_it_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = MemberHome(tmp_path)
    set_policy(home, updates="use")
    looks = Looks(
        ConnectionFailedError("Nobody is there.", hint="Wait."),
        ExpiredError("Too old."),
        ZeroDivisionError("planted-words"),
        "Release 1.0.0 is in use.",
    )
    told: list[str] = []
    follower = ReleaseFollower(home, report=told.append, look=looks, first_look_s=0.0, hour_s=0.001)
    with caplog.at_level(logging.INFO), follower:
        wait_until(lambda: len(told) >= 4, what="four looks")
    assert told[:4] == [
        "Nobody is there. Wait.",
        "Too old.",
        "A defect of Ringfence: ZeroDivisionError.",
        "Release 1.0.0 is in use.",
    ]
    assert "planted-words" not in caplog.text


def test_a_policy_that_asks_for_no_releases_reaches_nobody_and_one_that_cannot_be_read_does_not_either(
    tmp_path: Path,
) -> None:
    home = MemberHome(tmp_path)
    set_policy(home, updates="off")
    looks, told = Looks("found"), list[str]()
    with ReleaseFollower(home, report=told.append, look=looks, first_look_s=0.0, hour_s=0.001):
        wait_until(lambda: told, what="a look")
        home.policy_file.write_text("nonsense = 1")
        wait_until(lambda: "nonsense" in told[-1], what="the broken policy is named")
        assert looks.count == 0
        set_policy(home, updates="hold")
        wait_until(lambda: told[-1] == "found", what="the mended policy holds")


def test_the_end_of_the_agent_ends_a_look_that_is_under_way(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    set_policy(home, updates="use")
    begun, told = threading.Event(), list[str]()

    def endless(_: MemberHome, stop: threading.Event) -> str:
        begun.set()
        assert stop.wait(120)
        return ""

    with ReleaseFollower(home, report=told.append, look=endless, first_look_s=0.0):
        assert begun.wait(120)
    assert told == []
