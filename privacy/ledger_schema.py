"""The tables of a ledger's file, and the triggers that keep them append-only.

The triggers stop mistakes, not attackers: who can write the file can drop them. Attacks are what the hash chain and the
anchors are for.
"""

from __future__ import annotations

_ENTRY_COLUMNS = """(
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('open', 'charge', 'evaluate', 'personalise', 'close', 'amend')),
    key TEXT UNIQUE NOT NULL,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;"""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS entry{_ENTRY_COLUMNS}
CREATE TABLE IF NOT EXISTS outbox(
    key TEXT PRIMARY KEY REFERENCES entry(key),
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sent(
    key TEXT PRIMARY KEY REFERENCES entry(key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS returned(
    once INTEGER PRIMARY KEY CHECK (once = 1)
) STRICT;
CREATE TABLE IF NOT EXISTS returned_again(
    since INTEGER PRIMARY KEY REFERENCES entry(seq)
) STRICT;
CREATE TRIGGER IF NOT EXISTS a_head_that_was_returned_again_stays_returned BEFORE DELETE ON returned_again
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS a_head_that_was_returned_stays_returned BEFORE DELETE ON returned
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entry_is_never_changed BEFORE UPDATE ON entry
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entry_is_never_removed BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS entry_only_grows_at_its_end BEFORE INSERT ON entry
    WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM entry)
        OR EXISTS (SELECT 1 FROM entry WHERE key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS payload_is_never_changed BEFORE UPDATE ON outbox
    BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
CREATE TRIGGER IF NOT EXISTS payload_is_never_replaced BEFORE INSERT ON outbox
    WHEN EXISTS (SELECT 1 FROM outbox WHERE key = NEW.key)
    BEGIN SELECT RAISE(ABORT, 'a payload never changes'); END;
CREATE TRIGGER IF NOT EXISTS what_was_sent_stays_sent BEFORE DELETE ON sent
    BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""  # noqa: S608 - no value in it

REBUILT_ENTRIES = "".join(
    (
        f"CREATE TABLE entry_rebuilt{_ENTRY_COLUMNS}",
        "INSERT INTO entry_rebuilt SELECT seq, kind, key, body, previous, hash FROM entry ORDER BY seq;",
        "DROP TABLE entry;",
        "ALTER TABLE entry_rebuilt RENAME TO entry;",
        SCHEMA,
    )
)
"""Gives the entries of an older ledger the present table, whose constraint knows every kind; foreign keys are off meanwhile."""

CONNECTION_SETTINGS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # a commit is on disk before it returns
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",  # REPLACE must not slip past the triggers
    "PRAGMA trusted_schema=OFF",
    "PRAGMA secure_delete=ON",  # a payload that is withdrawn is overwritten, not only unlinked
)
