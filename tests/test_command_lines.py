"""Both programs keep one set of conventions on every command: options, envelope, exit codes, examples, the next step."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import click
import pytest
import typer
from command_tree import PROGRAMS, FoundCommand, all_commands, commands_of, text_of

from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import load_member_settings
from ringfence.model.console import JsonOption, emit, new_application, run_application
from ringfence.model.errors import ConfigError

COMMANDS = all_commands()
# Its scores are a stream: one JSON object a line instead of one envelope, as its help says. Errors come in the envelope.
STREAMS = {"ringfence score"}
HEAVY = {
    *(
        "torch",
        "flwr",
        "opacus",
        "scipy",
        "sqlalchemy",
        "alembic",
        "onnx",
        "onnxruntime",
        "dp_accounting",
        "numpy",
    ),
    *("grpc", "tuf", "cryptography", "pydantic", "uvicorn", "tokenizers", "duckdb", "prometheus_client"),
}


def every_command() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("found", COMMANDS, ids=lambda found: found.name)


def faults_of(found: FoundCommand) -> list[str]:
    """Return what a command does not keep of the conventions that can be seen without running it."""
    options = {option for parameter in found.command.params for option in parameter.opts}
    faults = [] if "--json" in options else ["has no --json"]
    summary = found.command.get_short_help_str(limit=200)
    faults += [] if summary.endswith(".") else ["its help does not begin with a sentence"]
    faults += [
        f"{parameter.name} has no help"
        for parameter in found.command.params
        if not getattr(parameter, "help", None)
    ]
    faults += [] if "Next" in text_of(found.callback) else ["does not name the next command"]
    return faults + example_faults(found)


def example_faults(found: FoundCommand) -> list[str]:
    """Return what is wrong with the example at the end of a command's help; the example must be a call that parses."""
    words = shlex.split(found.example)
    if not words:
        return ["its help ends without an example"]
    if tuple(words[: len(found.words)]) != found.words:
        return ["its example calls another command"]
    try:
        with found.command.make_context(found.words[-1], words[len(found.words) :]):
            pass
    except click.ClickException as error:
        return [f"its example does not parse: {error.format_message()}"]
    return []


@every_command()
def test_a_command_takes_json_shows_an_example_that_parses_and_names_the_next(found: FoundCommand) -> None:
    assert faults_of(found) == []


def test_a_command_that_keeps_nothing_would_be_found() -> None:
    application = new_application("tool", "A tool.")

    @application.command(epilog="Example: tool other --times 3")
    def bare(count: int = 1) -> None:
        """Do something"""

    @application.command(epilog="Example: tool wrong --times 3")
    def wrong(as_json: JsonOption = False) -> None:
        """Name the Next command here only: what a person reads after the call says nothing."""

    @application.command(epilog="Example: tool good --count 3")
    def good(
        count: Annotated[int, typer.Option("--count", help="How many.")] = 1, as_json: JsonOption = False
    ) -> None:
        """Do it well."""
        emit("Done.\nNext: tool good", data={"count": count}, as_json=as_json)

    faults = {found.words[-1]: faults_of(found) for found in commands_of(application, program="tool")}
    assert faults["bare"] == [
        "has no --json",
        "its help does not begin with a sentence",
        "count has no help",
        "does not name the next command",
        "its example calls another command",
    ]
    assert [fault.partition(" '")[0] for fault in faults["wrong"]] == [
        "does not name the next command",
        "its example does not parse: No such option",
    ]
    assert faults["good"] == []


@every_command()
def test_a_command_that_is_called_wrongly_answers_in_the_envelope_with_exit_code_4(
    found: FoundCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = found.words
    code = run_application(PROGRAMS[program].application, [*words, "--no-such-option", "--json"])
    answered, said = capsys.readouterr()
    envelope = json.loads(answered)
    assert code == 4
    assert envelope.keys() == {"schema_version", "status", "error_code", "message", "hint"}
    assert (envelope["status"], envelope["error_code"]) == ("error", "bad_usage")
    assert "--no-such-option" in said


@every_command()
def test_a_command_in_an_empty_folder_fails_with_a_hint_or_succeeds_but_never_with_a_defect(
    found: FoundCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if found.name in {"ringfence demo", "ringfence simulate"}:
        pytest.skip("they need no folder of their own: tests/demo runs them")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGFENCE_HOME", str(tmp_path / "member"))
    monkeypatch.setenv("RINGFENCE_COORDINATOR_HOME", str(tmp_path / "coordinator"))
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - closed with the process
    program, *words = found.words
    example = shlex.split(found.example)[len(found.words) :]
    arguments = [word for word in example if word not in ("/srv/ringfence", "--home", "--json")]
    code = run_application(PROGRAMS[program].application, [*words, *arguments, "--json"])
    answered, said = capsys.readouterr()
    assert "Traceback" not in answered + said
    envelope = json.loads(answered) if answered else {}
    assert code in (0, 1, 2, 3, 4)
    if code == 0:
        assert envelope["status"] == "ok"
        assert envelope.keys() == {"schema_version", "status", "data"}
    else:
        assert envelope["status"] == "error"
        assert envelope["error_code"] != "defect"
        assert envelope["hint"]
        assert envelope["message"] in said


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_without_a_command_shows_its_help_and_no_error(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(PROGRAMS[program].application, []) == 4
    answered, said = capsys.readouterr()
    assert answered == ""
    assert said.startswith("Usage: ")
    assert "error" not in said


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_every_command_loads_nothing_heavy(program: str) -> None:
    module = PROGRAMS[program].__name__
    calls = [list(found.words[1:]) for found in COMMANDS if found.words[0] == program]
    code = (
        "import io, sys, contextlib\n"
        f"from {module} import application\n"
        "from ringfence.model.console import run_application\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert all(run_application(application, [*call, '--help']) == 0 for call in {calls!r})\n"
        f"print(*sorted({HEAVY!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (["status"], "RINGFENCE_HOME"),
        (["policy", "show"], "RINGFENCE_HOME"),
        (["run", "list"], "RINGFENCE_COORDINATOR_HOME"),
        (["db", "version"], "RINGFENCE_COORDINATOR_HOME"),
    ],
)
def test_an_option_goes_before_the_environment_and_the_environment_before_the_default(
    words: list[str],
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = "ringfence" if variable == "RINGFENCE_HOME" else "ringfence-coordinator"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "default"))

    def looked_into(*options: str) -> str:
        assert run_application(PROGRAMS[program].application, [*words, *options]) == 4
        return capsys.readouterr().err

    assert str(tmp_path / ("default" if program == "ringfence" else "coordinator")) in looked_into()
    monkeypatch.setenv(variable, str(tmp_path / "from-environment"))
    assert "from-environment" in looked_into()
    assert "from-option" in looked_into("--home", str(tmp_path / "from-option"))


@pytest.mark.parametrize(
    ("words", "begins_with"),
    [
        (["status"], "ringfence join"),
        (["agent", "run"], "ringfence join"),
        (["doctor"], "ringfence join"),
        (["member", "list"], "ringfence-coordinator init"),
        (["doctor"], "ringfence-coordinator init"),
    ],
)
def test_a_folder_that_nobody_set_up_names_the_command_to_begin_with(
    words: list[str],
    begins_with: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = " ".join(begins_with.split()[:-1])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run_application(PROGRAMS[program].application, [*words, "--home", str(tmp_path)]) in (1, 4)
    out, said = capsys.readouterr()
    assert begins_with in out + said


def test_a_setting_of_the_environment_goes_before_the_file_and_the_file_before_the_default(
    tmp_path: Path,
) -> None:
    home = MemberHome(tmp_path)
    lines = ['federation = "north"', 'member = "acme"', 'fleet_address = "a:1"', 'release_address = "b:2"']
    home.settings_file.write_text("\n".join([*lines, 'plan_public_key = ""']))
    assert load_member_settings(home, environment={}).size_class == 256
    home.settings_file.write_text("\n".join([*lines, 'plan_public_key = ""', "size_class = 512"]))
    assert load_member_settings(home, environment={}).size_class == 512
    assert load_member_settings(home, environment={"RINGFENCE_SIZE_CLASS": "1024"}).size_class == 1024
    home.settings_file.write_text("\n".join([*lines, 'plan_public_key = ""', "sise_class = 512"]))
    with pytest.raises(ConfigError, match="sise_class"):
        load_member_settings(home, environment={})
