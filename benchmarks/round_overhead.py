"""Measure what a round costs beyond training, and the memory of a whole federation on one machine.

    .venv/bin/python benchmarks/round_overhead.py [--members 3] [--rounds 20]

Runs real processes with mutual TLS on small data, so that nearly all of a round is overhead: messages, checks, the ledger's
fsync, the checkpoint. Prints seconds a round (median and worst, the first apart, since it reads and encodes the
conversations), the processor time of a round by process, which says what dominates, the same while nothing is asked, the
proportional set size (PSS) of every process, and how busy the machine was before.
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
from ringfence.demo.demonstration import DemoTerms, make_plan
from ringfence.demo.federation import Federation
from ringfence.demo.processes import Processes
from ringfence.model.feature_set import load_feature_set


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--conversations", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringfence-benchmark-") as scratch:
        measure(Path(scratch), members=given.members, rounds=given.rounds, conversations=given.conversations)


def measure(scratch: Path, *, members: int, rounds: int, conversations: int) -> None:
    """Run a federation and print what its rounds cost."""
    companies = simulated_companies(members=members, conversations=conversations, seed=7).companies
    folder = DemoFolder(root=scratch / "federation", members=tuple(company.name for company in companies))
    terms = DemoTerms(
        corpus=(),
        members=members,
        rounds=rounds,
        conversations=conversations,
        epsilon=6.0,
        folder=folder.root,
        seed=7,
    )
    plan = make_plan(terms, features=load_feature_set("static-128"), members=members)
    with folder.claim() as claim, Processes(logs=folder.logs, inherited=(claim,)) as processes:
        federation = Federation(folder=folder, processes=processes, epsilon=terms.epsilon)
        federation.found(companies, threshold=min(2, members))
        load = os.getloadavg()[0]
        idle = idle_processor_time(processes)
        memory: dict[str, float] = {}
        before: dict[str, float] = {}
        spent: dict[str, float] = {}
        measured_from = 0
        for done in federation.run(plan):
            # From the second round on: the first starts every worker.
            if done >= 2 and not before:
                before, measured_from = processor_time(processes), done
            elif before and done == rounds - 1:
                after, between = processor_time(processes), max(1, done - measured_from)
                spent = {name: (after[name] - before[name]) / between for name in after}
                memory = memory_by_process(processes)
        seconds = [event.seconds for event in federation.latest_run().events() if event.event == "round"]
    later = seconds[1:]
    print(
        f"{members} members, {rounds} rounds of {plan.training.local_steps} steps on {conversations} conversations each"
    )
    print(f"first round (reads and encodes)   {seconds[0]:.2f} s")
    print(
        f"later rounds                      {statistics.median(later):.2f} s median, {max(later):.2f} s worst"
    )
    for name, mebibytes in _coordinator_and_members(memory).items():
        print(f"memory of {name:<24} {mebibytes:>7.0f} MiB")
    print(f"memory in all                     {sum(memory.values()):>8.0f} MiB")
    for name, seconds_of_processor in _coordinator_and_members(spent).items():
        print(f"processor a round, {name:<15} {seconds_of_processor:>8.2f} s")
    for name, share in _coordinator_and_members(idle).items():
        print(f"processor while idle, {name:<12} {100 * share:>8.1f} % of a core")
    print(f"load of the machine before the run{load:>8.1f} on {os.cpu_count()} cores")


def idle_processor_time(processes: Processes, *, seconds: float = 10.0) -> dict[str, float]:
    """Return the share of a core that each started process uses while nothing is asked."""
    before, began = processor_time(processes), time.monotonic()
    time.sleep(seconds)
    after, took = processor_time(processes), time.monotonic() - began
    return {name: (after[name] - before[name]) / took for name in after}


def processor_time(processes: Processes) -> dict[str, float]:
    """Return the processor time of each started process with its descendants so far, in seconds."""
    times: dict[str, float] = {}
    for background in processes.running:
        root = psutil.Process(background.process.pid)
        times[background.name] = 0.0
        for process in [root, *root.children(recursive=True)]:
            try:
                used = process.cpu_times()
            except psutil.Error:
                continue
            times[background.name] += used.user + used.system
    return times


def _coordinator_and_members(values: dict[str, float]) -> dict[str, float]:
    """Return the coordinator's value, all members' together, and one member's on average."""
    members = [value for name, value in values.items() if name != "coordinator"]
    if not members:
        return values
    return {
        "the coordinator": values["coordinator"],
        "all members": sum(members),
        "one member": statistics.fmean(members),
    }


def memory_by_process(processes: Processes) -> dict[str, float]:
    """Return the proportional set size of each started process with its descendants, in MiB."""
    sizes: dict[str, float] = {}
    for background in processes.running:
        root = psutil.Process(background.process.pid)
        family = [root, *root.children(recursive=True)]
        sizes[background.name] = sum(_pss(process.pid) for process in family)
    return sizes


def _pss(process_id: int) -> float:
    # Read as root's own child would be refused for a worker that is not dumpable: then its resident size stands in.
    try:
        for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        return float(psutil.Process(process_id).memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    main()
