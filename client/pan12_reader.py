"""The PAN-2012 corpus in its own form: one XML file of conversations, and a list of the authors of one side.

Researchers hold it under licence. It is read as a stream; a document type or an entity of its own is refused, since nothing
in the corpus needs one and a file that has one wants more than to be read. Its times have no date, so they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.parsers import expat

from ringfence.model.conversation import Conversation, Message
from ringfence.model.conversation_record import FieldError, identifier_from
from ringfence.model.errors import DataError

_BLOCK = 1 << 16
_FORM = (
    'It holds <conversation id="..."><message line="1"><author/><time/><text/></message>...</conversation>.'
)


def read_pan12(source: Path, *, predators: frozenset[str]) -> Iterator[Conversation]:
    """Yield the conversations of a corpus file; label 1 where a listed author takes part, else 0.

    Args:
        source: the XML file.
        predators: author ids of `read_predators`.

    Raises:
        DataError: the file cannot be read, or is not in this form. The message holds no content.
    """
    builder = _Builder(source, predators)
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    builder.line_of = lambda: parser.CurrentLineNumber
    try:
        with source.open("rb") as file:
            while block := file.read(_BLOCK):
                parser.Parse(block)
                yield from builder.take()
            parser.Parse(b"", True)
            yield from builder.take()
    except expat.ExpatError as error:
        raise DataError(
            f"{source}, line {error.lineno}: is not XML: {expat.errors.messages.get(error.code, 'unreadable')}.",
            hint=_FORM,
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read {source}: {error.strerror}.", hint="Check the path.") from error
    if not builder.any_found:
        raise DataError(f"{source} holds no conversation.", hint=_FORM)


def read_predators(source: Path) -> frozenset[str]:
    """Return the author ids of the corpus' list, one a line.

    Raises:
        DataError: the file cannot be read, or names nobody.
    """
    try:
        # A byte order mark, as some editors write one, is no part of the first id.
        found = frozenset(
            line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines() if line.strip()
        )
    except OSError as error:
        raise DataError(
            f"Cannot read {source}: {error.strerror}.", hint="Check predators in [data]."
        ) from error
    except UnicodeDecodeError:
        raise DataError(f"{source} is not UTF-8.", hint="It holds one author id a line.") from None
    if not found:
        raise DataError(f"{source} names nobody.", hint="It holds one author id a line.")
    return found


class _Builder:
    def __init__(self, source: Path, predators: frozenset[str]) -> None:
        self._source = source
        self._predators = predators
        self._ready: list[Conversation] = []
        self._id: str | None = None
        self._messages: list[Message] = []
        self._fields: dict[str, str] | None = None
        self._field: str | None = None
        self._seen: set[str] = set()
        self.any_found = False
        self.line_of: Callable[[], int] = lambda: 0

    def take(self) -> list[Conversation]:
        ready, self._ready = self._ready, []
        return ready

    def refuse(self, *_: object) -> None:
        raise self._bad("has a document type or entity of its own, which is refused")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "conversation":
            self._id = self._identifier(attributes.get("id"), "id")
            if self._id in self._seen:
                raise self._bad("the id was already used by another conversation")
            self._seen.add(self._id)
            self._messages = []
        elif name == "message":
            self._fields = {}
        elif self._fields is not None and name in ("author", "time", "text"):
            self._field = name
            self._fields[name] = ""

    def characters(self, text: str) -> None:
        if self._fields is not None and self._field is not None:
            self._fields[self._field] += text

    def end(self, name: str) -> None:
        if name == self._field:
            self._field = None
        elif name == "message" and self._fields is not None:
            author = self._identifier(self._fields.get("author"), "author")
            self._messages.append(Message(author=author, text=self._fields.get("text", "").strip()))
            self._fields = None
        elif name == "conversation" and self._id is not None:
            label = int(any(message.author in self._predators for message in self._messages))
            self._ready.append(Conversation(self._id, tuple(self._messages), label=label))
            self.any_found = True
            self._id = None

    def _identifier(self, value: str | None, field: str) -> str:
        try:
            return identifier_from(value or "", field)
        except FieldError as error:
            raise self._bad(f"{field} {error.reason}") from None

    def _bad(self, reason: str) -> DataError:
        return DataError(f"{self._source}, line {self.line_of()}: {reason}.", hint=_FORM)
