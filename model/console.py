"""The conventions that every Ringfence command keeps.

Data goes to standard output, diagnostics to standard error. ``--json`` prints one envelope,
``{"schema_version", "status", "data"}`` or ``{"schema_version", "status", "error_code", "message", "hint"}``. Exit codes: 0 done, 1 failed, 2 connection or
identity, 3 timeout, 4 bad input, 5 a defect of ours. Commands end by naming the next one, and their help ends with an example
(the ``epilog``, or the last line of the docstring); `tests/test_command_lines.py` holds all of it for every command.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import click
import typer
from click.exceptions import NoArgsIsHelpError
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

from ringfence.model.errors import RingfenceError
from ringfence.model.log_format import asks_for_json, last_line

SCHEMA_VERSION = 1
EXIT_DEFECT = 5
EXIT_STOPPED = 130
EXIT_BAD_INPUT = 4

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_EXAMPLE = "__ringfence_example__"
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Formatter(click.HelpFormatter):
    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        # Typer escapes brackets for a markup that is switched off here.
        super().write_dl([(name, text.replace("\\[", "[")) for name, text in rows], col_max, col_spacing)


@dataclass(slots=True)
class _Ending:
    """How a command says that it failed.

    Attributes:
        as_json: whether it prints the envelope.
        as_line: whether its diagnostics are one object a line, as its log.
    """

    as_json: bool
    as_line: bool

    def fail(
        self,
        code: str,
        message: str,
        hint: str,
        *,
        exit_code: int,
        data: Mapping[str, object] | None = None,
    ) -> int:
        """Say what is wrong and what to do, and return the exit code."""
        if self.as_json:
            envelope = {"error_code": code, "message": message, "hint": hint}
            more = {} if data is None else {"data": data}
            typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "status": "error", **envelope, **more}))
        if self.as_line:
            note(last_line(message, level=logging.ERROR, exit_code=exit_code, error_code=code, hint=hint))
            return exit_code
        note(f"error: {message}")
        if hint:
            note(f"  fix: {hint}")
        return exit_code

    def interrupt(self) -> int:
        """Say that it was stopped, and return the exit code."""
        said = "Stopped."
        note(last_line(said, level=logging.INFO, exit_code=EXIT_STOPPED) if self.as_line else said)
        return EXIT_STOPPED


class _Context(click.Context):
    formatter_class = _Formatter


class _Command(TyperCommand):
    """A command whose help is whole: Typer 0.20, the newest that Flower allows, breaks it under click 8.4 and later."""

    context_class = _Context

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - handed through
        super().__init__(*arguments, **options)
        if self.callback is None:
            return
        declared = get_params_from_function(inspect.unwrap(self.callback))
        for parameter in self.params:
            if isinstance(parameter, click.Argument) and parameter.name in declared:
                information = declared[parameter.name].default
                if isinstance(information, ArgumentInfo):
                    parameter.help = information.help

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; before, as they may be wrong, see whether diagnostics are to be one object a line."""
        if isinstance(ctx.obj, _Ending) and any(parameter.name == "log_format" for parameter in self.params):
            ctx.obj.as_line = asks_for_json(args, os.environ)
        return super().parse_args(ctx, args)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: Typer writes the arguments together with the options."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run the command; Ctrl-C aborts it, where Typer would end it with a code and without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            raise typer.Abort from interruption


class _Group(TyperGroup):
    context_class = _Context


class _Application(typer.Typer):
    def command(
        self,
        name: str | None = None,
        *,
        cls: type[TyperCommand] | None = None,
        **options: Any,  # noqa: ANN401 - handed through
    ) -> Callable[[_Function], _Function]:
        return super().command(name, cls=cls or _Command, **options)


def emit(text: str, *, data: Mapping[str, object], as_json: bool) -> None:
    """Print a command's result: the text for a person, or the envelope around the data."""
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, "status": "ok", "data": data}))
    elif text:
        typer.echo(text)


def note(text: str) -> None:
    """Print one line of diagnostics to standard error."""
    typer.echo(text, err=True)


def with_example(text: str) -> Callable[[_Function], _Function]:
    """Give a command that is found by name the example that its help ends with; others name it as their ``epilog``."""

    def give(command: _Function) -> _Function:
        setattr(command, _EXAMPLE, f"Example: {text}")
        return command

    return give


def example_of(command: Callable[..., object]) -> str | None:
    """Return what `with_example` gave to a command."""
    return getattr(command, _EXAMPLE, None)


def new_application(name: str, summary: str) -> typer.Typer:
    """Return a Typer application with the house's settings."""
    return _Application(
        name=name,
        cls=_Group,
        help=summary,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_application(application: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; never a traceback unless ``--debug`` is given.

    ``--debug`` may stand anywhere among the arguments. A process whose log is one object a line ends with one as well.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("RINGFENCE_DEBUG") == "1"
    given = [argument for argument in given if argument != "--debug"]
    ending = _Ending(as_json="--json" in given, as_line=asks_for_json(given))
    try:
        result: Any = application(args=given, standalone_mode=False, obj=ending)
    except RingfenceError as error:
        if debug:
            raise
        return ending.fail(error.code, error.message, error.hint, exit_code=error.exit_code, data=error.data)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return ending.interrupt()
    except NoArgsIsHelpError as error:
        note(error.message)  # the help itself
        return EXIT_BAD_INPUT
    except typer.BadParameter as error:
        return ending.fail("bad_usage", error.format_message(), "See --help.", exit_code=EXIT_BAD_INPUT)
    except BrokenPipeError:
        return 0
    except ModuleNotFoundError as error:
        if debug:
            raise
        return ending.fail(
            "not_installed",
            f"This command needs the package {error.name}, which is not installed.",
            'Members that train: pip install "ringfence[train]". Coordinators: pip install "ringfence[coordinator]". Both for demo.',
            exit_code=EXIT_BAD_INPUT,
        )
    except Exception as error:  # the last line of defence; the traceback is one flag away
        if debug:
            raise
        if _is_usage_error(error):
            return ending.fail(
                "bad_usage", _usage_message(error), _usage_hint(error), exit_code=EXIT_BAD_INPUT
            )
        if isinstance(error, OSError) and error.filename is not None:
            # A folder that is missing, closed or full is the operator's to mend, wherever it was met.
            return ending.fail(
                "no_access",
                f"{error.strerror}: {error.filename}",
                "Check --home, the rights of this user and the space on the disk.",
                exit_code=1,
            )
        return ending.fail(
            "defect",
            f"A defect of Ringfence: {type(error).__name__}.",
            "Run again with --debug and report what it prints, without any conversation text.",
            exit_code=EXIT_DEFECT,
        )
    return result if isinstance(result, int) else 0


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "format_message")


def _usage_message(error: Exception) -> str:
    group = _group_without_command(error)
    if group is not None:
        return f"{group.command_path}: a command is missing."
    message: str = error.format_message()  # type: ignore[attr-defined]
    return message


def _usage_hint(error: Exception) -> str:
    group = _group_without_command(error)
    if group is None or not isinstance(group.command, click.Group):
        return "See --help."
    return f"Options stand behind the command, which is one of: {', '.join(group.command.commands)}"


def _group_without_command(error: Exception) -> click.Context | None:
    """Return the group whose command was left out, where that is the mistake: an option stands where its name should."""
    context = error.ctx if isinstance(error, click.NoSuchOption) else None
    return context if context is not None and isinstance(context.command, click.Group) else None
