"""How long joining takes on loopback: from the pasted string to the installed identity.

    .venv/bin/python benchmarks/joining.py [--count 20]

Reports the call itself (fetch what is pinned, make keys, hand in the request, install) and the command around it, which also
starts Python and ends with the doctor's checks; its findings, that no fleet is served here, are not printed. The coordinator
serves in this process, on SQLite with every commit on disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "harness"))


def main() -> None:
    """Join again and again, and print medians and worst."""
    from enrolment_harness import open_desk
    from federation_harness import member_command

    from ringfence.client.enrolment import join
    from ringfence.client.member_home import MemberHome

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    count: int = parser.parse_args().count
    calls, commands = [], []
    with tempfile.TemporaryDirectory() as scratch, open_desk(Path(scratch)) as desk:
        for index in range(count):
            invitation = desk.invite(f"call-{index}")
            began = time.perf_counter()
            join(
                MemberHome(Path(scratch) / f"call-{index}"),
                invitation=invitation,
                now=lambda: datetime.now(UTC),
            )
            calls.append(time.perf_counter() - began)
        for index in range(count):
            text = desk.invite(f"command-{index}").text()
            began = time.perf_counter()
            command = member_command("join", text, "--home", Path(scratch) / f"command-{index}")
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            commands.append(time.perf_counter() - began)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {count} joins each")
    for name, seconds in (("the call", calls), ("the command", commands)):
        print(f"{name:<12} median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
