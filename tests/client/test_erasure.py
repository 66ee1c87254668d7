"""``ringfence data forget``: out of caches, manifests and unsent answers, never back, and every charge stays."""

from __future__ import annotations

import io
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_homes import OPENED, charge_rounds, make_home, open_home_ledger

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.data_commands import application
from ringfence.client.erasure import finish_withdrawals, forget_person
from ringfence.client.exclusions import load_exclusions
from ringfence.client.local_data import load_labelled, training_rows
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings, load_member_settings
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.row_cache import RowCache
from ringfence.model.console import run_application
from ringfence.model.conversation import Conversation
from ringfence.model.errors import BudgetError, ConfigError, DataError
from ringfence.privacy.bounding import participant_pseudonym
from ringfence.privacy.ledger_reader import LedgerReader

NOW = OPENED + 86_400.0


class Features:
    """Stands for a feature set: a row says how long a conversation is."""

    fingerprint = "f" * 64
    dimension = 3

    def rows(self, conversation: Conversation, *, prefixes: tuple[float, ...]) -> np.ndarray:
        return np.full((len(prefixes), 3), len(conversation.messages), dtype=np.float32)


def write_source(home: MemberHome, *talks: tuple[str, ...]) -> None:
    lines = []
    for number, authors in enumerate(talks):
        messages = [{"author": author, "text": f"words of {author}"} for author in authors]
        lines.append(json.dumps({"id": f"c{number}", "label": number % 2, "messages": messages}))
    (home.root / "chats.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    home = make_home(tmp_path / "home")
    home.settings_file.write_text(
        'federation = "north"\nmember = "acme"\nfleet_address = "localhost:1"\nrelease_address = "localhost:2"\n'
        'plan_public_key = "x"\n[data]\nfiles = ["chats.jsonl"]\n'
    )
    write_source(
        home, ("Otter", "heron"), ("newt", "toad"), ("OTTER", "toad"), ("vole", "wren"), ("hare", "lark")
    )
    return home


def settings(home: MemberHome) -> MemberSettings:
    return load_member_settings(home)


def rows_of(home: MemberHome, conversations: list[Conversation] | None = None) -> Any:
    found = load_labelled(home, settings(home)) if conversations is None else conversations
    return training_rows(
        home,
        conversations=found,
        feature_set=Features(),  # type: ignore[arg-type]
        prefixes=(1.0,),
        contribution_bound=2,
        bounds="greedy",
    )


def read_again(home: MemberHome) -> set[str]:
    """What reading the source finds, by the names in the source."""
    called = {Pseudonyms(contribution_secret(home)).conversation(f"c{n}").hex(): f"c{n}" for n in range(9)}
    return {called[item.id] for item in load_labelled(home, settings(home))}


def cached(home: MemberHome) -> list[str]:
    return sorted(path.name for path in home.cache.glob("*") if path.is_file() and path.name != ".lock")


def rows_kept(home: MemberHome) -> int:
    with RowCache(home).lock(), RowCache(home).rows(Features.fingerprint) as file:
        return len(file)


def is_kept(home: MemberHome, person: str) -> bool:
    """Whether rows or manifests hold a person of the source."""
    secret = contribution_secret(home)
    called = participant_pseudonym(Pseudonyms(secret).person(person).hex(), secret=secret)
    with RowCache(home).lock():
        return RowCache(home).holds(called)


def stored_keys(home: MemberHome) -> list[str]:
    with LedgerReader.open(home.ledger_file, anchor_path=home.ledger_anchor_file) as reader:
        return [item.key for item in reader.stored()]


def all_bytes(home: MemberHome) -> bytes:
    """Everything that the member keeps, but for its own source of conversations."""
    files = (path for path in home.root.rglob("*") if path.is_file() and path.name != "chats.jsonl")
    return b"".join(path.read_bytes() for path in files)


def test_the_persons_rows_manifests_and_conversations_are_gone_and_do_not_come_back(home: MemberHome) -> None:
    assert len(rows_of(home).features) == 5
    assert rows_kept(home) == 5
    assert is_kept(home, "otter")
    report = forget_person(home, "otter", now=NOW)
    assert (report.source_conversations, report.rows_removed, report.manifests_removed) == (2, 2, 1)
    assert rows_kept(home) == 3
    assert not is_kept(home, "otter")
    # Reading the source again does not bring them back, whatever the spelling there.
    assert read_again(home) == {"c1", "c3", "c4"}
    assert len(rows_of(home).features) == 3


def test_rows_that_hold_only_others_stay(home: MemberHome) -> None:
    rows_of(home)
    forget_person(home, "otter", now=NOW)
    assert (is_kept(home, "toad"), is_kept(home, "wren"), rows_kept(home)) == (True, True, 3)
    for person in ("wren", "newt", "lark"):
        forget_person(home, person, now=NOW)
    assert cached(home) == [], "no file stays without a row in it"


def test_no_byte_of_the_rows_stays_in_the_file(home: MemberHome) -> None:
    write_source(home, ("otter", *["heron"] * 76), ("newt", "toad"))
    rows_of(home)
    row = np.full(3, 77, dtype="<f4").tobytes()
    assert row in all_bytes(home)
    forget_person(home, "otter", now=NOW)
    assert rows_kept(home) == 1
    assert row not in all_bytes(home)


def test_rows_of_which_nobody_knows_whose_they_are_go_with_anybody(home: MemberHome) -> None:
    home.cache.mkdir(exist_ok=True)
    (home.cache / "rows-0123.safetensors").write_bytes(b"left by an earlier version")
    (home.cache / ".rows-0123.safetensors.ab12.new").write_bytes(b"left by a killed process")
    (home.cache / "manifest-0123.json").write_bytes(b"{ torn")
    forget_person(home, "otter", now=NOW)
    assert cached(home) == []


@pytest.mark.parametrize("spelling", ["Otter", "OTTER", "otter", " ｏｔｔｅｒ "])
def test_a_change_of_case_or_width_is_the_same_person(home: MemberHome, spelling: str) -> None:
    forget_person(home, spelling, now=NOW)
    assert read_again(home) == {"c1", "c3", "c4"}
    assert forget_person(home, "oTTer", now=NOW).already_since is not None
    assert len(load_exclusions(home).people) == 1


def test_forgetting_twice_says_when_it_was_first_and_changes_nothing(home: MemberHome) -> None:
    rows_of(home)
    forget_person(home, "otter", now=NOW)
    before = load_exclusions(home)
    again = forget_person(home, "otter", now=NOW + 9 * 86_400)
    assert again.already_since == "2026-09-22"
    assert (again.rows_removed, again.manifests_removed, again.answers_withdrawn) == (0, 0, 0)
    assert load_exclusions(home) == before


def test_nobody_unknown_is_excluded_by_a_slip_of_the_pen(home: MemberHome) -> None:
    rows_of(home)
    charge_rounds(home, "spring", rounds=[1], sent=False)
    with pytest.raises(DataError) as caught:
        forget_person(home, "ottter", now=NOW)
    assert "ottter" not in caught.value.message + caught.value.hint
    assert rows_kept(home) == 5
    assert len(stored_keys(home)) == 1
    assert not home.exclusions_file.exists()
    assert forget_person(home, "ottter", now=NOW, even_if_unknown=True).source_conversations == 0
    assert len(load_exclusions(home).people) == 1


@pytest.mark.parametrize("name", ["", "  "])
def test_a_person_without_a_name_is_nobody(home: MemberHome, name: str) -> None:
    with pytest.raises(DataError):
        forget_person(home, name, now=NOW, even_if_unknown=True)


def test_somebody_who_left_the_source_is_still_found_in_what_was_derived(home: MemberHome) -> None:
    rows_of(home)
    write_source(home, ("newt", "toad"), ("vole", "wren"))
    report = forget_person(home, "otter", now=NOW)
    assert (report.source_conversations, report.rows_removed) == (0, 2)


def test_a_source_that_cannot_be_read_keeps_nobody_from_being_forgotten(home: MemberHome) -> None:
    rows_of(home)
    (home.root / "chats.jsonl").unlink()
    report = forget_person(home, "otter", now=NOW)
    assert report.source_conversations is None
    assert not is_kept(home, "otter")
    with pytest.raises(DataError, match="cannot be read"):
        forget_person(home, "ottter", now=NOW)


class TestUnsentAnswers:
    def test_that_may_hold_the_person_are_withdrawn_and_their_charges_stay(self, home: MemberHome) -> None:
        everybody = load_labelled(home, settings(home))
        with_person = rows_of(home, everybody).manifest.digest()
        without = rows_of(home, everybody[3:]).manifest.digest()
        charge_rounds(home, "a", rounds=[1], dataset=with_person, sent=True)
        charge_rounds(home, "a", rounds=[2], dataset=with_person, sent=False)
        charge_rounds(home, "b", rounds=[1], dataset=without, sent=False)
        charge_rounds(home, "c", rounds=[1], dataset="9" * 64, sent=False)  # nobody knows who is in it
        with open_home_ledger(home) as ledger:
            before = ledger.state
        report = forget_person(home, "otter", now=NOW)
        assert (report.answers_withdrawn, report.answers_waiting) == (2, 0)
        assert stored_keys(home) == ["run/north/a/round/1/attempt/1", "run/north/b/round/1/attempt/1"]
        with open_home_ledger(home) as ledger:
            assert ledger.state == before, "the charges stay"
            assert ledger.unsent() == ("run/north/b/round/1/attempt/1",)
            with pytest.raises(BudgetError) as caught:
                ledger.released("run/north/a/round/2/attempt/1")
            assert caught.value.code == "ledger_withdrawn"
        assert report.epsilon_spent is not None
        assert 0 < report.epsilon_spent < 3

    def test_leave_no_byte_in_the_ledgers_file(self, home: MemberHome) -> None:
        charge_rounds(home, "a", rounds=[2], sent=False)
        assert b"payload run/north/a/round/2" in all_bytes(home)
        forget_person(home, "otter", now=NOW)
        with open_home_ledger(home):
            pass  # closing moves the journal into the file
        assert b"payload run/north/a/round/2" not in all_bytes(home)

    def test_wait_for_the_agent_that_holds_the_ledger(self, home: MemberHome) -> None:
        charge_rounds(home, "a", rounds=[1], sent=False)
        with open_home_ledger(home) as agents:
            report = forget_person(home, "otter", now=NOW)
            assert (report.answers_withdrawn, report.answers_waiting) == (0, 1)
            assert len(stored_keys(home)) == 1
            assert read_again(home) == {"c1", "c3", "c4"}
            assert finish_withdrawals(home, owner=agents) == 1
            assert stored_keys(home) == []
            assert finish_withdrawals(home, owner=agents) == 0

    def test_are_withdrawn_by_repeating_the_request_once_the_agent_stopped(self, home: MemberHome) -> None:
        rows_of(home)
        charge_rounds(home, "a", rounds=[1], sent=False)
        with open_home_ledger(home):
            forget_person(home, "otter", now=NOW)
        report = forget_person(home, "otter", now=NOW)
        assert (report.answers_withdrawn, report.answers_waiting) == (1, 0)
        assert load_exclusions(home).to_withdraw == ()

    @pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
    def test_are_withdrawn_if_nobody_can_say_any_more_whom_their_manifests_hold(
        self, home: MemberHome, replaced: bool
    ) -> None:
        dataset = rows_of(home).manifest.digest()
        charge_rounds(home, "a", rounds=[1], dataset=dataset, sent=False)
        home.contribution_key_file.unlink()
        if replaced:
            contribution_secret(home)
        report = forget_person(home, "otter", now=NOW)
        assert (report.rows_removed, report.manifests_removed, report.answers_withdrawn) == (5, 1, 1)
        assert stored_keys(home) == []
        assert cached(home) == []

    def test_stay_if_a_manifest_under_the_new_key_proves_that_the_person_is_not_in_them(
        self, home: MemberHome
    ) -> None:
        rows_of(home)
        home.contribution_key_file.unlink()
        without = rows_of(home, load_labelled(home, settings(home))[3:]).manifest.digest()
        charge_rounds(home, "b", rounds=[1], dataset=without, sent=False)
        report = forget_person(home, "otter", now=NOW)
        assert (report.manifests_removed, report.answers_withdrawn) == (1, 0)

    def test_of_a_manifest_that_does_not_say_under_which_key_are_withdrawn(self, home: MemberHome) -> None:
        dataset = rows_of(home, load_labelled(home, settings(home))[3:]).manifest.digest()
        charge_rounds(home, "a", rounds=[1], dataset=dataset, sent=False)
        (path,) = home.cache.glob("manifest-*")
        path.write_text(json.dumps({"participants": json.loads(path.read_bytes())["participants"]}))
        report = forget_person(home, "otter", now=NOW)
        assert (report.manifests_removed, report.answers_withdrawn) == (1, 1)

    def test_of_a_ledger_in_doubt_are_left_alone_but_the_person_is_excluded(self, home: MemberHome) -> None:
        rows_of(home)
        charge_rounds(home, "a", rounds=[1], sent=False)
        home.ledger_anchor_file.unlink()
        with pytest.raises(BudgetError) as caught:
            forget_person(home, "otter", now=NOW)
        assert caught.value.code == "ledger_no_anchor"
        assert not is_kept(home, "otter")
        assert load_exclusions(home).since("otter") is not None


def test_nothing_that_the_member_keeps_names_the_person(home: MemberHome) -> None:
    rows_of(home)
    forget_person(home, "otter", now=NOW)
    kept = all_bytes(home).lower()
    assert b"otter" not in kept
    assert home.exclusions_file.stat().st_mode & 0o077 == 0


def test_two_members_hash_the_same_person_differently(tmp_path: Path) -> None:
    homes = [make_home(tmp_path / name) for name in ("a", "b")]
    for home in homes:
        forget_person(home, "otter", now=NOW, even_if_unknown=True)
    first, second = (set(load_exclusions(home).people) for home in homes)
    assert not first & second


def test_damaged_exclusions_stop_training_instead_of_bringing_people_back(home: MemberHome) -> None:
    forget_person(home, "otter", now=NOW)
    found = load_labelled(home, settings(home))
    home.exclusions_file.write_text("{")
    for action in (
        lambda: load_labelled(home, settings(home)),
        lambda: rows_of(home, found),
        lambda: forget_person(home, "newt", now=NOW),
    ):
        with pytest.raises(ConfigError, match="nobody knows whom to leave out"):
            action()


def _make_slow_rows(root: Path, started: Any) -> None:
    home = MemberHome(root)
    conversations = load_labelled(home, settings(home))

    class Slow(Features):
        def rows(self, conversation: Conversation, *, prefixes: tuple[float, ...]) -> np.ndarray:
            started.set()
            time.sleep(0.1)
            return super().rows(conversation, prefixes=prefixes)

    training_rows(
        home,
        conversations=conversations,
        feature_set=Slow(),  # type: ignore[arg-type]
        prefixes=(1.0,),
        contribution_bound=2,
        bounds="greedy",
    )


def test_rows_that_are_being_made_while_the_person_is_forgotten_do_not_stay(home: MemberHome) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=_make_slow_rows, args=(home.root, started))
    worker.start()
    assert started.wait(60)
    forget_person(home, "otter", now=NOW)
    worker.join(60)
    assert worker.exitcode == 0
    assert not is_kept(home, "otter")
    assert rows_kept(home) == 3, "those of others were made all the same"


def test_conversations_read_before_the_request_make_no_rows_after_it(home: MemberHome) -> None:
    read_before = load_labelled(home, settings(home))
    forget_person(home, "otter", now=NOW)
    assert len(rows_of(home, read_before).features) == 3


def test_conversations_read_under_a_key_that_was_replaced_make_no_rows(home: MemberHome) -> None:
    read_before = load_labelled(home, settings(home))

    class Replacing(Features):
        def rows(self, conversation: Conversation, *, prefixes: tuple[float, ...]) -> np.ndarray:
            if not home.exclusions_file.exists():
                home.contribution_key_file.unlink()
                forget_person(home, "otter", now=NOW)
            return super().rows(conversation, prefixes=prefixes)

    with pytest.raises(ConfigError, match="was replaced"):
        training_rows(
            home,
            conversations=read_before,
            feature_set=Replacing(),  # type: ignore[arg-type]
            prefixes=(1.0,),
            contribution_bound=2,
            bounds="greedy",
        )
    assert cached(home) == []


def test_files_that_cannot_be_removed_are_named_and_the_request_can_be_repeated(home: MemberHome) -> None:
    obstacle = home.cache / "rows-0123.safetensors"
    obstacle.mkdir(parents=True)
    with pytest.raises(ConfigError, match="rows-0123"):
        forget_person(home, "otter", now=NOW)
    assert load_exclusions(home).since("otter") is not None
    obstacle.rmdir()
    forget_person(home, "otter", now=NOW)


def test_when_nobody_is_left_training_says_so(home: MemberHome) -> None:
    write_source(home, ("otter", "newt"), ("otter", "toad"))
    found = load_labelled(home, settings(home))
    forget_person(home, "otter", now=NOW)
    with pytest.raises(DataError):
        rows_of(home, found)


class TestTheCommand:
    def test_prints_what_was_done_and_what_a_model_cannot_forget(
        self, home: MemberHome, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows_of(home)
        charge_rounds(home, "a", rounds=[1], sent=False, at=time.time() - 60)
        assert run_application(application, ["forget", "otter", "--home", str(home.root)]) == 0
        text = capsys.readouterr()
        for part in (
            "feature rows of 2 conversations",
            "1 unsent answers",
            "cannot forget",
            "charges stay",
            "backups",
            "epsilon",
        ):
            assert part in text.out
        assert "otter" not in (text.out + text.err).lower()
        assert run_application(application, ["forget", "otter", "--home", str(home.root), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert data["already_since"] is not None
        assert "otter" not in json.dumps(data).lower()

    def test_reads_the_name_from_standard_input(
        self, home: MemberHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("newt\n"))
        assert run_application(application, ["forget", "-", "--home", str(home.root)]) == 0
        assert load_exclusions(home).since("newt") is not None

    def test_fails_while_the_agent_has_answers_to_withdraw(
        self, home: MemberHome, capsys: pytest.CaptureFixture[str]
    ) -> None:
        charge_rounds(home, "a", rounds=[1], sent=False, at=time.time() - 60)
        with open_home_ledger(home, now=time.time()):
            code = run_application(application, ["forget", "otter", "--home", str(home.root), "--json"])
        assert code == 1
        assert "Repeat this command" in json.loads(capsys.readouterr().out)["hint"]

    def test_refuses_an_unknown_name_without_repeating_it(
        self, home: MemberHome, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_application(application, ["forget", "ottter", "--home", str(home.root), "--json"]) == 4
        written = capsys.readouterr()
        assert "--even-if-unknown" in written.err
        assert "ottter" not in written.out + written.err

    def test_a_check_of_the_data_counts_without_those_forgotten(
        self, home: MemberHome, capsys: pytest.CaptureFixture[str]
    ) -> None:
        forget_person(home, "otter", now=NOW)
        assert run_application(application, ["check", "--home", str(home.root), "--json"]) == 0
        written = capsys.readouterr()
        data = json.loads(written.out)["data"]
        assert data["conversations"]["positive"] + data["conversations"]["negative"] == 3
        assert "2 conversations hold somebody who was forgotten" in written.err


def test_the_secret_of_the_pseudonyms_is_not_made_by_forgetting(home: MemberHome) -> None:
    forget_person(home, "otter", now=NOW)
    assert not home.contribution_key_file.exists()
    assert contribution_secret(home)
