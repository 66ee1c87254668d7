"""What a charge costs: beside one flush to disk, and after ten thousand entries. Run: python benchmarks/ledger.py [FOLDER]."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.renyi_filter import SampledGaussian

ENTRIES = 10_000
MEASURED = 100
PAYLOAD_BYTES = 100_000
MECHANISM = SampledGaussian(2, 1.0, 9000.0, 1)
TERMS = LedgerTerms("benchmark", limits=LedgerLimits(returned_head_required=False))


def milliseconds(action: Callable[[int], object], *, first: int, times: int) -> list[float]:
    took = []
    for number in range(first, first + times):
        start = time.perf_counter()
        action(number)
        took.append((time.perf_counter() - start) * 1e3)
    return took


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        raw = os.open(folder / "raw", os.O_RDWR | os.O_CREAT)

        def flush(_: int) -> None:
            os.write(raw, os.urandom(PAYLOAD_BYTES))
            os.fsync(raw)

        ledger = Ledger.create(
            folder / "ledger.db", anchor_path=folder / "anchor", terms=TERMS, now=time.time()
        )

        def charge(number: int, size: int = PAYLOAD_BYTES) -> None:
            key = release_key("benchmark", round_number=number, attempt=1)
            request = Charge(key, "p" * 64, "d" * 64, 3, MECHANISM, MECHANISM.noise_multiplier)
            ledger.charge(request, os.urandom(size), now=time.time())

        rows = [("write and flush 100 kB", milliseconds(flush, first=0, times=MEASURED))]
        rows.append(("charge with 100 kB, empty ledger", milliseconds(charge, first=0, times=MEASURED)))
        for number in range(MEASURED, ENTRIES):
            charge(number, size=900)
        rows.append(
            (f"charge with 100 kB, {ENTRIES:,} entries", milliseconds(charge, first=ENTRIES, times=MEASURED))
        )
        rows.append(("verify the whole chain", milliseconds(lambda _: ledger.verify(), first=0, times=5)))
        ledger.close()
        for what, took in rows:
            print(
                f"{what:36} median {statistics.median(took):8.2f} ms   95 % {sorted(took)[int(0.95 * len(took))]:8.2f} ms"
            )


if __name__ == "__main__":
    main()
