"""``ringfence``: what a member company runs."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from ringfence.client import (
    agent_commands,
    approve_commands,
    audit_commands,
    budget_commands,
    data_commands,
    doctor_command,
    evidence_commands,
    identity_commands,
    join_commands,
    model_commands,
    policy_commands,
    runs_commands,
    score_command,
    status_command,
)
from ringfence.client.confinement import forbid_dumps
from ringfence.model.console import example_of, new_application, run_application

application = new_application(
    "ringfence", "Train a shared detector without sharing a conversation; score with it."
)
for _group in (
    identity_commands,
    data_commands,
    policy_commands,
    agent_commands,
    model_commands,
    approve_commands,
    audit_commands,
    budget_commands,
    evidence_commands,
    runs_commands,
):
    application.add_typer(_group.application)
application.command(epilog="Example: ringfence join rfj1.WyIx.fDAw --data conversations.jsonl")(
    join_commands.join
)
application.command(epilog="Example: ringfence leave --yes")(join_commands.leave)
application.command(epilog="Example: ringfence score --top 20 --explain conversations.jsonl")(
    score_command.score
)

application.command(epilog="Example: ringfence status --json")(status_command.status)
application.command(epilog="Example: ringfence doctor --json")(doctor_command.doctor)

# Commands of packages that need both sides, and so are not the client's own.
for _entry in entry_points(group="ringfence.commands"):
    _command = _entry.load()
    application.command(_entry.name, epilog=example_of(_command))(_command)


def main() -> None:
    """Run the command line. Many commands read what people wrote: a crash must leave no dump of it."""
    forbid_dumps()
    sys.exit(run_application(application))


if __name__ == "__main__":
    main()
