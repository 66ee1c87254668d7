"""What ``ringfence join`` tells at its end: the doctor's findings, none of which undoes the joining."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from enrolment_harness import Desk, open_desk

from ringfence.client import doctor_command
from ringfence.client.command_line import application
from ringfence.client.identity import make_request
from ringfence.model.console import run_application


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """It serves those who join, and neither a fleet nor, at the port that members are given, releases."""
    with open_desk(tmp_path_factory.mktemp("desk")) as opened:
        yield opened


def join(
    desk: Desk, name: str, *words: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object], str]:
    home = str(desk.folder(name).root)
    code = run_application(application, ["join", *words, "--home", home, "--json"])
    answered, said = capsys.readouterr()
    return code, dict(json.loads(answered)["data"]), said


def test_what_the_doctor_finds_is_printed_and_does_not_undo_the_joining(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    code, joined, said = join(desk, "acme", desk.invite("acme").text(), capsys=capsys)
    assert code == 0
    assert desk.enrolment.members.get("acme").status == "active"
    assert desk.folder("acme").certificate_file.exists()
    findings = joined["findings"]
    assert isinstance(findings, list)
    levels = {finding["check"]: finding["level"] for finding in findings}
    assert (levels["fleet port"], levels["data"]) == ("FAIL", "WARN")
    assert "agent" not in levels
    assert "FAIL  fleet port" in said
    assert "fix: " in said
    assert "PASS" not in said


def test_checks_that_break_off_do_not_undo_the_joining_either(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted-words")

    monkeypatch.setattr(doctor_command, "diagnose", broken)
    code, joined, said = join(desk, "beta", desk.invite("beta").text(), capsys=capsys)
    assert (code, joined["findings"]) == (0, [])
    assert "ringfence doctor" in said
    assert "planted-words" not in said


def test_a_size_class_that_was_asked_for_before_with_the_same_invitation_stays_and_is_named(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    invitation = desk.invite("grown")
    request = make_request(desk.folder("grown"), size_class=64, invitation=invitation.id)
    desk.enrolment.enrol(invitation.secret, request)  # and its answer is lost
    code, joined, said = join(desk, "grown", invitation.text(), "--size-class", "128", capsys=capsys)
    assert (code, joined["size_class"]) == (0, 64)
    assert "size class stays 64" in said
