"""What the ledger refuses: each fault is a row, and names the code that the operator sees."""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence.model.errors import BudgetError, ConfigError
from ringfence.privacy import ledger_place
from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_place import file_system_of
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms, cost_in_units
from ringfence.privacy.renyi_filter import SampledGaussian

NOW = 1_800_000_000.0
YEAR_S = 365 * 86_400.0
RUN = SampledGaussian(2, 1.0, 100.0, 300)
TERMS = LedgerTerms("acme", limits=LedgerLimits(noise_floor=50.0, returned_head_required=False))


def charge(number: int, **changes) -> Charge:
    values = {
        "key": release_key("r", round_number=number, attempt=1),
        "plan_digest": "a" * 64,
        "dataset_digest": "d" * 64,
        "cohort": 3,
        "mechanism": RUN,
        "own_noise_multiplier": 100.0,
    }
    return Charge(**{**values, **changes})


def open_ledger(folder: Path, *, lineage: str = "acme", now: float = NOW) -> Ledger:
    return Ledger.open(folder / "ledger.db", anchor_path=folder / "anchor", lineage=lineage, now=now)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a ledger of three charges that is not open."""
    place = tmp_path / "member"
    place.mkdir(mode=0o700)
    with Ledger.create(place / "ledger.db", anchor_path=place / "anchor", terms=TERMS, now=NOW) as ledger:
        for number in range(3):
            ledger.charge(charge(number), b"payload %d" % number, now=NOW + number)
    return place


def code_of(action) -> str:
    with pytest.raises(BudgetError) as caught:
        action()
    assert caught.value.hint
    return caught.value.code


def place_that_is_open_to_others(folder: Path) -> Path:
    """Return what a refusal for permissions names."""
    with pytest.raises(BudgetError) as caught:
        open_ledger(folder)
    assert caught.value.code == "ledger_permissions"
    return Path(caught.value.message.partition(" can be read")[0])


class TestAChargeOutsideTheMembersLimits:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            (
                {"mechanism": SampledGaussian(2, 1.0, 49.9, 1), "own_noise_multiplier": 49.9},
                "ledger_noise_floor",
            ),
            ({"own_noise_multiplier": 49.9}, "ledger_noise_floor"),
            ({"own_noise_multiplier": math.nan}, "ledger_noise_floor"),
            ({"own_noise_multiplier": math.inf}, "ledger_noise_floor"),
            ({"own_noise_multiplier": 101.0}, "ledger_bad_charge"),
            ({"mechanism": SampledGaussian(3, 1.0, 100.0, 1)}, "ledger_over_limit"),
            ({"mechanism": SampledGaussian(2, 1.0, 100.0, 1001)}, "ledger_over_limit"),
            ({"cohort": 1}, "ledger_small_cohort"),
            ({"key": ""}, "ledger_bad_charge"),
            ({"key": "k" * 257}, "ledger_bad_charge"),
            ({"key": "line\nbreak"}, "ledger_bad_charge"),
            ({"key": "open"}, "ledger_key_reused"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_is_refused_and_costs_nothing(self, folder, changes, code):
        with open_ledger(folder) as ledger:
            before = ledger.state
            assert code_of(lambda: ledger.charge(charge(9, **changes), b"x", now=NOW + 9)) == code
            assert ledger.verify() == before

    def test_is_refused_when_it_samples_more_than_allowed(self, tmp_path):
        limits = LedgerLimits(noise_floor=1.0, sample_rate=0.1, returned_head_required=False)
        terms = replace(TERMS, limits=limits)
        with Ledger.create(tmp_path / "l.db", anchor_path=tmp_path / "a", terms=terms, now=NOW) as ledger:
            assert code_of(lambda: ledger.charge(charge(1), b"x", now=NOW)) == "ledger_over_limit"

    def test_without_a_payload_is_refused(self, folder):
        with open_ledger(folder) as ledger:
            assert code_of(lambda: ledger.charge(charge(9), b"", now=NOW + 9)) == "ledger_bad_charge"

    @pytest.mark.parametrize("noise", [math.nan, math.inf, 0.0, -1.0])
    def test_cannot_even_be_written_down_without_real_noise(self, noise):
        with pytest.raises(BudgetError):
            SampledGaussian(2, 1.0, noise, 300)


class TestTheClock:
    @pytest.mark.parametrize("now", [NOW - 86_400, NOW - 200, math.nan, -1.0, math.inf])
    def test_set_back_is_refused_when_charging(self, folder, now):
        with open_ledger(folder, now=NOW + 10) as ledger:
            assert code_of(lambda: ledger.charge(charge(9), b"x", now=now)) == "ledger_clock"

    @pytest.mark.parametrize("now", [math.nan, -1.0, math.inf])
    def test_that_shows_no_time_is_refused_whatever_was_confirmed(self, folder, now):
        assert code_of(lambda: open_ledger(folder, now=now)) == "ledger_clock"
        with open_ledger(folder) as ledger:
            ledger.confirm(ledger.head)
            assert code_of(lambda: ledger.charge(charge(9), b"x", now=now)) == "ledger_clock"
            assert code_of(lambda: ledger.close_for_good(now=now)) == "ledger_clock"

    def test_corrected_by_a_minute_is_accepted(self, folder):
        with open_ledger(folder, now=NOW - 60) as ledger:
            ledger.charge(charge(9), b"x", now=NOW - 60)

    def test_set_far_ahead_gives_no_budget_back(self, folder):
        with open_ledger(folder) as ledger:
            spent = ledger.state.headline_units
            ledger.charge(charge(9), b"x", now=NOW + 100 * 365 * 86_400)
            assert ledger.state.headline_units > spent

    def test_that_was_once_far_ahead_locks_nothing_once_the_head_is_confirmed_and_refills_nothing(
        self, folder
    ):
        with open_ledger(folder) as ledger:
            ledger.charge(charge(7), b"x", now=NOW + 50 * YEAR_S)
            spent = ledger.state.headline_units
        with open_ledger(folder, now=NOW + 60) as ledger:
            assert code_of(lambda: ledger.charge(charge(8), b"x", now=NOW + 60)) == "ledger_clock"
            ledger.confirm(ledger.head)
            ledger.charge(charge(8), b"x", now=NOW + 60)
            assert ledger.state.newest_time == NOW + 60
            assert ledger.state.headline_units == spent + cost_in_units(TERMS.headline, RUN)
            assert ledger.verify() == ledger.state
        with open_ledger(folder, now=NOW + 120) as ledger:
            ledger.charge(charge(9), b"x", now=NOW + 120)

    def test_that_was_once_far_ahead_does_not_keep_a_ledger_from_being_closed(self, folder):
        with open_ledger(folder) as ledger:
            ledger.charge(charge(7), b"x", now=NOW + 50 * YEAR_S)
        with open_ledger(folder, now=NOW) as ledger:
            ledger.close_for_good(now=NOW)
            assert ledger.state.closed


class TestTwoAgents:
    def test_of_one_process_cannot_share_a_ledger(self, folder):
        with open_ledger(folder):
            assert code_of(lambda: open_ledger(folder)) == "ledger_locked"

    def test_of_two_processes_cannot_share_a_ledger(self, folder):
        script = (
            "import sys, time; from pathlib import Path; from ringfence.privacy.ledger import Ledger\n"
            "p = Path(sys.argv[1])\n"
            f"Ledger.open(p / 'ledger.db', anchor_path=p / 'anchor', lineage='acme', now={NOW})\n"
            "print('open', flush=True); time.sleep(60)"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            assert code_of(lambda: open_ledger(folder)) == "ledger_locked"
        finally:
            other.kill()
            other.communicate()
        open_ledger(folder).close()

    def test_cannot_work_on_two_copies_that_share_the_second_place(self, folder, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        with open_ledger(folder):

            def action():
                return Ledger.open(copy / "ledger.db", anchor_path=folder / "anchor", lineage="acme", now=NOW)

            assert code_of(action) == "ledger_locked"

    def test_cannot_work_on_one_ledger_with_a_second_place_each(self, folder, tmp_path):
        shutil.copy(folder / "anchor", tmp_path / "anchor")

        def second_agent():
            return Ledger.open(folder / "ledger.db", anchor_path=tmp_path / "anchor", lineage="acme", now=NOW)

        with open_ledger(folder):
            assert code_of(second_agent) == "ledger_locked"

    def test_cannot_inherit_a_ledger_by_forking(self, folder):
        with open_ledger(folder) as ledger:
            child = os.fork()
            if child == 0:  # pragma: no cover - runs in the child
                try:
                    ledger.charge(charge(9), b"x", now=NOW + 9)
                    os._exit(0)
                except BudgetError as error:
                    os._exit(7 if error.code == "ledger_forked" else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert ledger.charge(charge(9), b"x", now=NOW + 9) == b"x"


class TestThePlace:
    @pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o666])
    def test_that_others_can_read_or_write_is_refused_by_name(self, folder, mode):
        (folder / "ledger.db").chmod(mode)
        assert place_that_is_open_to_others(folder) == folder / "ledger.db"

    @pytest.mark.parametrize("mode", [0o777, 0o770])
    def test_in_a_folder_that_others_can_change_is_refused_by_name(self, folder, mode):
        folder.chmod(mode)
        try:
            assert place_that_is_open_to_others(folder) == folder
        finally:
            folder.chmod(0o700)

    def test_with_a_lock_that_is_a_link_or_a_second_place_that_others_write_to_is_refused_by_name(
        self, folder
    ):
        (folder / "anchor").chmod(0o666)
        assert place_that_is_open_to_others(folder) == folder / "anchor"
        (folder / "ledger.db.lock").unlink()
        (folder / "ledger.db.lock").symlink_to(folder / "elsewhere")
        assert place_that_is_open_to_others(folder) == folder / "ledger.db.lock"

    @pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic link", "hard link"])
    def test_reached_through_a_link_is_refused(self, folder, tmp_path, link):
        link(folder / "ledger.db", tmp_path / "linked.db")
        action = lambda: Ledger.open(  # noqa: E731
            tmp_path / "linked.db", anchor_path=folder / "anchor", lineage="acme", now=NOW
        )
        assert code_of(action) == "ledger_permissions"

    def test_that_belongs_to_another_user_is_refused(self, folder, monkeypatch):
        monkeypatch.setattr(ledger_place.os, "geteuid", lambda: os.getuid() + 1)
        assert code_of(lambda: open_ledger(folder)) == "ledger_permissions"

    def test_without_a_ledger_is_refused(self, tmp_path):
        assert code_of(lambda: open_ledger(tmp_path)) == "ledger_missing"

    def test_with_the_ledger_of_another_data_set_is_refused(self, folder):
        assert code_of(lambda: open_ledger(folder, lineage="other")) == "ledger_other_lineage"

    def test_makes_files_that_only_their_owner_can_read(self, folder):
        with open_ledger(folder):
            modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
        assert set(modes.values()) == {0o600}

    def test_on_a_network_file_system_is_refused(self, folder, monkeypatch):
        monkeypatch.setattr(ledger_place, "file_system_of", lambda path, *, mounts: "nfs4")
        assert code_of(lambda: open_ledger(folder)) == "ledger_network_files"

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/home/a", "ext4"),
            ("/mnt/share/x", "nfs4"),
            ("/mnt/shared", "ext4"),
            ("/mnt/share", "nfs4"),
            ("/mnt/a b/c", "cifs"),
        ],
    )
    def test_is_recognised_by_the_longest_mount_that_holds_it(self, path, kind):
        mounts = (
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "40 22 0:35 / /mnt/share rw shared:2 - nfs4 server:/x rw\n"
            "41 22 0:36 / /mnt/a\\040b rw - cifs //server/x rw\n"
            "a line of another form\n"
        )
        assert file_system_of(Path(path), mounts=mounts) == kind


def test_a_commit_is_on_disk_before_it_returns_and_never_half_there(folder):
    """Settings of the connection that no killed process can test: they matter when the power fails."""
    with open_ledger(folder) as ledger:
        connection = ledger._storage._connection
        names = ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}


class TestAFullDisk:
    def test_charges_nothing_and_the_ledger_goes_on_when_there_is_room_again(self, folder):
        with open_ledger(folder) as ledger:
            before = ledger.state
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
            try:
                for _ in range(2):
                    code = code_of(lambda: ledger.charge(charge(9), os.urandom(500_000), now=NOW + 9))
                    assert code == "ledger_disk"
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert ledger.verify() == before
            assert ledger.released(charge(9).key) is None
            assert ledger.charge(charge(9), b"there is room", now=NOW + 9) == b"there is room"
        with open_ledger(folder) as ledger:
            assert ledger.released(charge(9).key) == b"there is room"

    def test_of_the_second_place_hands_nothing_out_until_it_can_be_written(self, folder, monkeypatch):
        with open_ledger(folder) as ledger:

            def fail(*_):
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr("ringfence.privacy.ledger_anchor.os.pwrite", fail)
                assert code_of(lambda: ledger.charge(charge(9), b"first", now=NOW + 9)) == "ledger_disk"
                assert code_of(lambda: ledger.charge(charge(9), b"second", now=NOW + 9)) == "ledger_disk"
            spent = ledger.state.headline_units
            assert ledger.charge(charge(9), b"third", now=NOW + 9) == b"first"
            assert ledger.state.headline_units == spent


@pytest.mark.parametrize(
    "moment", ["before its first entry", "before the anchor's file", "before the anchor's first head"]
)
def test_a_crash_while_the_ledger_is_made_can_be_repeated(tmp_path, monkeypatch, moment):
    class Crash(BaseException):
        pass

    def crash(*_, **__):
        raise Crash

    target = {
        "before its first entry": "ringfence.privacy.ledger.LedgerStorage.append",
        "before the anchor's file": "ringfence.privacy.ledger.AnchorFile.create",
        "before the anchor's first head": "ringfence.privacy.ledger.AnchorFile.write",
    }[moment]
    place = {"path": tmp_path / "ledger.db", "anchor_path": tmp_path / "anchor"}
    with monkeypatch.context() as patch:
        patch.setattr(target, crash)
        with pytest.raises(Crash):
            Ledger.create(place["path"], anchor_path=place["anchor_path"], terms=TERMS, now=NOW)
    if moment == "before the anchor's first head":
        open_ledger(tmp_path).close()
    else:
        Ledger.create(place["path"], anchor_path=place["anchor_path"], terms=TERMS, now=NOW).close()
    with open_ledger(tmp_path) as ledger:
        ledger.charge(charge(1), b"x", now=NOW)


@pytest.mark.parametrize(
    "terms",
    [
        {"lineage": ""},
        {"headline_epsilon": 0.0},
        {"headline_epsilon": math.nan},
        {"fallback_epsilon": 4.0},
        {"fallback_epsilon": math.nan},
        {"delta": 0.0},
        {"delta": 1.0},
    ],
    ids=str,
)
def test_terms_that_promise_nothing_are_refused(terms):
    with pytest.raises(ConfigError):
        LedgerTerms(**{"lineage": "acme", **terms})


@pytest.mark.parametrize(
    "limits",
    [
        {"noise_floor": 0.0},
        {"noise_floor": math.nan},
        {"contribution_bound": 0},
        {"sample_rate": 0.0},
        {"steps": 0},
        {"minimum_cohort": 0},
    ],
    ids=str,
)
def test_limits_that_limit_nothing_are_refused(limits):
    with pytest.raises(ConfigError):
        LedgerLimits(**limits)
