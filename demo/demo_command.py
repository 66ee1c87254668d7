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
            "--conversations", min=40, help="Training conversations of each company at most; 600 by default."
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
    from ringfence.demo.reference_rows import DRAWS

    where = os.path.relpath(outcome.folder)
    member = outcome.members[0]
    home = f"{where}/members/{member}"
    program = _program("ringfence")
    lines = [
        "",
        f"{'on held-out conversations of all companies':<46} {'privacy':<14} {'AUROC':>6} {'avg. precision':>15}",
    ]
    for row in outcome.rows:
        privacy = {True: f"epsilon {outcome.epsilon:.1f}", False: "none", None: "nothing read"}[row.privacy]
        marker = ">" if row.name == outcome.federated.name else " "
        lines.append(
            f"{marker} {row.name:<44} {privacy:<14} {row.auroc:>6.3f} {row.average_precision:>15.3f}"
        )
    lines += [
        f"  Rows with privacy are means over {DRAWS} draws of noise, but for the one draw that was released.",
        "",
        f"Epsilon {outcome.epsilon:.1f}: {outcome.meaning}",
        "",
        f"Release {outcome.version}: {os.path.relpath(outcome.release)}",
        f"  countersigned by {outcome.signed_by}; pulled and verified by every member; scores equal to the run's model",
        f"Seconds: {outcome.total_s:.0f} in all, {outcome.round_s:.1f} a round.",
        "",
        "Next:",
        f"  {program} score --home {home} --top 5 --explain {home}/held-out.jsonl",
        f"  {program} model verify --home {home}",
        f"  less {os.path.relpath(outcome.release)}/README.md",
        f"  {program} budget show --home {home}",
        f"  {program} audit list --home {home}",
        f"  {_program('ringfence-coordinator')} run show {outcome.run} --home {where}/coordinator",
    ]
    return "\n".join(lines)


def _program(name: str) -> str:
    """Return how a person calls a program of ours: by name where it is on the path, else from where they stand."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).parent / name)
