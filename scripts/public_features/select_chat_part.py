"""Choose the part of the benign chat that ships under examples/data.

    python scripts/public_features/select_chat_part.py --chat CHITCHAT.jsonl.gz --out examples/data/chitchat-part.jsonl.gz

The choice is by hash of the conversation's id. The public features are built from the conversations that are left.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from pathlib import Path

SHIPPED_OF_256 = 100
"""How many of 256 conversations ship."""


def is_shipped(conversation_id: str) -> bool:
    """Say whether a conversation is in the part that ships."""
    return hashlib.sha256(conversation_id.encode()).digest()[0] < SHIPPED_OF_256


def main() -> None:
    """Write the part: ids, authors, times and texts, gzipped without a time stamp."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines = []
    with gzip.open(given.chat, "rt", encoding="utf-8") as source:
        for line in source:
            item = json.loads(line)
            if is_shipped(item["id"]):
                kept = {"id": item["id"], "label": 0, "messages": item["messages"]}
                lines.append(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    content = gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(content)
    print(f"{len(lines)} conversations, {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
