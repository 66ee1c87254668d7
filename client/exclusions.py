"""People whose conversations are never used again, known by a salted hash alone.

The source of the conversations is not ours to delete from, and reading it again must not bring anybody back. So the member
remembers whom it forgot, in a form that names nobody: a keyed hash under a salt of its own. Whoever has the salt can test a
guess, which is why the file stays at the member, readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import write_atomically
from ringfence.model.conversation import Conversation
from ringfence.model.errors import ConfigError
from ringfence.model.plan import Sha256
from ringfence.privacy.bounding import normalise_participant

_SALT_BYTES = 32
_REMEMBERED = 65_536
_PURPOSE = b"ringfence excluded participant|"


class Exclusions(BaseModel):
    """The content of ``exclusions.json``.

    Attributes:
        schema_version: of this form.
        salt: 32 random bytes, hexadecimal; made with the first exclusion and never changed.
        people: salted hash of each excluded participant -> day of the request, ISO 8601.
        pseudonyms: salted hashes of what the same people are called past reading, for conversations that were read before.
        to_withdraw: keys of ledger entries whose payloads wait to be removed by the agent, which holds the ledger.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    people: dict[Sha256, Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]] = {}
    pseudonyms: frozenset[Sha256] = frozenset()
    to_withdraw: tuple[str, ...] = ()

    def since(self, person: str) -> str | None:
        """Return the day on which a participant was excluded, or None; spellings that differ in case are one person."""
        return self.people.get(self._hash(person))

    def with_person(self, person: str, *, day: str, pseudonym: str = "") -> Exclusions:
        """Return these exclusions and one more; the day of an earlier request stays.

        Args:
            person: identifier in the source.
            day: of the request, ISO 8601.
            pseudonym: what the person is called past reading, or "" if nothing was ever read.
        """
        also = {self._hash(pseudonym)} if pseudonym else frozenset()
        return self.model_copy(
            update={
                "people": {self._hash(person): day} | self.people,
                "pseudonyms": self.pseudonyms | also,
            }
        )

    def allowed(self, conversations: Sequence[Conversation]) -> Sequence[int]:
        """Return the positions of the conversations in which nobody excluded takes part, named or under a pseudonym.

        A conversation goes as a whole: what others said in it answers the person, and is the person's data as well.
        """
        if not self.people:
            return range(len(conversations))
        excluded = lru_cache(_REMEMBERED)(self._is_excluded)
        return [
            position
            for position, item in enumerate(conversations)
            if not any(excluded(author) for author in item.participants)
        ]

    def _is_excluded(self, author: str) -> bool:
        hashed = self._hash(author)
        return hashed in self.people or hashed in self.pseudonyms

    def _hash(self, person: str) -> str:
        message = _PURPOSE + normalise_participant(person).encode("utf-8", "surrogatepass")
        return hmac.new(bytes.fromhex(self.salt), message, hashlib.sha256).hexdigest()


def load_exclusions(home: MemberHome) -> Exclusions:
    """Return a member's exclusions; none, under a fresh salt, if nobody was ever excluded.

    Raises:
        ConfigError: the file cannot be read. Nothing may be trained on: somebody in it could come back.
    """
    try:
        return Exclusions.model_validate_json(home.exclusions_file.read_bytes())
    except FileNotFoundError:
        return Exclusions(salt=secrets.token_hex(_SALT_BYTES))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{home.exclusions_file} cannot be read, so nobody knows whom to leave out.",
            hint="Restore it from a backup; do not delete it.",
        ) from error


def save_exclusions(home: MemberHome, *, exclusions: Exclusions) -> None:
    """Write a member's exclusions; on disk when this returns.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    try:
        write_atomically(home.exclusions_file, exclusions.model_dump_json().encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.exclusions_file}: {error.strerror}", hint="Check the folder and the disk."
        ) from error


def exclusions_stamp(home: MemberHome) -> tuple[int, int] | None:
    """Return something that changes whenever a person is forgotten; None while nobody was."""
    try:
        found = home.exclusions_file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino
