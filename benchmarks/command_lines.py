"""Measure how soon a person is answered: the help of both programs and the completion of a word, in fresh processes.

    .venv/bin/python benchmarks/command_lines.py [--times 15]

Prints the median and the worst seconds of each, the median processor time, which other work on the machine hardly changes, and
how busy the machine was. Help has half a second at most.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_SIDES = {
    "ringfence": "ringfence.client.command_line",
    "ringfence-coordinator": "ringfence.server.command_line",
}


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=15)
    times = parser.parse_args().times
    print(f"{'':<44} {'median':>8} {'worst':>8} {'processor':>10}")
    for program, module in _SIDES.items():
        for words in (["--help"], ["doctor", "--help"]):
            _print(f"{program} {' '.join(words)}", _seconds(module, words, times=times))
        variable = f"_{program}_COMPLETE".replace("-", "_").upper()
        asked = {variable: "complete_bash", "COMP_WORDS": f"{program} doc", "COMP_CWORD": "1"}
        _print(f"{program} doc<TAB>", _seconds(module, [], times=times, environment=asked, name=program))
    print(f"load of the machine now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _seconds(
    module: str,
    words: Sequence[str],
    *,
    times: int,
    environment: Mapping[str, str] | None = None,
    name: str = "ringfence",
) -> list[tuple[float, float]]:
    code = f"import sys; sys.argv[0] = {name!r}; from {module} import main; main()"
    taken = []
    for _ in range(times):
        began, spent = time.perf_counter(), _processor_s()
        subprocess.run(
            [sys.executable, "-c", code, *words],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        taken.append((time.perf_counter() - began, _processor_s() - spent))
    return taken


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _print(what: str, taken: Sequence[tuple[float, float]]) -> None:
    seconds = [one for one, _ in taken]
    processor = statistics.median(one for _, one in taken)
    print(f"{what:<44} {statistics.median(seconds):>6.2f} s {max(seconds):>6.2f} s {processor:>8.2f} s")


if __name__ == "__main__":
    main()
