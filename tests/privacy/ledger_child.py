"""A light member process that charges until it is killed. Started by test_ledger_kill.py; imports no numerical library.

Usage: ledger_child.py FOLDER FIRST_ROUND KILL_AT_STATEMENT
It prints ``opened N`` once the ledger is open, N moments after its start, and ``round sha256`` for each payload that it
may send. A negative moment never kills.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

from ringfence.privacy.ledger import Ledger
from ringfence.privacy.ledger_anchor import AnchorFile
from ringfence.privacy.ledger_charge import Charge, release_key
from ringfence.privacy.renyi_filter import SampledGaussian

folder, round_number, kill_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
moments = 0


def count_moment(_: object = None) -> None:
    global moments
    if moments == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    moments += 1


write_anchor = AnchorFile.write
connect = sqlite3.connect


def counted_write(self, head):
    count_moment()  # after the commit, before the second place knows
    write_anchor(self, head)
    count_moment()  # after both, before the payload is handed out


def counted_connect(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(count_moment)  # each statement from the first on, so opening is counted too
    return connection


AnchorFile.write = counted_write
sqlite3.connect = counted_connect
ledger = Ledger.open(folder / "ledger.db", anchor_path=folder / "anchor", lineage="acme", now=time.time())
os.write(1, f"opened {moments}\n".encode())
assert not {"torch", "scipy", "numpy", "dp_accounting", "cryptography"} & set(sys.modules)
while True:
    key = release_key("1", round_number=round_number, attempt=1)
    charge = Charge(key, "p" * 64, "d" * 64, 3, SampledGaussian(2, 1.0, 7000.0, 10), 7000.0)
    payload = ledger.charge(charge, os.urandom(20_000), now=time.time())
    line = f"{round_number} {hashlib.sha256(payload).hexdigest()}\n"
    os.write(1, line.encode())  # at once: a kill must not leave half a line
    ledger.mark_sent(key)
    round_number += 1
