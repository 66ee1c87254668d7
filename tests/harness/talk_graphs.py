"""Small graphs of who talked with whom, for tests of how often a person counts."""

from __future__ import annotations

from hypothesis import strategies as st

from ringfence.model.conversation import Conversation, Message

SECRET = b"a secret of this member" * 2

graphs = st.lists(
    st.lists(st.sampled_from([f"p{i}" for i in range(9)]), min_size=0, max_size=5), min_size=0, max_size=30
)
"""The people of each conversation."""


def conversations(graph: list[list[str]]) -> list[Conversation]:
    """Return a conversation among the people of each entry, labelled in turn."""
    return [
        Conversation(f"c{i}", tuple(Message(person, "hello") for person in people), i % 2)
        for i, people in enumerate(graph)
    ]
