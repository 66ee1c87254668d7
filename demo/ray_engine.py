"""Flower's own simulation engine: the same apps, spread over processes by Ray.

An extra, for members that train for long. For the heads that Ringfence ships one process is faster.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from ringfence.demo.flower_adapter import PARTITION_ID_KEY, run_on_ray
from ringfence.demo.simulated_federation import member_folder
from ringfence.model.errors import ConfigError, DeadlineError, RingfenceError
from ringfence.model.evaluation_messages import EVALUATE_ACTION
from ringfence.model.round_messages import TRAIN_ACTION, RoundRequest
from ringfence.server.round_channel import Arrival, GridChannel, RoundChannel

_START_S = 120.0
_POLL_S = 0.1


def check_ray() -> None:
    """Refuse to start without Ray.

    Raises:
        ConfigError: it is not installed. The operator's to mend.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "The engine ray is not installed here.",
            hint='Run: pip install "ringfence[ray]"; or use --engine local.',
        )


def carry_out_on_ray(rounds: Callable[[RoundChannel], None], *, folder: Path, members: int) -> None:
    """Run the rounds with members in Ray's actors.

    Args:
        rounds: the server's side: carries out every round over the channel that it is given.
        folder: of the simulated federation.
        members: how many it has.

    Raises:
        ConfigError: Ray is not installed. The operator's to mend.
        RingfenceError: what ``rounds`` raises, or the engine failed.
    """
    check_ray()
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        channel = AskedOnce(GridChannel(grid, group="simulation"))
        _wait_for(channel, members)
        rounds(channel)

    try:
        run_on_ray(server, member_app(folder), nodes=members)
    except RuntimeError as error:
        raise RingfenceError(
            "Ray stopped before the run was complete.", hint="Use --engine local, or fewer members."
        ) from error


def member_app(folder: Path) -> ClientApp:
    """Return the installed app behind one step: the engine names a member by its place, the app by its folder."""
    app = ClientApp()
    place_key = PARTITION_ID_KEY

    @app.train(TRAIN_ACTION.split(".")[1])
    @app.evaluate(EVALUATE_ACTION.split(".")[1])
    def answer(message: Message, context: Context) -> Message:
        # In the actor's process: nothing that belongs to the installed app travels there.
        from ringfence.client.app import HOME_KEY
        from ringfence.client.app import app as installed_app

        context.node_config[HOME_KEY] = str(member_folder(folder, int(str(context.node_config[place_key]))))
        return installed_app(message, context)

    return app


class AskedOnce:
    """A channel that never repeats a question whose answer is still due.

    A network may lose a message; this engine only makes it wait for a free actor, and a repeated question would train
    the member twice.

    Args:
        channel: the channel behind it.
    """

    def __init__(self, channel: RoundChannel) -> None:
        self._channel = channel
        self._due: set[int] = set()

    def online(self) -> set[int]:
        """Return the node ids that are connected now."""
        return self._channel.online()

    def ask(self, requests: Mapping[int, RoundRequest], *, time_to_live_s: float) -> int:
        """Send a request to each node that owes no answer; return the bytes of what was sent."""
        new = {node: request for node, request in requests.items() if node not in self._due}
        if not new:
            return 0
        self._due |= set(new)
        return self._channel.ask(new, time_to_live_s=time_to_live_s)

    def collect(self) -> Iterable[Arrival]:
        """Return what arrived since the last call."""
        arrivals = list(self._channel.collect())
        self._due -= {arrival.node_id for arrival in arrivals}
        return arrivals


def _wait_for(channel: RoundChannel, members: int) -> None:
    """Wait until the engine, which starts beside the server app, has registered its nodes."""
    deadline = time.monotonic() + _START_S
    while len(channel.online()) < members:
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"Ray did not start {members} nodes within {_START_S:.0f} s.", hint="Use --engine local."
            )
        time.sleep(_POLL_S)
