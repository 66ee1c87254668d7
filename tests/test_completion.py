"""Completion in bash, zsh and fish: the scripts install, a real shell completes with them, and nothing heavy is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "ringfence": "ringfence.client.command_line",
    "ringfence-coordinator": "ringfence.server.command_line",
}
SHELLS = ("bash", "zsh", "fish")
HEAVY = {"torch", "flwr", "opacus", "scipy", "sqlalchemy", "numpy", "grpc", "tuf", "cryptography", "pydantic"}
INSTALLED_AT = {
    "bash": ".bash_completions/{program}.sh",
    "zsh": ".zfunc/_{program}",
    "fish": ".config/fish/completions/{program}.fish",
}


def call(
    program: str, *arguments: str, environment: dict[str, str], options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program as its installed script does: under its own name."""
    code = f"import sys; from {PROGRAMS[program]} import main; sys.argv[0] = {program!r}; main()"
    return subprocess.run(
        [sys.executable, *options, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def variable(program: str) -> str:
    return f"_{program}_COMPLETE".replace("-", "_").upper()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("program", "line", "offered"),
    [
        ("ringfence", "ringfence bud", "budget"),
        ("ringfence", "ringfence model ver", "verify"),
        ("ringfence", "ringfence data check --skip", "--skip-bad"),
        ("ringfence-coordinator", "ringfence-coordinator member sus", "suspend"),
    ],
)
def test_a_begun_word_is_completed_without_loading_anything_heavy(
    shell: str, program: str, line: str, offered: str
) -> None:
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = call(
        program, environment={**asked, variable(program): f"complete_{shell}"}, options=("-X", "importtime")
    )
    assert offered in done.stdout
    loaded = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "ringfence" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", SHELLS)
def test_completion_installs_for_a_shell_into_the_home_of_its_user(
    program: str, shell: str, tmp_path: Path
) -> None:
    # Without the detection the option takes the shell's name: the shell that runs the tests does not matter.
    environment = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = call(program, "--show-completion", shell, environment=environment)
    assert (shown.returncode, variable(program) in shown.stdout) == (0, True)
    done = call(program, "--install-completion", shell, environment=environment)
    assert done.returncode == 0, done.stderr
    script = tmp_path / INSTALLED_AT[shell].format(program=program)
    assert script.read_text().strip() == shown.stdout.strip()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script_that_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "ringfence"
    program.write_text(f"#!{sys.executable}\nfrom ringfence.client.command_line import main\n\nmain()\n")
    program.chmod(0o755)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    script = tmp_path / "completion.sh"
    script.write_text(call("ringfence", "--show-completion", "bash", environment=environment).stdout)
    session = (
        f"source {script}; COMP_WORDS=(ringfence bud); COMP_CWORD=1; _ringfence_completion ringfence;"
        ' echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", session],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["budget"], done.stderr
