"""kill -9 of each process at each phase of a round: the run goes on by itself, its model is right, nobody pays twice.

A phase is a place at which a process of the product is held while another, or it itself, is killed. Several kills follow
each other in one run: each is made when what was killed before is back at work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from federation_harness import Processes, make_federation, wait_until
from kill_federation import PROCESSES, KillFederation
from trap_harness import Trap

HELD = {
    # phase: whose process is held there
    "before-pull": "acme",
    "in-training": "acme",
    "after-charge": "acme",
    "before-upload": "acme",
    "in-upload": "acme",
    "in-aggregation": "coordinator",
    "before-checkpoint": "coordinator",
    "in-checkpoint": "coordinator",
    "after-checkpoint": "coordinator",
}
PHASES = ("before-pull", "in-training", "after-charge", "in-upload", "in-aggregation", "in-checkpoint")
# Each process at each phase. The runs are the diagonals of the table: nobody dies twice in a row, and the worker dies before
# its agent, which starts the next one only when it is asked.
TABLE = [
    [(PROCESSES[(number + first) % len(PROCESSES)], phase) for number, phase in enumerate(PHASES)]
    for first in range(len(PROCESSES))
]
# Places that differ from their neighbours only for the process that goes through them.
BESIDE = [("agent", "before-upload"), ("serverapp", "before-checkpoint"), ("serverapp", "after-checkpoint")]
WORST = (
    ("agent", "before-upload"),  # of its first answer ever: nobody else knows yet that this ledger exists
    ("agent", "after-charge"),
    ("agent", "in-upload"),
    ("fleet", "in-upload"),
    ("serverapp", "in-upload"),
    ("fleet", "in-aggregation"),
    ("serverapp", "in-checkpoint"),
)
"""A process dies that holds what nobody else has at that moment, or that two others depend on."""

Row = tuple[str, str]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillFederation]:
    root = tmp_path_factory.mktemp("kill-table")
    with Processes(root / "logs") as processes:
        federation = KillFederation(make_federation(root, members=("acme", "beta")), processes)
        federation.serve()
        for name in federation.federation.members:
            federation.start_agent(name)
        wait_until(lambda: len(federation.federation.register()) == 2, what="members are known")
        yield federation


def kill_in_turn(killed: KillFederation, rows: Sequence[Row], *, after_round: int) -> None:
    """Carry out one run in which each row's process is killed at its phase, and hold what came out against the outboxes."""

    def arm(row: Row) -> Trap:
        return killed.traps(HELD[row[1]]).arm(row[1])

    killed.start_what_is_missing()
    if after_round == 0:
        traps = [arm(rows[0])]
        run = killed.start_run()
    else:
        with killed.run_after_round_one() as run:
            traps = [arm(rows[0])]
    try:
        for number, (process, _) in enumerate(rows):
            if number == len(traps):
                traps.append(arm(rows[number]))
            traps[number].wait(or_until=lambda: run.record().status != "running")
            if number + 1 < len(rows):
                traps.append(arm(rows[number + 1]))  # before anybody is let go: the place cannot be missed
            killed.kill(process)
            traps[number].release()
            killed.restart(process)
    finally:
        for trap in traps:
            trap.release()
    killed.wait_for_end(run)
    killed.check(run)


@pytest.mark.timeout(900)
def test_the_worst_kills_neither_end_a_run_nor_charge_anybody_twice(killed: KillFederation) -> None:
    kill_in_turn(killed, WORST, after_round=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rows", [*TABLE, BESIDE], ids=lambda rows: "-".join(process for process, _ in rows))
def test_no_kill_ends_a_run_or_charges_anybody_twice(killed: KillFederation, rows: list[Row]) -> None:
    kill_in_turn(killed, rows, after_round=1)
