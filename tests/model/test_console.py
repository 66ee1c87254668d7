"""Every command keeps one set of conventions: exit codes, one JSON envelope, hints, and no traceback for a person."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from ringfence.model import errors
from ringfence.model.console import JsonOption, emit, new_application, note, run_application
from ringfence.model.log_format import LogFormat, LogFormatOption, log_to_stderr

application = new_application("tool", "A tool.")


@application.command()
def fail(kind: str, as_json: JsonOption = False) -> None:
    """Fail in the named way."""
    if kind in vars(errors):
        raise vars(errors)[kind]("What happened.", hint="What to do.")
    if kind == "defect":
        raise ZeroDivisionError("planted-words")
    if kind == "folder":
        raise FileNotFoundError(2, "No such file or directory", "/no/such/folder")
    if kind == "reset":
        raise ConnectionResetError("planted-words")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "abort":
        raise typer.Abort
    if kind == "exit":
        raise typer.Exit(7)
    if kind == "said":
        note("No longer watched.")
        raise typer.Exit(130)
    if kind == "pipe":
        raise BrokenPipeError


@application.command()
def work(count: Annotated[int, typer.Option("--count", min=1)] = 1, as_json: JsonOption = False) -> None:
    """Do something."""
    note("under way")
    emit(f"Done {count}. Next: tool fail", data={"count": count}, as_json=as_json)


@application.command()
def serve(
    kind: str = "work", log_format: LogFormatOption = LogFormat.TEXT, as_json: JsonOption = False
) -> None:
    """Serve until something is wrong."""
    log_to_stderr(log_format)
    fail(kind)


EXIT_CODES = {
    "RingfenceError": (1, "failed"),
    "ConfigError": (4, "bad_config"),
    "DataError": (4, "bad_data"),
    "PolicyError": (1, "refused_by_policy"),
    "BudgetError": (1, "refused_by_budget"),
    "PeerError": (2, "bad_peer"),
    "ConnectionFailedError": (2, "no_connection"),
    "DeadlineError": (3, "deadline"),
    "ReleaseError": (1, "bad_release"),
    "folder": (1, "no_access"),
    "defect": (5, "defect"),
    "reset": (5, "defect"),
}


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_an_error_has_its_exit_code_its_message_and_its_hint(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["fail", kind]) == EXIT_CODES[kind][0]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "  fix: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_an_error_in_json_is_one_envelope_on_standard_output(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, name = EXIT_CODES[kind]
    assert run_application(application, ["fail", kind, "--json"]) == code
    envelope = json.loads(capsys.readouterr().out)
    assert set(envelope) == {"schema_version", "status", "error_code", "message", "hint"}
    assert (envelope["schema_version"], envelope["status"], envelope["error_code"]) == (1, "error", name)


LINES = ["--log-format", "json"]


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_a_process_that_logs_one_object_a_line_ends_with_one(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, name = EXIT_CODES[kind]
    assert run_application(application, ["serve", "--kind", kind, *LINES]) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    said = json.loads(line)
    assert set(said) == {"at", "level", "logger", "message", "error_code", "hint", "exit_code"}
    assert (said["level"], said["error_code"], said["exit_code"]) == ("error", name, code)
    assert said["message"]
    assert said["hint"]
    assert "planted-words" not in line


def test_the_last_line_of_a_log_for_people_and_the_envelope_stay_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_application(application, ["serve", "--kind", "ConfigError"]) == 4
    assert capsys.readouterr().err == "error: What happened.\n  fix: What to do.\n"
    assert run_application(application, ["serve", "--kind", "ConfigError", "--json", *LINES]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "error"
    assert json.loads(err)["message"] == "What happened."
    # The variable of an option counts for the commands that have it, and the option for more than the variable.
    monkeypatch.setenv("RINGFENCE_LOG_FORMAT", "json")
    assert run_application(application, ["fail", "ConfigError"]) == 4
    assert run_application(application, ["serve", "--kind", "ConfigError", "--log-format=text"]) == 4
    assert capsys.readouterr().err == "error: What happened.\n  fix: What to do.\n" * 2


@pytest.mark.parametrize(
    "words", [["serve", *LINES, "--unknown"], ["serve", "--log-format=json", "more"], ["serf", *LINES]]
)
def test_a_command_line_that_is_wrong_is_said_in_one_object_too(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, words) == 4
    assert json.loads(capsys.readouterr().err)["error_code"] == "bad_usage"


def test_a_wrong_command_line_is_said_as_the_variable_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGFENCE_LOG_FORMAT", "json")
    assert run_application(application, ["serve", "--unknown"]) == 4
    assert json.loads(capsys.readouterr().err)["exit_code"] == 4


def test_an_interrupted_process_that_logs_objects_says_so_in_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_application(application, ["serve", "--kind", "interrupt", *LINES]) == 130
    said = json.loads(capsys.readouterr().err)
    assert (said["level"], said["message"], said["exit_code"]) == ("info", "Stopped.", 130)


def test_a_result_in_json_is_one_envelope_and_diagnostics_stay_out_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_application(application, ["work", "--count", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema_version": 1, "status": "ok", "data": {"count": 3}}
    assert err == "under way\n"


def test_a_result_for_a_person_is_text_that_names_the_next_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_application(application, ["work"]) == 0
    assert capsys.readouterr().out == "Done 1. Next: tool fail\n"


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["work", "--count", "0"], ["work", "--count", "x"], ["work", "--unknown"], ["fail"]],
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_wrong_command_line_is_bad_input(
    arguments: list[str], as_json: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, arguments + as_json) == 4
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    if as_json:
        assert json.loads(out)["error_code"] == "bad_usage"


@pytest.mark.parametrize("words", [["--json"], ["--json", "work"]])
def test_a_group_that_is_called_without_a_command_says_that_one_is_missing_and_which_there_are(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, words) == 4
    answer = json.loads(capsys.readouterr().out)
    assert answer["error_code"] == "bad_usage"
    assert "a command is missing" in answer["message"]
    assert "work" in answer["hint"]
    assert run_application(application, ["work", "--unknown"]) == 4
    assert "No such option" in capsys.readouterr().err


def test_a_defect_says_its_kind_and_not_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    """An unforeseen error's text may hold a conversation."""
    run_application(application, ["fail", "defect", "--json"])
    out, err = capsys.readouterr()
    assert "ZeroDivisionError" in out
    assert "planted-words" not in out + err


@pytest.mark.parametrize("kind", ["ConfigError", "defect"])
@pytest.mark.parametrize("before", [True, False])
def test_debug_anywhere_shows_the_traceback(kind: str, before: bool) -> None:
    arguments = ["--debug", "fail", kind] if before else ["fail", kind, "--debug"]
    with pytest.raises((errors.ConfigError, ZeroDivisionError)):
        run_application(application, arguments)


def test_the_environment_can_ask_for_debug_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFENCE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_application(application, ["fail", "defect"])


@pytest.mark.parametrize(
    ("kind", "code", "printed"),
    [
        ("interrupt", 130, "Stopped.\n"),
        ("abort", 130, "Stopped.\n"),
        ("said", 130, "No longer watched.\n"),
        ("exit", 7, ""),
        ("pipe", 0, ""),
    ],
)
def test_ways_to_stop_that_are_not_errors(
    kind: str, code: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(application, ["fail", kind]) == code
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["work", "--help"]])
def test_help_is_not_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_application(application, arguments) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["client", "server"])
def test_both_command_lines_keep_the_conventions_as_processes(side: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"ringfence.{side}.command_line", "nothing", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("RINGFENCE")},
    )
    assert done.returncode == 4
    assert json.loads(done.stdout)["error_code"] == "bad_usage"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("side", "words"), [("client", ["agent", "run"]), ("server", ["serve"]), ("server", ["serve-releases"])]
)
@pytest.mark.parametrize("form", ["json", "text"])
def test_both_command_lines_say_what_ends_them_as_their_log_is(
    side: str, words: list[str], form: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"ringfence.{side}.command_line", *words),
            *("--home", str(tmp_path / "nothing"), "--log-format", form),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("RINGFENCE")},
    )
    assert done.returncode == 4
    if form == "text":
        assert done.stderr.splitlines()[-2].startswith("error: ")
        assert done.stderr.splitlines()[-1].startswith("  fix: ")
        return
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert (lines[-1]["level"], lines[-1]["exit_code"]) == ("error", 4)
    assert lines[-1]["hint"]


def test_a_part_that_is_not_installed_is_named_with_the_way_to_install_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    application = new_application("trial", "Try.")

    @application.callback()
    def _trial() -> None:
        """Try."""

    @application.command()
    def train() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert run_application(application, ["train"]) == 4
    shown = capsys.readouterr().err
    assert "torch" in shown
    assert 'pip install "ringfence[train]"' in shown
