"""How the round loop reaches members: a small interface, and Flower's Grid behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ringfence.model.errors import PeerError
from ringfence.model.round_messages import (
    Refusal,
    RoundRequest,
    RoundUpdate,
    TrainRequest,
    action_of,
    answer_from_records,
    request_to_records,
)
from ringfence.model.round_records import size_of
from ringfence.server.flower_adapter import ReplyCollector

if TYPE_CHECKING:
    from flwr.serverapp import Grid


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came back for one message.

    Attributes:
        node_id: whom it was asked.
        answer: the answer, or None when Flower reports that none will come or it cannot be read.
        gone: True when Flower reports that the member is not connected.
        round: of the question, 0 for an evaluation: a refusal does not say what it refuses.
        size_bytes: of the answer's content.
    """

    node_id: int
    answer: RoundUpdate | Refusal | None
    gone: bool = False
    round: int = 0
    size_bytes: int = field(default=0, compare=False)


class RoundChannel(Protocol):
    """Sends requests to members and collects what comes back, without waiting."""

    def online(self) -> set[int]:
        """Return the node ids that are connected now."""
        ...

    def ask(self, requests: Mapping[int, RoundRequest], *, time_to_live_s: float) -> int:
        """Send a request to each node; return the bytes of what was sent."""
        ...

    def collect(self) -> Iterable[Arrival]:
        """Return what arrived since the last call."""
        ...


class GridChannel:
    """A `RoundChannel` over Flower's Grid.

    Args:
        grid: as Flower hands it to the server app.
        group: Flower's label for the messages of this run.
    """

    def __init__(self, grid: Grid, *, group: str) -> None:
        self._grid = grid
        self._group = group
        self._replies = ReplyCollector(grid)
        self._waiting: dict[str, tuple[int, int]] = {}  # node and round by message

    def online(self) -> set[int]:
        """Return the node ids that are connected now."""
        return set(self._grid.get_node_ids())

    def ask(self, requests: Mapping[int, RoundRequest], *, time_to_live_s: float) -> int:
        """Send a request to each node; return the bytes of what was sent."""
        from flwr.app import Message

        messages = [
            Message(
                request_to_records(request),
                node_id,
                action_of(request),
                ttl=time_to_live_s,
                group_id=self._group,
            )
            for node_id, request in requests.items()
        ]
        # Flower answers None for a message that it could not store: that member simply does not answer.
        size_bytes = 0
        asked = zip(self._grid.push_messages(messages), requests.items(), messages, strict=True)
        for message_id, (node_id, request), message in asked:
            if message_id is not None:
                self._waiting[message_id] = (node_id, round_of(request))
                size_bytes += size_of(message.content)
        return size_bytes

    def collect(self) -> Iterable[Arrival]:
        """Return what arrived since the last call."""
        if not self._waiting:
            return []
        arrivals = []
        for reply in self._replies.collect(list(self._waiting)):
            node_id, round_ = self._waiting.pop(reply.reply_to, (None, 0))
            if node_id is None:
                continue
            message = reply.message
            if reply.lost or (message is not None and message.has_error()):
                arrivals.append(Arrival(node_id, None, gone=True, round=round_))
            elif message is None or message.metadata.src_node_id != node_id:
                # Flower and the gateway refuse this already; an answer in another's name is no answer.
                arrivals.append(Arrival(node_id, None, round=round_))
            else:
                answer, size_bytes = _read(message.content), size_of(message.content)
                arrivals.append(Arrival(node_id, answer, round=round_, size_bytes=size_bytes))
        return arrivals

    def forget(self) -> None:
        """Stop expecting answers to what was asked so far."""
        self._waiting.clear()


def round_of(request: RoundRequest) -> int:
    """Return the round of a question, 0 for an evaluation."""
    return request.round if isinstance(request, TrainRequest) else 0


def _read(records: object) -> RoundUpdate | Refusal | None:
    try:
        return answer_from_records(records)  # type: ignore[arg-type]
    except (PeerError, ValueError, TypeError, AttributeError):
        return None
