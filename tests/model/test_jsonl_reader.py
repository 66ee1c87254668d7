"""Reading JSON lines: what is accepted, what is refused, and that no error repeats what a person wrote."""

import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pytest

from ringfence.model import jsonl_reader
from ringfence.model.conversation import Conversation, Message
from ringfence.model.errors import DataError
from ringfence.model.jsonl_reader import SkippedLines, load_conversations, read_conversations, read_stream

SECRET = "the blue heron waits"  # stands for what a person wrote: no error may repeat it
GOOD = {"id": "c1", "label": 0, "messages": [{"author": "a", "time": 1.5, "text": SECRET}]}


def line(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode() + b"\n"


def message(**changes: object) -> bytes:
    return line(
        messages=[{"author": "a", "time": 1.5, "text": SECRET}, {"author": "b", "text": SECRET, **changes}]
    )


def read(content: bytes, **options: bool) -> list[Conversation]:
    return list(read_stream(io.BytesIO(content), name="chats.jsonl", **options))


def test_a_conversation_is_read_with_its_messages_label_and_platform() -> None:
    (found,) = read(line(platform="forum", source="ignored", split=3))
    assert found == Conversation("c1", (Message("a", SECRET, 1.5),), label=0, platform="forum")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (line(id=7), "7"),
        (line(id=" c1 "), "c1"),
        (line(id="été-☂"), "été-☂"),
        (b"\n  \n" + line() + b"\n", "c1"),
        (line().rstrip(b"\n"), "c1"),
        (line().replace(b"\n", b"\r\n"), "c1"),
    ],
)
def test_identifiers_become_strings_and_blank_lines_do_not_matter(content: bytes, expected: str) -> None:
    assert [conversation.id for conversation in read(content)] == [expected]


def test_a_members_own_fields_may_stand_twice() -> None:
    assert read(b'{"id": "c", "messages": [], "queue": 1, "queue": 2, "label": 1}')[0].label == 1


def test_a_message_cut_inside_an_emoji_can_still_be_encoded() -> None:
    (found,) = read(b'{"id": "c", "messages": [{"author": "a", "text": "hi \\ud83d"}]}')
    assert found.messages[0].text.encode() == "hi \ufffd".encode()


def test_a_conversation_without_messages_and_an_empty_text_are_conversations() -> None:
    assert read(line(messages=[]))[0].messages == ()
    assert read(message(text=""))[0].messages[1].text == ""


BAD_LINES = [
    (line(label=True), "line 1, field label: must be 0, 1 or null"),
    (line(label=2), "line 1, field label"),
    (line(label=1.0), "line 1, field label"),
    (line(label="1"), "line 1, field label"),
    (line(id=None), "line 1, field id: must be a string or a whole number"),
    (line(id=1.5), "line 1, field id"),
    (line(id=True), "line 1, field id"),
    (line(id="  "), "line 1, field id: must not be empty"),
    (line(id="x" * 513), "line 1, field id: must have at most 512"),
    (line(id="a\x1b[31m"), "line 1, field id: must hold neither control characters"),
    (line(id="a\ud800"), "line 1, field id: must hold neither"),
    (line(platform=3.5), "line 1, field platform"),
    (line(messages="x"), "line 1, field messages: must be a list"),
    (line(messages=None), "line 1, field messages: must be a list"),
    (line(messages=[SECRET]), "line 1, field messages[0]: must be a JSON object"),
    (b'{"id": "c"}', "line 1, field messages: is missing"),
    (b'{"messages": []}', "line 1, field id: is missing"),
    (b'{"id": "c", "messages": [{"author": "a"}]}', "line 1, field messages[0].text: is missing"),
    (message(text=None), "line 1, field messages[1].text: must be a string"),
    (message(text=[SECRET]), "line 1, field messages[1].text: must be a string"),
    (message(author=""), "line 1, field messages[1].author: must not be empty"),
    (message(author=None), "line 1, field messages[1].author"),
    (message(time=SECRET), "line 1, field messages[1].time: must be a number of seconds or null"),
    (message(time=True), "line 1, field messages[1].time"),
    (message(time=float("nan")), "line 1, field messages[1].time: must be a finite number"),
    (message(time=float("-inf")), "line 1, field messages[1].time: must be a finite number"),
    (message(time=10**400), "line 1, field messages[1].time: must be a finite number"),
    (b'{"id": ' + b"9" * 5000 + b"}", "line 1: holds a number that is too long"),
    (b"[1]", "line 1: must be a JSON object"),
    (b"null", "line 1: must be a JSON object"),
    (line()[:-20], "line 1: is not JSON (character"),
    (line().replace(b"heron", b"her\xff"), "line 1: is not UTF-8 (byte"),
    (b"[" * 100_000, "line 1: is nested too deeply"),
    (b'{"id": "c", "messages": [], "label": 1, "label": 0}', "line 1, field label: stands twice"),
    (b'{"id": "c", "messages": [], "label": 1, "label": 1}', "line 1, field label: stands twice"),
    (
        b'{"id": "c", "messages": [{"author": "a", "text": "x", "t\\u0065xt": "y"}]}',
        "line 1, field text: stands twice",
    ),
    (line() + line(), "line 2, field id: was already used by another conversation"),
    (line(id="7") + line(id=7), "line 2, field id: was already used"),
]


@pytest.mark.parametrize(("content", "expected"), BAD_LINES)
def test_a_bad_line_names_file_line_and_field_and_never_the_text(content: bytes, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        read(content)
    assert caught.value.message.startswith(f"chats.jsonl, {expected}")
    assert caught.value.hint
    # Nothing that a person wrote travels with the error, not even in the exceptions behind it.
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error) + str(vars(error))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "chats.jsonl holds no conversation."),
        (b"\n\n", "chats.jsonl holds no conversation."),
        (b"\xef\xbb\xbf" + line(), "chats.jsonl, line 1: begins with a byte order mark."),
        (line().decode().encode("utf-16"), "chats.jsonl, line 1: begins with a byte order mark."),
    ],
)
def test_a_file_without_conversations_or_in_another_encoding_is_refused(
    content: bytes, expected: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(content)
    assert caught.value.message == expected


def test_labels_are_required_only_where_they_are_asked_for() -> None:
    unlabelled = line(label=None)
    assert read(unlabelled)[0].label is None
    with pytest.raises(DataError, match="no conversation has a label"):
        read(unlabelled, require_labels=True)
    assert len(read(unlabelled + line(id="c2", label=1), require_labels=True)) == 2


def test_bad_lines_are_counted_and_passed_over_when_the_operator_chose_so() -> None:
    skipped = SkippedLines()
    content = line() + b"{broken\n" + line(id="c2", label=3) + line() + line(id="c3")
    found = list(read_stream(io.BytesIO(content), name="chats.jsonl", skipped=skipped))
    assert [conversation.id for conversation in found] == ["c1", "c3"]
    assert skipped.count == 3
    assert skipped.first is not None
    assert "line 2" in skipped.first.message


def test_a_file_of_bad_lines_only_is_an_error_even_when_bad_lines_are_skipped() -> None:
    with pytest.raises(DataError, match="holds no conversation"):
        list(read_stream(io.BytesIO(b"{\n{\n"), name="chats.jsonl", skipped=SkippedLines()))


def test_a_line_of_a_megabyte_is_read() -> None:
    assert len(read(message(text="x" * 1_000_000))[0].messages[1].text) == 1_000_000


def test_a_line_beyond_the_limit_is_refused_or_skipped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_reader, "MAX_LINE_BYTES", 200)
    content = message(text="x" * 1000) + line(id="c2")
    with pytest.raises(DataError, match=r"line 1: is longer than"):
        read(content)
    skipped = SkippedLines()
    found = list(read_stream(io.BytesIO(content), name="chats.jsonl", skipped=skipped))
    assert [conversation.id for conversation in found] == ["c2"]
    assert skipped.count == 1


def test_an_endless_line_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jsonl_reader, "MAX_LINE_BYTES", 100_000)
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as stream:
        for _ in range(50):
            stream.write(b" " * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="line 1"):
            list(read_conversations(bomb))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_conversations_are_streamed_before_the_file_ends() -> None:
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.count = 0

        def readline(self, _limit: int | None = -1) -> bytes:
            self.count += 1
            return line(id=self.count)

    stream = Endless()
    conversations = read_stream(stream, name="endless")  # type: ignore[arg-type]
    assert [next(conversations).id for _ in range(3)] == ["1", "2", "3"]
    assert stream.count == 3


def test_gzip_files_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(line(id=f"c{index}") for index in range(500)), mtime=0)
    good, cut, not_gzip = (tmp_path / f"{name}.jsonl.gz" for name in ("good", "cut", "not"))
    good.write_bytes(whole)
    cut.write_bytes(whole[:-30])
    not_gzip.write_bytes(line())
    assert len(list(read_conversations(good))) == 500
    for path in (cut, not_gzip):
        with pytest.raises(DataError, match="cut off, damaged or not gzip"):
            list(read_conversations(path))


@pytest.mark.parametrize("name", ["CHATS.JSONL.GZ", "chats.jsonl", "chats"])
def test_gzip_is_known_by_its_first_bytes_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(line()))
    assert [found.id for found in read_conversations(path)] == ["c1"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="cut off, damaged or not gzip"):
        list(read_conversations(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chats.csv", f"conversation_id,text\nc1,{SECRET}\n".encode()),
        ("chats.csv.gz", gzip.compress(f"{SECRET},text\n".encode())),
        ("chats.TSV", f"{SECRET}\ttext\n".encode()),
        ("chats.parquet", b"PAR1" + SECRET.encode()),
        ("chats", b"PAR1" + SECRET.encode()),
        ("chats.csv.zst", b"\x28\xb5\x2f\xfd" + SECRET.encode()),
    ],
)
def test_a_table_is_told_where_tables_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for skipped in (None, SkippedLines()):
        with pytest.raises(DataError, match=f"{name} is a table") as caught:
            list(read_conversations(tmp_path / name, skipped=skipped))
        assert "[data.tables]" in caught.value.hint
        assert SECRET not in caught.value.message + caught.value.hint


def test_what_a_file_holds_counts_and_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "chats.csv"
    path.write_bytes(line())
    assert [found.id for found in read_conversations(path)] == ["c1"]


def test_a_missing_file_a_folder_and_standard_input_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(DataError, match="Cannot read") as caught:
            list(read_conversations(path))
        assert str(path) in caught.value.message
    assert f"{tmp_path}/*.jsonl" in caught.value.hint
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line() + b"{\n")))
    with pytest.raises(DataError, match="standard input, line 2"):
        list(read_conversations("-"))


def test_several_files_share_their_identifiers_and_their_need_of_labels(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_bytes(line(label=None))
    second.write_bytes(line(id="c2", label=1))
    assert [c.id for c in load_conversations([first, second], require_labels=True)] == ["c1", "c2"]
    second.write_bytes(line())
    with pytest.raises(DataError, match=r"2\.jsonl, line 1, field id"):
        load_conversations([first, second])
    with pytest.raises(DataError, match="no conversation has a label"):
        load_conversations([first], require_labels=True)
    with pytest.raises(DataError, match="No file"):
        load_conversations([])
