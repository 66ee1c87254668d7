"""Conversations from JSON lines: one conversation a line, plain or gzip, from a file or a stream.

Reading streams: at any time one line and a 16-byte digest of each identifier met are held. Every error names the file,
the line and the field, and never what stands in it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from ringfence.model.conversation import Conversation
from ringfence.model.conversation_record import FieldError, conversation_from_record
from ringfence.model.errors import DataError

Parsed = TypeVar("Parsed")

STANDARD_INPUT = "-"
MAX_LINE_BYTES = 16 * 1024 * 1024
TOO_LONG = f"is longer than {MAX_LINE_BYTES // 1024**2} MiB"

_FORM = 'Each line holds {"id", "messages": [{"author", "text", "time"?}], "label"?}.'
_KNOWN_FIELDS = frozenset(("id", "conversation", "messages", "author", "text", "time", "label", "platform"))
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_TABLES = frozenset((".csv", ".tsv", ".parquet"))
_COMPRESSED = frozenset((".gz", ".zst"))
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(slots=True)
class SkippedLines:
    """Counts the lines that a reader passed over, where an operator chose to skip bad ones.

    Attributes:
        count: lines passed over so far.
        first: the error of the first of them.
    """

    count: int = 0
    first: DataError | None = None


@dataclass(slots=True)
class _Seen:
    """Identifiers met, as digests: bounded memory whatever the identifiers' length."""

    digests: set[bytes] = field(default_factory=set)

    def add(self, identifier: str) -> bool:
        """Remember an identifier and return whether it is new."""
        digest = hashlib.blake2b(identifier.encode(), digest_size=16).digest()
        new = digest not in self.digests
        self.digests.add(digest)
        return new


def read_conversations(
    source: Path | str,
    *,
    require_labels: bool = False,
    skipped: SkippedLines | None = None,
) -> Iterator[Conversation]:
    """Yield the conversations of one file, or of standard input for ``-``.

    Args:
        source: path of a ``.jsonl`` or ``.jsonl.gz`` file, or ``-``.
        require_labels: raise, after the last line, if no conversation has a label.
        skipped: count bad lines here and go on, instead of raising at the first.

    Raises:
        DataError: the source cannot be read, is empty, or holds a bad line; or labels are required and there are none.
            The data owner's fault.
    """
    yield from _checked(_read_one(source, seen=_Seen(), skipped=skipped), _name(source), require_labels)


def read_stream(
    stream: BinaryIO,
    *,
    name: str,
    require_labels: bool = False,
    skipped: SkippedLines | None = None,
) -> Iterator[Conversation]:
    """Yield the conversations of an open binary stream, called ``name`` in errors; as `read_conversations`."""
    yield from _checked(_read_lines(stream, name=name, seen=_Seen(), skipped=skipped), name, require_labels)


def stream_conversations(
    sources: Iterable[Path | str], *, skipped: SkippedLines | None = None
) -> list[Iterator[Conversation]]:
    """Return one stream of conversations for each of several files; an identifier may occur once in all of them together.

    Raises:
        DataError: while a stream is read, as `read_conversations`.
    """
    seen = _Seen()
    return [
        _checked(_read_one(source, seen=seen, skipped=skipped), _name(source), require_labels=False)
        for source in sources
    ]


def load_conversations(
    sources: Iterable[Path | str],
    *,
    require_labels: bool = False,
    skipped: SkippedLines | None = None,
) -> list[Conversation]:
    """Return every conversation of several files; an identifier may occur once in all of them together.

    Raises:
        DataError: as `read_conversations`, for each file; labels are required of all files together.
    """
    seen = _Seen()
    loaded: list[Conversation] = []
    names: list[str] = []
    for source in sources:
        names.append(_name(source))
        loaded.extend(
            _checked(_read_one(source, seen=seen, skipped=skipped), names[-1], require_labels=False)
        )
    if not names:
        raise DataError("No file of conversations was given.", hint="Name at least one .jsonl file.")
    if require_labels and all(conversation.label is None for conversation in loaded):
        raise _no_labels(", ".join(names))
    return loaded


def _checked(
    conversations: Iterator[Conversation], name: str, require_labels: bool
) -> Iterator[Conversation]:
    """Pass conversations on and complain, after the last, about what only the whole file can show."""
    found = labelled = False
    for conversation in conversations:
        found = True
        labelled = labelled or conversation.label is not None
        yield conversation
    if not found:
        raise DataError(f"{name} holds no conversation.", hint=_FORM)
    if require_labels and not labelled:
        raise _no_labels(name)


def _no_labels(name: str) -> DataError:
    return DataError(
        f"{name}: no conversation has a label.",
        hint='Training and evaluation need "label": 1 or 0 on the conversations that people have decided.',
    )


def _read_one(source: Path | str, *, seen: _Seen, skipped: SkippedLines | None) -> Iterator[Conversation]:
    name = _name(source)
    if str(source) == STANDARD_INPUT:
        yield from _read_lines(sys.stdin.buffer, name=name, seen=seen, skipped=skipped)
        return
    path = Path(source)
    with open_lines(path) as stream:
        yield from _read_lines(stream, name=name, seen=seen, skipped=skipped)


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[BinaryIO]:
    """Open a file of lines for reading them, through gzip if its name or its first bytes say so.

    Raises:
        DataError: it cannot be opened or read. The data owner's fault.
    """
    name = _name(path)
    try:
        # Entered one by one: a failure to open must not be confused with a failure while reading.
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            if path.suffix.lower() == ".gz" or file.peek(2).startswith(_GZIP):
                yield stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb"))  # type: ignore[misc]
            else:
                yield file
    except OSError as error:
        is_folder = isinstance(error, IsADirectoryError)
        raise DataError(
            f"Cannot read {name}: {error.strerror or type(error).__name__}.",
            hint=f"Name its files, as in {name}/*.jsonl"
            if is_folder
            else "Check the path and its permissions.",
        ) from error


def _read_lines(
    stream: BinaryIO, *, name: str, seen: _Seen, skipped: SkippedLines | None
) -> Iterator[Conversation]:
    for number, line in numbered_lines(stream, name):
        if number == 1 and line is not None and _is_table(line, name):
            raise DataError(
                f"{name} is a table, and files hold one whole conversation a line.",
                hint="Tables are read by queries: name it in [data.tables] of member.toml, as docs/data.md shows, or export "
                "conversations as JSON lines.",
            )
        error: DataError | None = None
        if line is None:
            error = _bad_line(name, number, "", TOO_LONG)
        elif line.strip():
            conversation, problem = _parse(line)
            if problem is not None:
                error = _bad_line(name, number, problem.field, problem.reason)
            elif conversation is not None and seen.add(conversation.id):
                yield conversation
            else:
                error = _bad_line(name, number, "id", "was already used by another conversation")
        if error is None:
            continue
        if skipped is None:
            raise error
        skipped.count += 1
        skipped.first = skipped.first or error


def numbered_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its number from 1, or None in place of a line that is too long to hold."""
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(MAX_LINE_BYTES + 1)
            whole = len(line) <= MAX_LINE_BYTES
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{name}, line {number}: the file is cut off, damaged or not gzip.",
                hint="Copy the file again, or rename it if it is not compressed.",
            ) from error
        if not line and whole:
            return
        if number == 1 and line.startswith(_BYTE_ORDER_MARKS):
            raise DataError(
                f"{name}, line 1: begins with a byte order mark.",
                hint="Save the file as UTF-8 without a byte order mark.",
            )
        yield number, line if whole else None


def _is_table(line: bytes, name: str) -> bool:
    """Whether a file's first line and name are those of a table."""
    suffixes = [suffix for suffix in Path(name.lower()).suffixes if suffix not in _COMPRESSED]
    named = bool(suffixes) and suffixes[-1] in _TABLES
    return line.startswith(_PARQUET) or (named and not line.lstrip().startswith(b"{"))


def _parse(line: bytes) -> tuple[Conversation | None, FieldError | None]:
    return parse_record(line, conversation_from_record)


def parse_record(
    line: bytes, from_record: Callable[[object], Parsed]
) -> tuple[Parsed | None, FieldError | None]:
    """Return what one line holds, or what is wrong with it.

    The problem is returned, not raised from its cause: the causes (JSONDecodeError, UnicodeDecodeError) carry the line.
    """
    try:
        return from_record(json.loads(line.decode("utf-8"), object_pairs_hook=_object)), None
    except FieldError as error:
        return None, FieldError(error.field, error.reason)
    except UnicodeDecodeError as error:
        return None, FieldError("", f"is not UTF-8 (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        return None, FieldError("", f"is not JSON (character {error.pos + 1} of the line)")
    except RecursionError:
        return None, FieldError("", "is nested too deeply")
    except ValueError:  # a whole number beyond what Python converts
        return None, FieldError("", "holds a number that is too long")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object. Of two labels the last would count, and nobody would know of the first."""
    found = dict(pairs)
    if len(found) != len(pairs):
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        for name in repeated:
            if name in _KNOWN_FIELDS:
                raise FieldError(name, "stands twice in one object")
    return found


def _bad_line(name: str, number: int, field_name: str, reason: str) -> DataError:
    where = f"{name}, line {number}" + (f", field {field_name}" if field_name else "")
    return DataError(f"{where}: {reason}.", hint=_FORM)


def _name(source: Path | str) -> str:
    return "standard input" if str(source) == STANDARD_INPUT else str(source)
