"""``ringfence simulate``: how good, how fast and how private would a federation of this size be?"""

from __future__ import annotations

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.model.console import JsonOption, emit, note, with_example

if TYPE_CHECKING:
    from ringfence.demo.simulation import SimulationResult


class EngineName(StrEnum):
    """Where the members run."""

    LOCAL = "local"
    RAY = "ray"


@with_example("ringfence simulate --members 100")
def simulate(
    members: Annotated[int, typer.Option(min=1, max=700, help="Companies that take part.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Aggregations.")] = 5,
    conversations: Annotated[
        int, typer.Option(min=10, max=100_000, help="Conversations that each company trains on.")
    ] = 60,
    epsilon: Annotated[
        float, typer.Option(min=0.01, help="For a person at one company, over the whole run.")
    ] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides the conversations; never the noise.")] = 1,
    engine: Annotated[
        EngineName, typer.Option(help="This process, or Flower's simulation engine on Ray.")
    ] = EngineName.LOCAL,
    as_json: JsonOption = False,
) -> None:
    """Train many invented companies in one process, without a network: for planning and for tests."""
    # Before torch and Flower are imported: matrices this small are slower on several threads; nobody is called home.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    from ringfence.demo.simulation import SimulationTerms, simulate_federation

    terms = SimulationTerms(
        members=members, rounds=rounds, conversations=conversations, epsilon=epsilon, seed=seed
    )
    with TemporaryDirectory(prefix="ringfence-simulation-") as folder:
        result = simulate_federation(terms, folder=Path(folder), engine=engine.value, report=note)
    emit(_text(result), data={**asdict(terms), "engine": engine.value, **_data(result)}, as_json=as_json)
    note("Next: ringfence demo, which runs a federation as separate processes with mutual TLS.")


def _text(result: SimulationResult) -> str:
    lines = ["", f"{'':<36} {'AUROC':>6} {'average precision':>18}"]
    lines += [f"{row.name:<36} {row.auroc:>6.3f} {row.average_precision:>18.3f}" for row in result.rows]
    first, *later = result.rounds
    per_round = f"{first.seconds:.1f} s for the first round (it reads and encodes the conversations)"
    if later:
        per_round += f", {sum(item.seconds for item in later) / len(later):.2f} s for each later one"
    absent = sum(item.missing + item.refused for item in result.rounds)
    lines += [
        "",
        f"Time: {per_round}. Memory: {result.peak_memory_mib:.0f} MiB at most in this process.",
        *([f"Answers that did not come: {absent}."] if absent else []),
        result.statement.sentence(),
        "The conversations are invented: they overstate what a public head can do.",
    ]
    return "\n".join(lines)


def _data(result: SimulationResult) -> dict[str, object]:
    return {
        "quality": [asdict(row) for row in result.rows],
        "round_outcomes": [asdict(outcome) for outcome in result.rounds],
        "privacy": {**asdict(result.statement), "sentence": result.statement.sentence()},
        "plan": result.plan.model_dump(mode="json"),
        "peak_memory_mib": round(result.peak_memory_mib, 1),
    }
