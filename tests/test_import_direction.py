"""The house has one way in: model <- privacy <- client, model <- privacy <- server; nothing else, and nothing heavy at the door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "model": {"model"},
    "privacy": {"model", "privacy"},
    "client": {"model", "privacy", "client"},
    "server": {"model", "privacy", "server"},
    "demo": {"model", "privacy", "client", "server", "demo"},
}
DOORS_TO_FLOWER = {f"{side}/flower_adapter.py" for side in ("client", "server", "demo")}
DOCUMENTED_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "wire" not in path.parts)


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            # A relative import has a level; its module counts as wrong whatever it is.
            prefix = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"


def wrong_arrows(folder: str, source: str) -> list[str]:
    """Return what a module of this folder must not import."""
    wrong = []
    for line, name in imports(source):
        parts = name.split(".")
        bare_or_relative = parts[0] in MAY_IMPORT or parts[0] == ""
        upwards = parts[0] == "ringfence" and parts[1] not in MAY_IMPORT[folder]
        if bare_or_relative or upwards:
            wrong.append(f"line {line}: {name}")
    return wrong


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_stands_below_it(folder: str) -> None:
    assert modules(folder)
    found = {path.name: wrong_arrows(folder, path.read_text()) for path in modules(folder)}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("model", "import ringfence.privacy.grid"),
        ("privacy", "def f():\n    from ringfence.client import agent"),
        ("client", "from ringfence.server.members import Member"),
        ("client", "from ringfence import server"),
        ("server", "if TYPE_CHECKING:\n    import ringfence.client.agent"),
        ("server", "from ringfence.demo import command_line"),
        ("client", "import model.plan"),
        ("client", "from .. import server"),
    ],
)
def test_a_wrong_arrow_would_be_found(folder: str, source: str) -> None:
    assert len(wrong_arrows(folder, source)) == 1


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_flowers_internals_are_used_behind_one_door_a_side(folder: str) -> None:
    found = []
    for path in modules(folder):
        if str(path.relative_to(ROOT)) in DOORS_TO_FLOWER:
            continue
        for line, name in imports(path.read_text()):
            parts = name.split(".")
            # `from flwr.app import X` reads as flwr.app.X: the module is all but the last part, or all of it.
            if parts[0] == "flwr" and not {".".join(parts[:-1]), name} & DOCUMENTED_FLOWER:
                found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert found == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ringfence.client.score_command", {"torch", "flwr", "opacus", "onnx", "dp_accounting", "scipy"}),
        ("ringfence.client.releases", {"torch", "flwr", "opacus", "onnx", "dp_accounting", "scipy"}),
        ("ringfence.model.feature_set", {"torch", "flwr", "opacus", "onnx", "onnxruntime"}),
        ("ringfence.model.detector", {"torch", "flwr", "opacus", "onnx", "onnxruntime"}),
        ("ringfence.model.plan", {"torch", "flwr", "numpy"}),
        ("ringfence.model.round_messages", {"torch", "flwr"}),
    ],
)
def test_what_a_company_needs_to_pull_and_score_loads_neither_torch_nor_flower(
    module: str, heavy: set[str]
) -> None:
    assert loaded_by(f"import {module}") & heavy == set()


@pytest.mark.parametrize("side", ["client", "server"])
def test_help_loads_nothing_heavy(side: str) -> None:
    program = (
        f"from ringfence.{side}.command_line import application\n"
        "from ringfence.model.console import run_application\n"
        "assert run_application(application, ['--help']) == 0"
    )
    heavy = {
        "torch",
        "flwr",
        "opacus",
        "onnx",
        "onnxruntime",
        "scipy",
        "dp_accounting",
        "uvicorn",
        "tokenizers",
    }
    assert loaded_by(program) & heavy == set()


def loaded_by(program: str) -> set[str]:
    """Return the top-level packages that a fresh process has loaded after a program."""
    code = f"{program}\nimport sys; print('\\n'.join(['-----', *(n for n in sys.modules if '.' not in n)]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("-----\n")[1].split())
