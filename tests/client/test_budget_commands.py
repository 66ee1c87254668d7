"""``ringfence budget``: numbers that are right, a ledger that is in doubt never shown as sound, the agent never disturbed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from ledger_homes import (
    DAY_S,
    OPENED,
    PLAN,
    ROUND,
    TERMS,
    charge_rounds,
    make_home,
    open_home_ledger,
    write_settings,
)

from ringfence.client import status
from ringfence.client.budget_commands import application
from ringfence.client.member_home import MemberHome
from ringfence.client.policy import Policy, default_policy
from ringfence.client.policy_text import save_policy
from ringfence.model.console import run_application
from ringfence.privacy.gaussian_privacy import gaussian_epsilon
from ringfence.privacy.ledger_charge import Charge
from ringfence.privacy.renyi_filter import SampledGaussian


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return make_home(tmp_path / "home")


class Shell:
    """Runs a command and remembers what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, home: MemberHome, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = run_application(application, [*arguments, "--home", str(home.root)])
        written = self._capsys.readouterr()
        return code, written.out, written.err

    def data(self, home: MemberHome, *arguments: str) -> dict[str, Any]:
        code, out, _ = self.run(home, *arguments, "--json")
        envelope = json.loads(out)
        assert (code, envelope["status"]) == (0, "ok")
        return dict(envelope["data"])

    def refusal(self, home: MemberHome, *arguments: str) -> tuple[int, str]:
        code, out, err = self.run(home, *arguments, "--json")
        envelope = json.loads(out)
        assert envelope["status"] == "error"
        assert envelope["hint"]
        assert "fix:" in err
        return code, envelope["error_code"]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_what_is_shown_is_what_was_charged(home: MemberHome, shell: Shell) -> None:
    charge_rounds(home, "spring")
    charge_rounds(home, "autumn", rounds=range(1, 4), at=OPENED + 200 * DAY_S)
    found = shell.data(home, "show")
    for total, lifetime in (("headline", TERMS.headline), ("fallback", TERMS.fallback)):
        share = 13 * lifetime.cost_of(ROUND) / lifetime.budget
        assert found[total]["used_share"] == pytest.approx(share, rel=1e-6)
        assert found[total]["filter_epsilon"] == pytest.approx(
            lifetime.epsilon_of(13 * lifetime.cost_of(ROUND)), rel=1e-6
        )
        pld = found[total]["pld_epsilon_by_platforms"]
        for members in (1, 2, 3):
            mu = 2 * (390 * members) ** 0.5 / 77.25
            assert pld[str(members)] == pytest.approx(gaussian_epsilon(mu, delta=1e-6), rel=1e-9)
        assert pld["1"] < found[total]["filter_epsilon"], "the filter is the more careful of the two"
    assert [(run["name"], run["charges"]) for run in found["runs"]] == [
        ("north/spring", 10),
        ("north/autumn", 3),
    ]
    assert len(found["timeline"]) == 14


def test_runs_left_counts_runs_like_the_last_plans_largest_and_the_tighter_total(
    home: MemberHome, shell: Shell
) -> None:
    charge_rounds(home, "spring")
    charge_rounds(home, "autumn", rounds=range(1, 4), at=OPENED + DAY_S)
    found = shell.data(home, "show")
    whole_runs = TERMS.headline.budget / TERMS.headline.cost_of(ROUND) / 10
    assert found["runs_left"] == found["headline"]["runs_left"] == int(whole_runs - 1.3)
    assert found["fallback"]["runs_left"] > found["runs_left"]
    charge_rounds(
        home,
        "small",
        rounds=[1],
        at=OPENED + 2 * DAY_S,
        plan="e" * 64,
        mechanism=SampledGaussian(2, 1, 800, 1),
    )
    assert shell.data(home, "show")["runs_left"] > 1000


def test_shared_noise_is_counted_for_a_person_on_several_members_in_one_sum(
    home: MemberHome, shell: Shell
) -> None:
    charge_rounds(home, "shared", rounds=[1], own_noise=40.0)
    found = shell.data(home, "show")
    by_members = found["headline"]["pld_epsilon_by_platforms"]
    assert by_members["2"] == pytest.approx(gaussian_epsilon(4 * 30**0.5 / 77.25, delta=1e-6))
    assert found["fallback"]["pld_epsilon_by_platforms"]["1"] == pytest.approx(
        gaussian_epsilon(2 * 30**0.5 / 40.0, delta=1e-6)
    )


def test_runs_left_leave_alone_what_the_policy_keeps_for_heads_of_ones_own(
    home: MemberHome, shell: Shell
) -> None:
    charge_rounds(home, "spring")
    before = shell.data(home, "show")
    assert before["headline"]["reserved_share"] == 0.0
    assert "kept for own heads" not in shell.run(home, "show")[1]
    save_policy(home, policy=keeping(0.5))
    found = shell.data(home, "show")
    budget = TERMS.headline.budget
    run = 10 * TERMS.headline.cost_of(ROUND)
    assert found["runs_left"] == int((0.5 * budget - run) / run) < before["runs_left"]
    assert found["headline"]["used_share"] == before["headline"]["used_share"]
    assert found["headline"]["reserved_share"] == pytest.approx(0.5)
    assert "kept for own heads" in shell.run(home, "show")[1]
    # What is spent out of the reserve is not reserved any more, and takes nothing from the runs.
    with open_home_ledger(home) as ledger:
        for number in range(20):
            own = Charge(f"personalise/{number}", PLAN, "d" * 64, 1, ROUND, ROUND.noise_multiplier)
            ledger.charge(own, b"a head", now=OPENED + DAY_S, kind="personalise")
    after = shell.data(home, "show")
    assert after["runs_left"] == found["runs_left"]
    assert after["headline"]["reserved_share"] == pytest.approx(0.5 - 2 * run / budget)
    summary, _ = status._budget(home)
    assert summary is not None
    assert summary.runs_left == found["runs_left"]


def keeping(share: float) -> Policy:
    rules = default_policy(federation="north")
    return rules.model_copy(
        update={"budget": rules.budget.model_copy(update={"personalisation_share": share})}
    )


def test_the_runs_that_a_new_budget_has_room_for_leave_that_alone_too(tmp_path: Path, shell: Shell) -> None:
    found = {}
    for share in (0.0, 0.5):
        home = MemberHome(tmp_path / f"home-{share}").create()
        write_settings(home)
        save_policy(home, policy=keeping(share))
        found[share] = shell.data(home, "open")["runs_at_the_limit"]
    assert found[0.5] == found[0.0] // 2 > 0


def test_a_person_reads_both_figures_each_under_its_name(home: MemberHome, shell: Shell) -> None:
    charge_rounds(home, "spring")
    code, out, _ = shell.run(home, "show")
    assert code == 0
    for part in (
        "by the filter",
        "by PLD",
        "left, as the filter counts",
        "runs left",
        "100 % |",
        "never decides",
    ):
        assert part in out
    assert max(len(line) for line in out.splitlines()) <= 112


def test_an_empty_ledger_says_that_nothing_was_charged(home: MemberHome, shell: Shell) -> None:
    code, out, _ = shell.run(home, "show")
    assert code == 0
    assert "Nothing was charged yet" in out
    assert "no run yet" in out
    found = shell.data(home, "show")
    assert found["headline"]["filter_epsilon"] == found["headline"]["used_share"] == 0
    assert found["runs_left"] is None
    assert shell.data(home, "ledger")["entries"][0]["kind"] == "open"
    assert list(shell.data(home, "verify")["checks"]) == ["chain", "anchor", "outbox"]


def test_a_closed_ledger_says_so_and_allows_no_run(home: MemberHome, shell: Shell) -> None:
    charge_rounds(home, "spring")
    with open_home_ledger(home) as ledger:
        ledger.close_for_good(now=OPENED + 400 * DAY_S)
    assert "closed for good" in shell.run(home, "show")[1]
    found = shell.data(home, "show")
    assert found["closed"]
    assert found["runs_left"] == 0
    assert shell.run(home, "verify")[0] == 0


def test_it_works_while_the_agent_holds_the_ledger_and_disturbs_nothing(
    home: MemberHome, shell: Shell
) -> None:
    charge_rounds(home, "spring", rounds=[1])
    with open_home_ledger(home) as agent:
        for command in ("show", "ledger", "verify"):
            assert shell.run(home, command)[0] == 0
        before = agent.state
        assert agent.verify() == before
    charge_rounds(home, "spring", rounds=[2], at=OPENED + DAY_S)
    assert len(shell.data(home, "ledger")["entries"]) == 3


def test_entries_are_listed_as_they_were_written(home: MemberHome, shell: Shell) -> None:
    charge_rounds(home, "spring", rounds=[1, 2])
    found = shell.data(home, "ledger")
    assert found["sound"]
    assert [entry["key"] for entry in found["entries"]][1:] == [
        "run/north/spring/round/1/attempt/1",
        "run/north/spring/round/2/attempt/1",
    ]
    assert found["entries"][1]["body"]["plan"] == PLAN
    assert found["entries"][2]["previous"] == found["entries"][1]["hash"]
    assert len(shell.data(home, "ledger", "--last", "1")["entries"]) == 1
    assert shell.run(home, "ledger")[1].count("charge") == 2


def damage_entry(home: MemberHome, **_: object) -> None:
    change(
        home,
        "UPDATE entry SET body = replace(body, '77.25', '99.25') WHERE seq = 2",
        "entry_is_never_changed",
    )


def damage_payload(home: MemberHome) -> None:
    change(home, "UPDATE outbox SET payload = x'00' WHERE rowid = 1", "payload_is_never_changed")


def change(home: MemberHome, statement: str, trigger: str) -> None:
    """Do what somebody with the file does: drop the trigger first."""
    with sqlite3.connect(home.ledger_file) as database:
        database.execute(f"DROP TRIGGER {trigger}")
        database.execute(statement)


def restore_backup(home: MemberHome) -> None:
    shutil.copy(home.root / "backup.db", home.ledger_file)


def lose_anchor(home: MemberHome) -> None:
    home.ledger_anchor_file.unlink()


def lose_ledger(home: MemberHome) -> None:
    home.ledger_file.unlink()


def open_to_others(home: MemberHome) -> None:
    home.ledger_file.chmod(0o644)


def write_nonsense(home: MemberHome) -> None:
    home.ledger_file.write_bytes(b"not a database at all " * 300)


@pytest.mark.parametrize(
    ("fault", "code", "shown"),
    [
        (damage_entry, "ledger_damaged", False),
        (damage_payload, "ledger_damaged", True),  # what was spent is certain all the same
        (restore_backup, "ledger_behind", False),
        (lose_anchor, "ledger_no_anchor", False),
        (lose_ledger, "ledger_missing", False),
        (open_to_others, "ledger_permissions", False),
        (write_nonsense, "ledger_damaged", False),
    ],
)
def test_a_ledger_in_doubt_is_named_and_its_budget_never_shown(
    home: MemberHome, shell: Shell, fault: Any, code: str, shown: bool
) -> None:
    charge_rounds(home, "spring", rounds=[1, 2])
    shutil.copy(home.ledger_file, home.root / "backup.db")
    charge_rounds(home, "spring", rounds=[3], at=OPENED + DAY_S)
    assert shell.run(home, "verify")[0] == 0
    fault(home)
    assert shell.refusal(home, "verify") == (1, code)
    if shown:
        assert shell.run(home, "show")[0] == 0
    else:
        assert shell.refusal(home, "show") == (1, code)


def test_a_damaged_chain_is_still_listed_with_a_warning_and_the_entry_is_named(
    home: MemberHome, shell: Shell
) -> None:
    charge_rounds(home, "spring", rounds=[1, 2])
    damage_entry(home)
    code, out, err = shell.run(home, "ledger")
    assert code == 0
    assert out.count("charge") == 2
    assert "warning" in err
    assert not shell.data(home, "ledger")["sound"]
    assert "entry 2 does not follow" in shell.run(home, "verify")[2]


def test_before_the_budget_is_opened_the_way_is_named(tmp_path: Path, shell: Shell) -> None:
    for command in ("show", "ledger", "verify"):
        code, _, err = shell.run(MemberHome(tmp_path), command)
        assert code == 4
        assert "ringfence budget open" in err


def test_the_image_is_svg_and_holds_the_lines(home: MemberHome, shell: Shell, tmp_path: Path) -> None:
    charge_rounds(home, "spring", own_noise=50.0)
    image = tmp_path / "budget.svg"
    assert shell.data(home, "show", "--image", str(image))["image"] == str(image)
    root = ElementTree.fromstring(image.read_text())  # noqa: S314 - our own file
    assert len(root.findall("{http://www.w3.org/2000/svg}path")) == 2
    assert "http" not in image.read_text().replace("http://www.w3.org/2000/svg", "")
    code, _, err = shell.run(home, "show", "--image", str(tmp_path / "budget.png"))
    assert (code, "svg" in err) == (4, True)


class TestOpening:
    @pytest.fixture
    def joined(self, tmp_path: Path) -> MemberHome:
        home = MemberHome(tmp_path / "home")
        home.root.mkdir(mode=0o700)
        home.settings_file.write_text(
            'federation = "north"\nmember = "acme"\nfleet_address = "localhost:1"\nrelease_address = "localhost:2"\n'
            'plan_public_key = "x"\n[data]\nlineage = "chats"\n'
        )
        home.policy_file.write_text("[budget]\nlifetime_epsilon = 6.0\nlifetime_epsilon_fallback = 7.0\n")
        home.policy_file.chmod(0o600)
        return home

    def test_takes_the_terms_of_the_policy_and_explains_them(self, joined: MemberHome, shell: Shell) -> None:
        code, out, err = shell.run(joined, "open")
        assert code == 0, err
        for part in ("'chats'", "Lifetime epsilon 6", "7 if everybody", "does not come back", "once"):
            assert part in out
        assert "one disk" in err
        found = shell.data(joined, "show")
        assert (found["lineage"], found["headline"]["lifetime_epsilon"]) == ("chats", 6.0)
        assert abs(found["opened_at"] - time.time()) < 60

    def test_happens_once(self, joined: MemberHome, shell: Shell) -> None:
        assert shell.data(joined, "open")["lineage"] == "chats"
        before = joined.ledger_file.read_bytes()
        assert shell.refusal(joined, "open") == (1, "ledger_exists")
        assert joined.ledger_file.read_bytes() == before
        joined.ledger_file.unlink()
        assert shell.refusal(joined, "open") == (1, "ledger_exists"), "the anchor remembers it"

    def test_makes_no_folder_where_the_second_places_disk_is_not_mounted(
        self, joined: MemberHome, shell: Shell, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "disk" / "anchor"
        joined.policy_file.write_text(f'[ledger]\nanchor_path = "{elsewhere / "ledger.head"}"\n')
        code, error = shell.refusal(joined, "open")
        assert (code, error) == (4, "bad_config")
        assert not elsewhere.parent.exists()
        assert not joined.ledger_file.exists()
        elsewhere.mkdir(parents=True, mode=0o700)
        assert shell.data(joined, "open")["anchor_file"] == str(elsewhere / "ledger.head")

    @pytest.mark.parametrize("key", ["", "ab" * 32])
    def test_says_whether_anybody_could_sign_for_more(
        self, joined: MemberHome, shell: Shell, key: str
    ) -> None:
        joined.policy_file.write_text(f'[ledger]\ndata_protection_key = "{key}"\n')
        _, out, _ = shell.run(joined, "open")
        assert ("ringfence budget amend" in out) is bool(key)
        assert ("stay for life" in out) is not bool(key)
        _, out, _ = shell.run(joined, "show")
        assert ("ringfence budget amend" in out) is bool(key)
        assert shell.data(joined, "show")["amendable"] is bool(key)

    def test_needs_a_policy(self, joined: MemberHome, shell: Shell) -> None:
        joined.policy_file.unlink()
        code, _, err = shell.run(joined, "open")
        assert code == 4
        assert "ringfence policy init" in err
        assert not joined.ledger_file.exists()
