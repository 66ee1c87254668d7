"""Joining as people type it: a coordinator and an agent as processes, and the commands of both sides."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from federation_harness import (
    Processes,
    accepts,
    coordinator_command,
    free_port,
    wait_until,
    write_conversations,
)

from ringfence.client.command_line import application as member_application
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings
from ringfence.model.console import run_application
from ringfence.server.command_line import application as coordinator_application


@dataclass(frozen=True)
class Place:
    """A coordinator that serves, and what people type there and elsewhere."""

    root: Path
    processes: Processes

    def coordinator(self, *words: str, expect: int = 0) -> dict[str, Any]:
        return self._typed(
            coordinator_application, *words, "--home", str(self.root / "coordinator"), expect=expect
        )

    def member(self, name: str, *words: str, expect: int = 0) -> dict[str, Any]:
        return self._typed(member_application, *words, "--home", str(self.root / name), expect=expect)

    def invite(self, name: str, *words: str) -> str:
        return str(self.coordinator("member", "invite", name, *words)["invitation"])

    @staticmethod
    def _typed(application: typer.Typer, *words: str, expect: int) -> dict[str, Any]:
        out, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = run_application(application, [*words, "--json"])
        assert code == expect, said.getvalue()
        answer = json.loads(out.getvalue())
        return dict(answer["data"] if expect == 0 else answer)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("joining")
    with Processes(root / "logs") as processes:
        made = Place(root, processes)
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        kinds = ("--fleet-address", "--release-address", "--enrolment-address")
        words = [word for pair in zip(kinds, addresses, strict=True) for word in pair]
        made.coordinator("init", "example", "--demonstration", *words)
        processes.start("serve", coordinator_command("serve", "--home", root / "coordinator"))
        wait_until(lambda: all(map(accepts, addresses)), what="the coordinator serves")
        yield made


def test_from_an_invitation_to_a_connected_agent_without_editing_a_file(place: Place) -> None:
    data = place.root / "chat.jsonl"
    write_conversations(data, member="acme", count=40)
    joined = place.member("acme", "join", place.invite("acme"), "--data", str(data))
    assert (joined["member"], joined["size_class"], joined["founding"]) == ("acme", 32, True)
    assert place.member("acme", "data", "check")
    home = MemberHome(place.root / "acme")
    place.processes.start_agent(home)
    wait_until(lambda: "connected to" in place.processes.log("agent-acme"), what="the agent takes part")

    # Suspended while it is connected: out at once; resumed: back without anybody's help at the member.
    place.coordinator("member", "suspend", "acme", "--reason", "a question is open")
    assert place.coordinator("member", "show", "acme")["reason"] == "a question is open"
    wait_until(lambda: place.processes.log("agent-acme").count("Next try in"), what="the agent is refused")
    assert place.member("acme", "identity", "renew", expect=2)["error_code"] == "no_connection"
    place.coordinator("member", "resume", "acme")
    wait_until(
        lambda: place.processes.log("agent-acme").count("connected to") >= 2,
        what="the agent takes part again",
    )
    before = home.certificate_file.read_bytes()
    assert place.member("acme", "identity", "renew")["member"] == "acme"
    assert home.certificate_file.read_bytes() != before


def test_an_approval_is_given_by_hand(place: Place) -> None:
    invitation = place.invite("careful", "--require-approval")
    refused = place.member("careful", "join", invitation, "--wait", "0", expect=3)
    assert "not approved" in refused["message"]
    (waiting,) = [
        found for found in place.coordinator("member", "list")["invitations"] if found["member"] == "careful"
    ]
    assert waiting["state"] == "waiting"
    shown = place.coordinator("member", "show", "careful")
    assert shown["invitations"][0]["key"] == waiting["key"]
    assert place.coordinator("member", "approve", "careful")["key"] == waiting["key"]
    assert place.member("careful", "join", invitation, "--wait", "0")["member"] == "careful"


def test_a_member_leaves_and_comes_back_as_the_same(place: Place) -> None:
    place.member("passing", "join", place.invite("passing", "--expires", "30m"))
    home = MemberHome(place.root / "passing")
    ledger = home.policy_file.read_bytes()
    assert place.member("passing", "leave", expect=4)["error_code"] == "bad_config"  # nobody confirms
    place.member("passing", "leave", "--yes")
    assert not home.certificate_file.exists()
    assert place.coordinator("member", "show", "passing")["status"] == "removed"
    assert place.member("passing", "identity", "show", expect=4)["hint"].endswith("ringfence join INVITATION")
    key = home.key_file.read_bytes()
    place.member("passing", "join", place.invite("passing", "--again"))
    assert (home.key_file.read_bytes(), home.policy_file.read_bytes()) == (key, ledger)
    assert place.coordinator("member", "show", "passing")["status"] == "active"
    place.coordinator("member", "remove", "passing", "--reason", "contract ended")
    assert place.member("passing", "identity", "renew", expect=2)["error_code"] == "no_connection"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("join", "rfj1.abc"), 4, "cut short"),
        (("join", "hello"), 4, "not an invitation"),
        (("join", "{invitation}", "--data", "/does/not/exist.jsonl"), 4, "Cannot read"),
        (("join", "{invitation}", "--size-class", "300"), 4, "power of two"),
        (("join", "{cut}"), 4, "cut short"),
        (("identity", "renew"), 4, "no certificate"),
        (("leave", "--yes"), 4, "no certificate"),
    ],
)
def test_a_slip_is_named_and_uses_nothing_up(
    place: Place, words: tuple[str, ...], code: int, says: str
) -> None:
    name = f"slip-{abs(hash(words)) % 10**8}"
    invitation = place.invite(name)
    typed = [word.format(invitation=invitation, cut=invitation[:-5]) for word in words]
    refused = place.member(name, *typed, expect=code)
    assert says in refused["message"]
    assert refused["hint"]
    place.member(name, "join", invitation)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("member", "invite", "Not A Name"), "identifier"),
        (("member", "invite", "fine", "--expires", "soon"), "length of time"),
        (("member", "invite", "fine", "--expires", "90d"), "30 days"),
        (("member", "invite", "fine", "--again"), "no member"),
        (("member", "invite", "coordinator"), "cannot be called"),
        (("member", "approve", "nobody"), "Nobody waits"),
        (("member", "show", "nobody"), "no member"),
        (("member", "suspend", "nobody"), "no member"),
        (("member", "remove", "nobody"), "no member"),
    ],
)
def test_a_slip_at_the_coordinator_is_named(place: Place, words: tuple[str, ...], says: str) -> None:
    refused = place.coordinator(*words, expect=4)
    assert says in refused["message"]
    assert refused["hint"]


def test_the_settings_name_the_data_as_it_was_typed(place: Place) -> None:
    files = [place.root / "one.jsonl", place.root / "two.jsonl"]
    for index, file in enumerate(files):
        write_conversations(file, member=f"m{index}", count=9)
    words = [word for file in files for word in ("--data", str(file))]
    joined = place.member("two-files", "join", place.invite("two-files"), *words)
    settings = load_member_settings(MemberHome(place.root / "two-files"), environment={})
    assert settings.data.files == tuple(map(str, files))
    assert joined["size_class"] == settings.size_class == 16
