"""The member's installed client app: the only code that answers a round, wherever the federation runs.

The member agent calls it in its worker, Flower's simulation engine calls it in its actors, and tests call it in their own
process. Failures leave as codes: Flower would send an exception's text to the coordinator.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ringfence.client.local_training import LocalTrainer
from ringfence.client.member_home import MemberHome
from ringfence.client.refusals import refusal_code
from ringfence.model.errors import PeerError
from ringfence.model.evaluation_messages import EVALUATE_ACTION
from ringfence.model.round_messages import (
    TRAIN_ACTION,
    Refusal,
    RefusalCode,
    RoundRequest,
    RoundUpdate,
    answer_to_records,
    request_from_records,
)

HOME_KEY = "home"
app = ClientApp()


@app.train("update")
def train(message: Message, context: Context) -> Message:
    """Answer one round for the member whose folder the node configuration names."""
    return _answer(message, context, action=TRAIN_ACTION)


@app.evaluate("histogram")
def evaluate(message: Message, context: Context) -> Message:
    """Count scores by label, with noise, for the member whose folder the node configuration names."""
    return _answer(message, context, action=EVALUATE_ACTION)


def answer_request(home: MemberHome, request: RoundRequest) -> RoundUpdate | Refusal:
    """Return a member's answer to a request: an update, or a code. Never raises."""
    try:
        return _trainer(home).answer(request).update
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code may leave
        return Refusal(refusal_code(error))


def _answer(message: Message, context: Context, *, action: str) -> Message:
    try:
        request = request_from_records(message.content, action=action)
        answer = answer_request(MemberHome(Path(str(context.node_config[HOME_KEY]))), request)
    except PeerError:
        answer = Refusal(RefusalCode.BAD_REQUEST)
    return Message(answer_to_records(answer), reply_to=message)


@lru_cache(maxsize=1024)  # one in an agent; in a simulation as many as it may have members
def _trainer(home: MemberHome) -> LocalTrainer:
    return LocalTrainer(home, has_ledger=False)
