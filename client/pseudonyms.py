"""What people and conversations are called past the point where a member's data is read: never what the platform calls them.

A keyed hash under the member's own secret. The same person has the same pseudonym in every reading, which the contribution
bound and forgetting need, and no other member or release can link it to anything. Whoever has the secret can test a guess:
it stays at the member, readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from ringfence.model.conversation import Conversation
from ringfence.privacy.bounding import normalise_participant

PSEUDONYM_BYTES = 16
_REMEMBERED = 65_536


class Pseudonyms:
    """Pseudonyms under one secret.

    Args:
        secret: the member's own, at least 16 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.new(secret, b"ringfence source pseudonyms", hashlib.sha256).digest()
        # Identifiers come in runs: most look-ups meet one that was just met.
        self.person = lru_cache(_REMEMBERED)(self._person)
        self.conversation = lru_cache(_REMEMBERED)(self._conversation)

    def of(self, conversations: Iterable[Conversation]) -> list[Conversation]:
        """Return the conversations under pseudonyms, otherwise as they are."""
        return [
            replace(
                item,
                id=self.conversation(item.id).hex(),
                messages=tuple(
                    replace(message, author=self.person(message.author).hex()) for message in item.messages
                ),
            )
            for item in conversations
        ]

    def _person(self, identifier: str) -> bytes:
        """Return a person's pseudonym; spellings that differ in case are one person."""
        return self._hash(b"person|", normalise_participant(identifier))

    def _conversation(self, identifier: str) -> bytes:
        return self._hash(b"conversation|", identifier)

    def _hash(self, kind: bytes, identifier: str) -> bytes:
        message = kind + identifier.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).digest()[:PSEUDONYM_BYTES]
