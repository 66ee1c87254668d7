"""The public text that the features are built from: chat corpora given by path, and the phrase bank."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringfence.model.conversation import Conversation, Message
from ringfence.model.phrases import STAGES, load_phrase_bank
from ringfence.model.typing_habits import TypingHabits

TEXT_SHA256 = {
    "cfa09e224d9f5eb0dd929b2e6169f638b6b1985157bdd1f910bc0a92370c7519": "chitchat-dataset 0.9.0, as convert_chat.py writes it",
    "baae96c06640f328d38be306d0b6c9eb19cd17845a3008f5b17c5afb2bac9d6a": "synthetic-se-dialogues, government impersonation",
}
"""SHA-256 of the JSON lines, unpacked, and what they are: the features were built from these and nothing else."""

OTHER = len(STAGES)
FILLINGS = 3
"""How often a phrase with gaps is filled."""


@dataclass(frozen=True)
class TaggedText:
    """A line of the bank and what it stands for.

    Attributes:
        text: as written, before typing habits.
        stage: place in STAGES, or OTHER.
    """

    text: str
    stage: int


def read_chat(paths: Sequence[Path]) -> list[Conversation]:
    """Read conversations of gzipped JSON lines, in the order of the files.

    Raises:
        SystemExit: a file is not one of the two that the features were built from.
    """
    result = []
    for path in paths:
        content = gzip.decompress(path.read_bytes())
        found = hashlib.sha256(content).hexdigest()
        if found not in TEXT_SHA256:
            raise SystemExit(
                f"{path.name} has SHA-256 {found} when unpacked, which is none of TEXT_SHA256; see README.md"
            )
        for line in content.decode("utf-8").split("\n")[:-1]:
            item = json.loads(line)
            messages = tuple(
                Message(author=m["author"], text=m["text"], time=m.get("time")) for m in item["messages"]
            )
            result.append(Conversation(id=item["id"], messages=messages))
    return result


def chat_messages(conversations: Sequence[Conversation], *, count: int, seed: int) -> list[str]:
    """Return different messages of 2 to 300 characters in random order."""
    texts = sorted(
        {m.text.strip() for c in conversations for m in c.messages if 2 <= len(m.text.strip()) <= 300}
    )
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[index] for index in order]


def short_spans(texts: Sequence[str], *, count: int, seed: int) -> list[str]:
    """Return different stretches of three to nine words out of longer messages: most lines of a chat are that short."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for index in rng.permutation(len(texts)):
        words = texts[index].split()
        if len(words) < 8:
            continue
        length = 3 + int(rng.random() * 7)
        start = int(rng.random() * max(1, len(words) - length))
        found[" ".join(words[start : start + length])] = None
        if len(found) == count:
            break
    return list(found)


def bank_lines(seed: int) -> list[TaggedText]:
    """Return the bank's phrases with their gaps filled, its contexts, its replies and its answers, which are of no stage."""
    rng = np.random.default_rng(seed)
    bank = load_phrase_bank("bank")
    found: dict[TaggedText, None] = {}
    for place, stage in enumerate(STAGES):
        for phrase in bank.stages[stage]:
            for _ in range(FILLINGS if "{" in phrase else 1):
                found[TaggedText(bank.fill(phrase, rng), place)] = None
    for lines in (*bank.contexts.values(), bank.replies, *bank.answers.values()):
        for phrase in lines:
            for _ in range(FILLINGS if "{" in phrase else 1):
                found[TaggedText(bank.fill(phrase, rng), OTHER)] = None
    return list(found)


def retype(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Return the texts as people with mixed habits would type them; about a third stay as they are."""
    strong = TypingHabits(0.7, 0.7, 0.6, 0.3, 0.08, 0.06, 0.06)
    return [strong.apply(text, rng) if rng.random() < 0.67 else text for text in texts]
