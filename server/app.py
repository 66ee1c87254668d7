"""The coordinator's installed server app: what Flower starts for a run. The bundle that names it carries no code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ringfence.model.errors import ConfigError, RingfenceError, StorageError
from ringfence.model.log_format import VARIABLE, LogFormat, log_to_stderr
from ringfence.server.coordinator_database import open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.evaluation import Evaluation
from ringfence.server.flower_adapter import quieten_flower
from ringfence.server.ledger_heads import LedgerHeads
from ringfence.server.members import ActiveMembers, MemberRegistry
from ringfence.server.parent_death import die_with_parent
from ringfence.server.round_channel import GridChannel
from ringfence.server.round_loop import RosterMember, RoundLoop, RunStoppedError
from ringfence.server.run_store import Run, RunStore, event_now

app = ServerApp()
log = logging.getLogger("ringfence.rounds")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run that the configuration names, from its latest checkpoint."""
    log_to_stderr(LogFormat(os.environ.get(VARIABLE, LogFormat.TEXT)))
    # Without its starter nobody watches it, and ending in good order it would wait for a fleet service that may be gone
    # as well, and keep the run from whoever comes next.
    die_with_parent()
    quieten_flower()
    name = context.run_config.get("run")
    if not isinstance(name, str):
        raise ConfigError(
            "Flower's run names no Ringfence run.", hint="Start runs with: ringfence-coordinator run start"
        )
    home = CoordinatorHome.locate(None)
    database = open_database(home)
    run = RunStore.of(home).open(name)
    members = ActiveMembers(MemberRegistry(database))

    def roster() -> dict[int, RosterMember]:
        return {
            member.node_id: RosterMember(id=member.id, size_class=member.size_class)
            for member in members.all()
            if member.node_id is not None
        }

    with run.work():
        channel = GridChannel(grid, group=run.name)
        heads = LedgerHeads(database)
        rounds = RoundLoop(run, channel=channel, roster=roster, heads=heads)
        evaluation = Evaluation(run, channel=channel, roster=roster, heads=heads)
        see_through(run, rounds.carry_out, evaluation.carry_out)


def see_through(run: Run, *parts: Callable[[], object]) -> None:
    """Carry out the parts of a run, and note how it ended.

    Raises:
        StorageError: the database could not be used. The run stays under way: who keeps runs starts it again.
        RingfenceError: the run failed, as is noted.
    """
    try:
        for part in parts:
            part()
    except RunStoppedError:
        return  # whoever stopped it, or gave it up, noted that
    except StorageError:
        raise  # the run itself is sound: the coordinator starts it again from its last round
    except RingfenceError as error:
        _fail(run, error)
        raise
    # Not over what was decided during the last part: a run that was stopped then stays stopped.
    run.update_while("running", status="completed", reason="", event=event_now("completed"))


def _fail(run: Run, error: RingfenceError) -> None:
    run.update_while(
        "running",
        status="failed",
        reason=error.message,
        event=event_now("failed", detail=error.message),
    )
