"""Turn the two public sources into the chat that the public features are built from.

    pip download --no-deps chitchat-dataset==0.9.0
    python scripts/public_features/convert_chat.py --wheel chitchat_dataset-0.9.0-py3-none-any.whl --out chitchat.jsonl.gz
    git clone https://github.com/CLochstampfor60/synthetic-se-dialogues
    python scripts/public_features/convert_chat.py --dialogues synthetic-se-dialogues/data/government_impersonation --out cova_gov.jsonl.gz

Senders become ids that hold within one conversation; conversations of fewer than four messages go, and so do empty messages.
``dropped_conversations.txt`` names the conversations that were left out because they hold a word of a broad list of sexual terms; the
list of words is not kept, the ids are enough. `public_text.read_chat` checks the result's SHA-256.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

CONTENT = "chitchat_dataset/dataset.json"
FEWEST_MESSAGES = 4
DROPPED = Path(__file__).with_name("dropped_conversations.txt")


def main() -> None:
    """Read the source, write the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheel", type=Path)
    source.add_argument("--dialogues", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.wheel is not None:
        with zipfile.ZipFile(given.wheel) as wheel:
            conversations = json.loads(wheel.read(CONTENT))
        dropped = frozenset(DROPPED.read_text(encoding="ascii").split())
        lines = list(converted(conversations, dropped=dropped))
    else:
        lines = list(converted_dialogues(sorted(given.dialogues.glob("*.json"))))
    given.out.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"{len(lines)} conversations")


def converted(conversations: Mapping[str, Any], *, dropped: frozenset[str]) -> Iterator[str]:
    """Yield one JSON line a conversation of chitchat-dataset that is kept, in the order of the package."""
    for key, conversation in conversations.items():
        short = key[:8]
        said = [message for turn in conversation["messages"] for message in turn]
        if short in dropped or len(said) < FEWEST_MESSAGES:
            continue
        yield _line(
            {
                "id": f"cc-{short}",
                "label": 0,
                "source": "chitchat-dataset 0.9.0",
                "prompt": conversation.get("prompt"),
                "messages": _messages(f"cc-{short}", said),
            }
        )


def converted_dialogues(paths: Sequence[Path]) -> Iterator[str]:
    """Yield one JSON line a dialogue of synthetic-se-dialogues, in the order of the file names."""
    for path in paths:
        dialogue = json.loads(path.read_text(encoding="utf-8"))
        name = dialogue["conversation_id"]
        yield _line(
            {
                "id": name,
                "label": 1,
                "outcome": dialogue["outcome"],
                "source": "COVA / synthetic-se-dialogues (MIT), government impersonation",
                "messages": [
                    {"author": f"{name}-{turn['role']}", "time": None, "text": turn["content"]}
                    for turn in dialogue["turns"]
                ],
            }
        )


def _messages(conversation_id: str, said: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    senders: dict[str, str] = {}
    result: list[dict[str, object]] = []
    for message in said:
        author = senders.setdefault(message["sender"], f"{conversation_id}-u{len(senders)}")
        time = datetime.fromisoformat(message["timestamp"].replace("Z", "+00:00")).timestamp()
        if message["text"]:
            result.append({"author": author, "time": time, "text": message["text"]})
    return result


def _line(item: Mapping[str, object]) -> str:
    return json.dumps(item, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
