"""Members' folders whose data lies in real databases and files, made up for each test."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from databases import empty_database_url

from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome

MESSAGES = "SELECT conversation_id, message_id, sender_id, sent_at, body AS text FROM dm"
LABELS = "SELECT conversation_id, decision AS label, decided_at FROM mod_decisions"
LABEL_MAP = {"positive": ["ban"], "negative": ["no_violation"], "ignore": ["skipped"]}

TIME_TYPES = {"sqlite": "TEXT", "postgresql": "TIMESTAMPTZ"}


@dataclass(frozen=True)
class ChatDatabase:
    """A database of chats: ``dm`` and ``mod_decisions``, with a way to change it as its owner would."""

    kind: str
    url: str
    connection: Any

    def run(self, statement: str, *rows: tuple[Any, ...]) -> None:
        marked = statement if self.kind == "sqlite" else statement.replace("?", "%s")
        cursor = self.connection.cursor()
        if rows:
            cursor.executemany(marked, rows)
        else:
            cursor.execute(marked)
        self.connection.commit()

    def say(self, *rows: tuple[Any, ...]) -> None:
        """Add messages: (conversation, id, sender, time, text)."""
        self.run("INSERT INTO dm VALUES (?, ?, ?, ?, ?)", *rows)

    def decide(self, *rows: tuple[Any, ...]) -> None:
        """Add decisions: (conversation, decision, time)."""
        self.run("INSERT INTO mod_decisions VALUES (?, ?, ?)", *rows)

    def count(self) -> int:
        cursor = self.connection.cursor()
        cursor.execute("SELECT count(*) FROM dm")
        found = int(cursor.fetchone()[0])
        self.connection.commit()
        return found

    def settings(self, **changes: Any) -> DataSettings:
        given = {"messages": MESSAGES, "labels": LABELS, "label_map": LABEL_MAP, "url_env": "CHAT_DB_URL"}
        return DataSettings(**{"kind": "sql", **given, **changes})

    @property
    def environment(self) -> dict[str, str]:
        return {"CHAT_DB_URL": self.url}


@contextmanager
def chat_database(kind: str, folder: Path) -> Iterator[ChatDatabase]:
    """A new database of this kind with empty tables; gone afterwards."""
    if kind == "sqlite":
        path = folder / "chats.db"
        connection: Any = sqlite3.connect(path)
        made = ChatDatabase(kind, f"sqlite:///{path}", connection)
        _make_tables(made)
        yield made
        connection.close()
        return
    with empty_database_url("postgresql", folder) as url, psycopg.connect(url) as connection:
        made = ChatDatabase(kind, url, connection)
        _make_tables(made)
        yield made
        connection.rollback()


def _make_tables(database: ChatDatabase) -> None:
    time = TIME_TYPES[database.kind]
    database.run(
        f"CREATE TABLE dm (conversation_id TEXT, message_id BIGINT, sender_id TEXT, sent_at {time}, body TEXT)"
    )
    database.run(f"CREATE TABLE mod_decisions (conversation_id TEXT, decision TEXT, decided_at {time})")


def data_home(folder: Path) -> MemberHome:
    return MemberHome(folder / "member").create()


def at(second: int) -> str:
    return f"2026-03-01 12:{second // 60:02d}:{second % 60:02d}+00:00"
