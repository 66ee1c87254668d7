"""Every command of both programs, as click sees them, for the tests that hold for all."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType

import click
import typer

from ringfence.client import command_line as member_side
from ringfence.server import command_line as coordinator_side

PROGRAMS = {"ringfence": member_side, "ringfence-coordinator": coordinator_side}


@dataclass(frozen=True)
class FoundCommand:
    """A command and the words that call it, the program's name first."""

    words: tuple[str, ...]
    command: click.Command

    @property
    def name(self) -> str:
        return " ".join(self.words)

    @property
    def example(self) -> str:
        """The call that stands behind "Example:" at the end of the help, or "" if none does."""
        text = "\n".join([self.command.help or "", self.command.epilog or ""]).rstrip().splitlines()
        last = text[-1].strip() if text else ""
        return last.removeprefix("Example: ") if last.startswith("Example: ") else ""

    @property
    def callback(self) -> Callable[..., object]:
        assert self.command.callback is not None
        return inspect.unwrap(self.command.callback)


def commands_of(application: typer.Typer, *, program: str) -> list[FoundCommand]:
    """Return every command below an application, in the order of its help."""
    return list(_walk(typer.main.get_command(application), (program,)))


def all_commands() -> list[FoundCommand]:
    """Return every command of both programs."""
    return [
        found
        for program, side in PROGRAMS.items()
        for found in commands_of(side.application, program=program)
    ]


def text_of(function: Callable[..., object]) -> str:
    """Return all text literals in a function, and in the functions of its own module that it calls."""
    seen: dict[str, list[str]] = {}
    module = sys.modules[function.__module__]

    def collect(name: str, current: FunctionType) -> None:
        tree = ast.parse(textwrap.dedent(inspect.getsource(current)))
        docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if _has_docstring(node)}
        seen[name] = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings
        ]
        for node in ast.walk(tree):
            called = vars(module).get(node.id) if isinstance(node, ast.Name) else None
            if isinstance(called, FunctionType) and called.__name__ not in seen:
                collect(called.__name__, called)

    assert isinstance(function, FunctionType)
    collect(function.__name__, function)
    return "\n".join(text for texts in seen.values() for text in texts)


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)


def _walk(command: click.Command, words: tuple[str, ...]) -> Iterator[FoundCommand]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _walk(below, (*words, name))
    else:
        yield FoundCommand(words, command)
