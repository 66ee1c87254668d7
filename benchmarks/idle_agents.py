"""Measure what agents cost while nothing is asked: memory, threads, processor time, each without its worker.

    .venv/bin/python benchmarks/idle_agents.py [--members 10]

Founds a federation of real processes with mutual TLS and starts no run. Prints for one agent the resident and the proportional
set size (PSS shares out what processes have in common; it is what the next agent costs), how many threads it has, whether a worker
was started, and the share of a core that it uses; and how busy the machine was before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from ringfence.demo.company_data import simulated_companies
from ringfence.demo.demo_folder import DemoFolder
from ringfence.demo.federation import Federation
from ringfence.demo.processes import Processes

_WATCHED_S = 20.0


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=10)
    members = parser.parse_args().members
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ringfence-benchmark-") as scratch:
        companies = simulated_companies(members=members, conversations=20, seed=7).companies
        folder = DemoFolder(
            root=Path(scratch) / "federation", members=tuple(company.name for company in companies)
        )
        with folder.claim() as claim, Processes(logs=folder.logs, inherited=(claim,)) as processes:
            Federation(folder=folder, processes=processes, epsilon=6.0).found(
                companies, threshold=min(2, members)
            )
            measure(processes, members=members)
    print(f"load of the machine before    {load:>6.1f} on {os.cpu_count()} cores")


def measure(processes: Processes, *, members: int) -> None:
    """Print what the agents that run now cost."""
    agents = [
        psutil.Process(background.process.pid)
        for background in processes.running
        if background.name != "coordinator"
    ]
    before = [sum(agent.cpu_times()[:2]) for agent in agents]
    time.sleep(_WATCHED_S)
    spent = [sum(agent.cpu_times()[:2]) - then for agent, then in zip(agents, before, strict=True)]
    memory = [agent.memory_full_info() for agent in agents]
    print(f"{members} agents that nobody asked")
    print(f"resident, one agent           {_mebibytes(info.rss for info in memory):>6.0f} MiB (median)")
    print(f"proportional (PSS), one agent {_mebibytes(info.pss for info in memory):>6.0f} MiB (median)")
    print(f"proportional (PSS), all       {sum(info.pss for info in memory) / 2**20:>6.0f} MiB")
    print(f"threads, one agent            {statistics.median(agent.num_threads() for agent in agents):>6.0f}")
    print(f"child processes, all          {sum(len(agent.children(recursive=True)) for agent in agents):>6}")
    print(f"share of a core, one agent    {100 * statistics.median(spent) / _WATCHED_S:>6.1f} %")


def _mebibytes(sizes: object) -> float:
    return statistics.median(sizes) / 2**20  # type: ignore[call-overload, no-any-return]


if __name__ == "__main__":
    main()
