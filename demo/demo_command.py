"""``ringfence demo``: the whole federation on this machine, on real input, and what it was worth."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, note, with_example

if TYPE_CHECKING:
    from ringfence.demo.demonstration import Outcome

DEFAULT_FOLDER = Path(".ringfence-demo")


@with_example("ringfence demo --members 5 --rounds 20")
def demo(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files of --corpus, one a company.")
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            "--corpus", help="Labelled JSONL: one file to split, or one a company (repeat the option)."
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option("--members", min=2, max=20, help="Companies; 3 by default.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=200, help="Aggregations.")] = 10,
    conversations: Annotated[
        int | None,
        typer.Option(
            "--conversations",
            min=40,
            help="Training conversations of each company at most; 500 by default.",
        ),
    ] = None,
    epsilon: Annotated[
        float, typer.Option("--epsilon", min=0.1, max=64, help="For a person at one company.")
    ] = 8.0,
    folder: Annotated[
        Path, typer.Option("--folder", help="The one folder that is written to.")
    ] = DEFAULT_FOLDER,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Decides the conversations; never the noise.")
    ] = 7,
    as_json: JsonOption = False,
) -> None:
    """Run a federation on this machine: processes, mutual TLS, private training, a signed release, scores."""
    # Before torch is imported: the whole federation shares this machine.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from ringfence.demo.stop_signals import stop_as_ctrl_c_does

    stop_as_ctrl_c_does()
    from ringfence.demo.demonstration import DemoTerms, demonstrate

    terms = DemoTerms(
        corpus=_corpus(corpus or [], files or []),
        members=members,
        rounds=rounds,
        conversations=conversations,
        epsilon=epsilon,
        folder=folder.absolute(),
        seed=seed,
    )
    outcome = demonstrate(terms, say=note)
    emit(_text(outcome), data=outcome.as_data(), as_json=as_json)


def _corpus(first: list[Path], more: list[Path]) -> tuple[Path, ...]:
    """Return the files of ``--corpus FILE...``: the option takes the first, the rest follow it."""
    from ringfence.model.errors import ConfigError

    if more and not first:
        raise ConfigError("A file was given without --corpus.", hint="Run: ringfence demo --corpus FILE...")
    return (*first, *more)


def _text(outcome: Outcome) -> str:
    from ringfence.demo.outcome_text import outcome_text

    return "\n".join(
        [outcome_text(outcome), "", "Next:", *(f"  {command}" for command in _next_commands(outcome))]
    )


def _next_commands(outcome: Outcome) -> list[str]:
    where = os.path.relpath(outcome.folder)
    home = f"{where}/members/{outcome.members[0]}"
    program = _program("ringfence")
    return [
        f"{program} score --home {home} --top 5 --explain {home}/held-out.jsonl",
        f"{program} model verify --home {home}",
        f"less {os.path.relpath(outcome.release)}/README.md",
        f"{program} budget show --home {home}",
        f"{program} audit list --home {home}",
        f"{_program('ringfence-coordinator')} run show {outcome.run} --home {where}/coordinator",
    ]


def _program(name: str) -> str:
    """Return how a person calls a program of ours: by name where it is on the path, else from where they stand."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).parent / name)
