"""The shipped public files fit what they are said to be."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "public_features"
DATA = Path(__file__).parents[2] / "examples" / "data"


def test_the_benign_chat_ships_once_small_and_with_its_licence() -> None:
    part = DATA / "chitchat-part.jsonl.gz"
    assert part.stat().st_size < 2_500_000
    assert "MIT License" in (DATA / "NOTICE.md").read_text(encoding="utf-8")
    packaged = DATA.parents[1] / "demo" / "data"
    assert packaged.is_symlink()
    assert packaged.resolve() == DATA.resolve()


def test_the_benign_chat_holds_no_label_but_zero_and_no_name_but_ids() -> None:
    with gzip.open(DATA / "chitchat-part.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            assert item["label"] == 0
            assert all(message["author"].startswith(item["id"]) for message in item["messages"])


def test_features_are_built_from_the_pinned_chat_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    public_text = importlib.import_module("public_text")
    line = json.dumps({"id": "c", "messages": [{"author": "a", "text": "hi\u2028there"}]}, ensure_ascii=False)
    content = f"{line}\n".encode()
    path = tmp_path / "chat.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(SystemExit, match="none of TEXT_SHA256"):
        public_text.read_chat([path])
    monkeypatch.setitem(public_text.TEXT_SHA256, hashlib.sha256(content).hexdigest(), "made up")
    (conversation,) = public_text.read_chat([path])
    assert [message.text for message in conversation.messages] == ["hi\u2028there"]


def test_the_conversion_drops_what_the_list_names_and_keeps_no_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    convert_chat = importlib.import_module("convert_chat")

    def said(*texts: str) -> dict[str, object]:
        turn = [
            {"text": text, "timestamp": "2018-05-02T19:38:15Z", "sender": f"someone-{place % 2}"}
            for place, text in enumerate(texts)
        ]
        return {"prompt": "why?", "messages": [turn]}

    package = {
        "11111111-aaaa": said("hi", "hello", "", "ok"),
        "22222222-bbbb": said("hi", "hello", "so", "ok"),
        "33333333-cccc": said("hi", "hello", "ok"),
    }
    (line,) = convert_chat.converted(package, dropped=frozenset({"22222222"}))
    item = json.loads(line)
    assert item["id"] == "cc-11111111"
    assert [(m["author"], m["text"]) for m in item["messages"]] == [
        ("cc-11111111-u0", "hi"),
        ("cc-11111111-u1", "hello"),
        ("cc-11111111-u1", "ok"),
    ]
    assert "someone" not in line


def test_no_conversation_that_was_dropped_ships() -> None:
    dropped = {f"cc-{short}" for short in (SCRIPTS / "dropped_conversations.txt").read_text().split()}
    with gzip.open(DATA / "chitchat-part.jsonl.gz", "rt", encoding="utf-8") as lines:
        shipped = {json.loads(line)["id"] for line in lines}
    assert len(dropped) == 158
    assert not dropped & shipped
