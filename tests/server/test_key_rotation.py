"""The coordinator's keys are replaced in ways in which every member comes to believe the new ones, and no old one any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from enrolment_harness import Desk, open_desk
from federation_harness import make_plan
from trust_harness import FILES, TrustFederation, make_trust_federation

from ringfence.client.approvals import review
from ringfence.client.member_settings import load_member_settings
from ringfence.client.participation import read_signed_plan
from ringfence.model.console import run_application
from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError, ReleaseError
from ringfence.model.round_messages import TrainRequest
from ringfence.server import key_rotation, release_trust
from ringfence.server.audit_events import AuditEvents
from ringfence.server.command_line import application
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.key_rotation import begin_rotation, own_keys, rotate_plan_key
from ringfence.server.publication import load_signers, next_state
from ringfence.server.run_launch import Launcher
from ringfence.server.signing_keys import ROTATED_WITH_MEMBERS, KeyName, next_key_file


@pytest.fixture
def federation(tmp_path: Path) -> TrustFederation:
    """Gamma has 0.1.0 and a candidate, which the present keys vouch for."""
    made = make_trust_federation(tmp_path)
    made.release("0.1.0")
    made.trust.publish_candidate(made.folder("c"), version="0.2.0-rc.1")
    pull(made)
    return made


def pull(federation: TrustFederation) -> list[str]:
    with federation.serving() as address:
        store = federation.store("gamma", address)
        store.pull()
        store.pull("candidate")
        return [release.version for release in store.list()]


def begin(federation: TrustFederation) -> None:
    begin_rotation(
        federation.home,
        names=ROTATED_WITH_MEMBERS,
        database=open_database(federation.home),
        now=federation.clock[0],
    )


def agree(federation: TrustFederation) -> None:
    federation.catch_up("acme", "beta")
    draft = federation.trust.draft_trust(federation.active, replace=True)
    federation.sign(draft, "acme", "beta")
    federation.trust.publish(draft.id)


def entitled(federation: TrustFederation) -> dict[str, list[str]]:
    present = federation.trust.repository.read()
    return {
        name: (present.targets if name == "candidate" else present.root)
        .signed.get_delegated_role(name)
        .keyids
        for name in ROTATED_WITH_MEMBERS
    }


def test_members_follow_new_keys_that_they_agreed_on_and_everything_goes_on_meanwhile(
    federation: TrustFederation,
) -> None:
    before = entitled(federation)
    old = load_signers(federation.home)
    begin(federation)
    # The present keys sign until then, whatever has to be signed.
    federation.clock[0] += timedelta(hours=30)
    assert federation.trust.refresh_timestamp()
    federation.trust.publish_candidate(federation.folder("c2"), version="0.2.0-rc.2")
    federation.release("0.2.0", files={**FILES, "README.md": b"two\n"})
    assert pull(federation) == ["0.1.0", "0.2.0-rc.1", "0.2.0-rc.2", "0.2.0"]
    assert entitled(federation) == before

    agree(federation)
    after = entitled(federation)
    assert all(after[name] != before[name] for name in ROTATED_WITH_MEMBERS)
    assert not any(next_key_file(federation.home, name=name).exists() for name in ROTATED_WITH_MEMBERS)
    assert pull(federation) == ["0.1.0", "0.2.0-rc.1", "0.2.0-rc.2", "0.2.0"]
    federation.clock[0] += timedelta(hours=30)
    assert federation.trust.refresh_timestamp()
    federation.trust.publish_candidate(federation.folder("c3"), version="0.3.0-rc.1")
    assert "0.3.0-rc.1" in pull(federation)

    # Whoever has the old keys, and even the coordinator's machine, is believed by nobody any more.
    state = next_state(old, present=federation.trust.repository.read(), now=federation.clock[0])
    federation.write_metadata(f"{state.snapshot.signed.version}.snapshot.json", state.snapshot.to_bytes())
    federation.write_metadata("timestamp.json", state.timestamp.to_bytes())
    with federation.serving() as address, pytest.raises(ReleaseError):
        federation.store("gamma", address).refresh()


def test_who_signs_is_told_which_keys_change(federation: TrustFederation) -> None:
    federation.catch_up("acme")
    draft = federation.trust.draft_trust(federation.active)
    quiet = review(federation.members["acme"], draft=draft).lines
    assert not any("another key" in line for line in quiet)
    begin(federation)
    draft = federation.trust.draft_trust(federation.active, replace=True)
    said = review(federation.members["acme"], draft=draft).lines
    changed = {line.partition(":")[0] for line in said if "another key" in line}
    assert changed == set(ROTATED_WITH_MEMBERS)


def test_a_crash_after_publishing_and_before_the_keys_take_their_place_is_gone_on_from(
    federation: TrustFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(federation)
    with monkeypatch.context() as crashed:
        crashed.setattr(release_trust, "settle_keys", lambda *_, **__: ())
        agree(federation)
    assert all(next_key_file(federation.home, name=name).exists() for name in ROTATED_WITH_MEMBERS)
    assert pull(federation)
    federation.trust.publish_candidate(federation.folder("c2"), version="0.2.0-rc.2")
    federation.clock[0] += timedelta(hours=30)
    assert federation.trust.refresh_timestamp()
    assert not any(next_key_file(federation.home, name=name).exists() for name in ROTATED_WITH_MEMBERS)
    assert "0.2.0-rc.2" in pull(federation)


def test_a_second_new_key_is_refused_while_one_waits_and_both_are_listed(federation: TrustFederation) -> None:
    begin(federation)
    with pytest.raises(ConfigError, match="waits already") as refused:
        begin(federation)
    assert "trust draft" in refused.value.hint
    listed = own_keys(federation.home)
    assert [key.name for key in listed if key.waits] == list(ROTATED_WITH_MEMBERS)
    assert len({key.fingerprint for key in listed}) == len(listed) == 8
    assert all(key.file.stat().st_mode & 0o077 == 0 for key in listed)


def rotated(federation: TrustFederation) -> list[str]:
    events = AuditEvents(open_database(federation.home)).all()
    return [event.subject for event in events if event.action == "keys.rotate"]


def test_keys_that_are_rotated_together_are_all_made_or_none_is(
    federation: TrustFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotate(*names: KeyName) -> None:
        database = open_database(federation.home)
        begin_rotation(federation.home, names=names, database=database, now=federation.clock[0])

    rotate("timestamp")
    make, made, fits = key_rotation.make_next_key, [], 2

    def make_what_fits(home: CoordinatorHome, *, name: KeyName) -> object:
        if len(made) == fits:
            raise ConfigError("Cannot write it.", hint="Check the folder.")
        made.append(name)
        return make(home, name=name)

    with monkeypatch.context() as watched:
        watched.setattr(key_rotation, "make_next_key", make_what_fits)
        with pytest.raises(ConfigError, match="new timestamp key waits already"):
            rotate("candidate", "snapshot", "timestamp")
        assert made == [], "nothing is begun, so that a crash leaves nothing of it either"
        fits = 1
        with pytest.raises(ConfigError, match="Cannot write"):
            rotate("candidate", "snapshot")
        assert made == ["candidate"]
    assert [key.name for key in own_keys(federation.home) if key.waits] == ["timestamp"]
    assert rotated(federation) == ["timestamp"]
    rotate("candidate", "snapshot")
    assert rotated(federation) == ["timestamp", "candidate", "snapshot"]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as opened:
        yield opened


def asked(desk: Desk) -> TrainRequest:
    signed = Launcher(home=desk.home, settings=desk.federation.settings).sign(make_plan(federation="example"))
    return TrainRequest(
        run="spring",
        plan=signed.plan.canonical_json(),
        signature=signed.signature,
        round=1,
        attempt=1,
        parameters=np.zeros(1),
        known_head=b"",
    )


def test_a_new_plan_key_is_believed_by_whoever_joined_again_and_by_nobody_before(desk: Desk) -> None:
    desk.join(desk.invite("acme"), folder="acme")
    still_open = desk.invite("beta")
    old = asked(desk)

    def believes(request: TrainRequest) -> None:
        settings = load_member_settings(desk.folder("acme"), environment={})
        read_signed_plan(request, plan_public_key=settings.plan_public_key)

    believes(old)
    done = rotate_plan_key(
        desk.home, settings=desk.federation.settings, database=open_database(desk.home), now=desk.now()
    )
    assert (done.members, done.withdrawn) == (("acme",), ("beta",))
    with pytest.raises(PeerError):
        believes(asked(desk))
    # An invitation of before pins the key of before.
    with pytest.raises(ConnectionFailedError, match="withdrawn"):
        desk.join(still_open, folder="beta")
    key = desk.folder("acme").key_file.read_bytes()
    desk.join(desk.invite("acme", again=True), folder="acme")
    believes(asked(desk))
    with pytest.raises(PeerError):
        believes(old)
    assert desk.folder("acme").key_file.read_bytes() == key
    assert ("keys.rotate", "plan") in desk.actions


def test_the_plan_key_stays_while_a_run_is_under_way(desk: Desk) -> None:
    launcher = Launcher(home=desk.home, settings=desk.federation.settings)
    run = launcher.prepare(make_plan(federation="example"), name="spring")
    before = asked(desk).signature

    def rotate() -> None:
        rotate_plan_key(
            desk.home, settings=desk.federation.settings, database=open_database(desk.home), now=desk.now()
        )

    for status in ("created", "running"):
        run.update(status=status)
        with pytest.raises(ConfigError, match="under way") as refused:
            rotate()
        assert "run stop spring" in refused.value.hint
    assert asked(desk).signature == before
    run.update(status="stopped")
    rotate()
    assert asked(desk).signature != before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["rotate", "governance"], 4, "no key that can be rotated"),
        (["rotate", "root"], 4, "no key that can be rotated"),
        (["rotate", "plan", "snapshot"], 4, "by itself"),
        (["rotate", "plan"], 4, "Nobody is there to confirm"),
        (["rotate", "plan", "--yes"], 0, "member invite acme --again"),
        (["rotate", "snapshot", "timestamp"], 0, "trust draft"),
        (["list"], 0, "governance"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_commands_say_what_has_to_follow(
    federation: TrustFederation,
    words: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = own_keys(federation.home)
    assert run_application(application, ["keys", *words, "--home", str(federation.home.root)]) == code
    out, said = capsys.readouterr()
    assert says in out + said
    if code or words == ["list"]:
        assert own_keys(federation.home) == before
    else:
        assert own_keys(federation.home) != before
        assert rotated(federation) == [word for word in words[1:] if not word.startswith("-")]
    assert run_application(application, ["keys", "list", "--home", str(federation.home.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["keys"][0]["fingerprint"]
