"""Reading a member's data: messages a second, and memory beyond the libraries, for each kind of source.

    python benchmarks/data_reading.py --messages 1000000 --length 20
    python benchmarks/data_reading.py --messages 1000000 --length 2 --people 300000 --tasks check
    python benchmarks/data_reading.py --messages 1000000 --postgresql postgresql://postgres@127.0.0.1:5432/test

Each source is made up, holds the same conversations, and is read in a process of its own; memory is that process's peak less
what it had after importing everything. Rows of tables and databases come in no order, so that grouping has its full cost.

Tasks: snapshot reads; check is what ``data check`` does; rows makes training rows of everything; again reads, finds the rows
that are there and takes ten steps of a clipped sum, as a later run does: name it after rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from ringfence.client.data_settings import DataSettings, LabelMap
from ringfence.client.member_home import MemberHome

WORDS = "so the game was fun today and we could play again when you are home what do you think about that"
MESSAGES = "SELECT conversation_id, message_id, sender_id, sent_at, text FROM dm"
LABELS = "SELECT conversation_id, label FROM decisions"
TASKS = ("snapshot", "check", "rows", "again")
PREFIXES = (0.35, 0.6, 0.8, 1.0)
STEPS = 10
TABLE = "benchmark_dm"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=20, help="messages of a conversation")
    parser.add_argument(
        "--people",
        type=int,
        help="draw two of so many for each conversation, some often; by default its own two",
    )
    parser.add_argument("--postgresql", help="URL of a database in which a table may be made and dropped")
    parser.add_argument(
        "--kinds", nargs="+", default=["conversations", "jsonl", "csv", "parquet", "sqlite", "postgresql"]
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["snapshot", "check"])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="ringfence-benchmark-") as folder:
        home = MemberHome(Path(folder) / "member").create()
        for kind in given.kinds:
            if kind == "postgresql" and not given.postgresql:
                continue
            data, url = _make(kind, home, given)
            try:
                for task in given.tasks:
                    measured = _measure(task, home, data, url)
                    found.append({"source": kind, "task": task, "messages": given.messages, **measured})
                    if not given.json:
                        print(
                            f"{kind:<14} {task:<9} {measured['seconds']:7.1f} s "
                            f"{given.messages / measured['seconds']:9.0f} messages/s  "
                            f"{measured['peak_mib']:5.0f} MiB beyond {measured['libraries_mib']:.0f} MiB of libraries",
                            flush=True,
                        )
            finally:
                _drop(kind, given)
    if given.json:
        print(json.dumps(found, indent=1))


def _measure(task: str, home: MemberHome, data: DataSettings, url: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_read, args=(theirs, task, home.root, data.model_dump(mode="json"), url))
    process.start()
    theirs.close()
    measured: dict[str, float] = ours.recv()
    process.join()
    return measured


def _read(pipe: Connection, task: str, root: Path, data: dict[str, object], url: str) -> None:
    import duckdb  # noqa: F401 - libraries are loaded before memory is first looked at
    import fsspec  # noqa: F401
    import psycopg  # noqa: F401
    import sqlalchemy.dialects.postgresql  # noqa: F401

    from ringfence.client.data_summary import summarise
    from ringfence.client.local_data import training_rows
    from ringfence.client.taking_snapshot import take_snapshot
    from ringfence.model.feature_set import load_feature_set
    from ringfence.model.language import language_of
    from ringfence.privacy.clipped_sum import LinearHeadGradients
    from ringfence.privacy.grid import Grid

    features = load_feature_set("static-128") if task in ("rows", "again") else None
    language_of("ich weiss nicht was du meinst aber wir gehen heute")
    home, settings = MemberHome(root), DataSettings.model_validate(data)
    if task != "again":
        for cached in home.cache.glob("rows-*"):
            cached.unlink()
    _reset_peak()
    libraries = _peak_mib()
    start = time.perf_counter()
    with take_snapshot(
        home, data=settings, labelled_only=task != "check", environment={"BENCHMARK_URL": url}
    ) as snapshot:
        if task == "check":
            summarise(snapshot, contribution_bound=2, secret=b"k" * 32, part=snapshot.part)
        elif features is not None:
            rows = training_rows(
                home,
                conversations=snapshot,
                feature_set=features,
                prefixes=PREFIXES,
                contribution_bound=2,
                bounds="greedy",
            )
        else:
            for _ in snapshot:
                pass
    if task == "again" and features is not None:
        parameters = features.warm_start
        source = LinearHeadGradients(
            rows.features, rows.labels, grid=Grid(1.0, len(parameters)), positive_weight=2.0
        )
        for _ in range(STEPS):
            source.clipped_sum(parameters, selected=None)
    seconds = time.perf_counter() - start
    pipe.send({"seconds": seconds, "peak_mib": _peak_mib() - libraries, "libraries_mib": libraries})


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _conversations(given: argparse.Namespace) -> Iterator[tuple[str, int, list[tuple[int, str, float, str]]]]:
    rng, drawn, words = random.Random(5), random.Random(6), WORDS.split()
    for number in range(given.messages // given.length):
        two = [f"user-{number}-{index}" for index in range(2)]
        if given.people:
            two = [f"user-{int(given.people * drawn.random() ** 2)}" for _ in range(2)]
        messages = [
            (
                number * given.length + index,
                two[index % 2],
                1.7e9 + number * 60 + index,
                " ".join(rng.choices(words, k=12)),
            )
            for index in range(given.length)
        ]
        yield f"conversation-{number}", int(number % 10 == 0), messages


def _rows(given: argparse.Namespace) -> Iterator[tuple[str, int, str, float, str]]:
    """Yield messages of a thousand conversations at a time in no order."""
    held: list[tuple[str, int, str, float, str]] = []
    for name, _, messages in _conversations(given):
        held += [(name, *message) for message in messages]
        if len(held) >= 1_000 * given.length:
            random.Random(7).shuffle(held)
            yield from held
            held = []
    yield from held


def _make(kind: str, home: MemberHome, given: argparse.Namespace) -> tuple[DataSettings, str]:
    labels = [(name, label) for name, label, _ in _conversations(given)]
    label_map = LabelMap(positive=("1",), negative=("0",))
    if kind == "conversations":
        with (home.root / "chats.jsonl").open("w") as file:
            for name, label, messages in _conversations(given):
                said = [{"author": author, "time": at, "text": text} for _, author, at, text in messages]
                file.write(json.dumps({"id": name, "label": label, "messages": said}) + "\n")
        return DataSettings(files=("chats.jsonl",)), ""
    if kind in ("sqlite", "postgresql"):
        url = _make_sqlite(home, given, labels) if kind == "sqlite" else _make_postgresql(given, labels)
        messages_query, labels_query = MESSAGES, LABELS
        if kind == "postgresql":
            messages_query = MESSAGES.replace("dm", TABLE)
            labels_query = LABELS.replace("decisions", f"{TABLE}_decisions")
        return (
            DataSettings(
                kind="sql",
                url_env="BENCHMARK_URL",
                messages=messages_query,
                labels=labels_query,
                label_map=label_map,
            ),
            url,
        )
    _make_tables(kind, home, given, labels)
    return (
        DataSettings(
            tables={"dm": (f"dm.{kind}",), "decisions": (f"decisions.{kind}",)},
            messages=MESSAGES,
            labels=LABELS,
            label_map=label_map,
        ),
        "",
    )


def _make_tables(
    kind: str, home: MemberHome, given: argparse.Namespace, labels: list[tuple[str, int]]
) -> None:
    with (home.root / "dm.jsonl").open("w") as file:
        for name, number, author, at, text in _rows(given):
            row = {
                "conversation_id": name,
                "message_id": number,
                "sender_id": author,
                "sent_at": at,
                "text": text,
            }
            file.write(json.dumps(row) + "\n")
    with (home.root / "decisions.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"conversation_id": name, "label": label}) + "\n" for name, label in labels
        )
    if kind == "jsonl":
        return
    script = "".join(
        f"duckdb.sql(\"COPY (SELECT * FROM read_json('{home.root}/{name}.jsonl')) TO '{home.root}/{name}.{kind}'\");"  # noqa: S608 - made here
        for name in ("dm", "decisions")
    )
    # In a process of its own: what DuckDB needs to write is not what is measured.
    subprocess.run([sys.executable, "-c", f"import duckdb; {script}"], check=True)


def _make_sqlite(home: MemberHome, given: argparse.Namespace, labels: list[tuple[str, int]]) -> str:
    path = home.root / "chats.db"
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE dm (conversation_id TEXT, message_id INTEGER, sender_id TEXT, sent_at REAL, text TEXT)"
    )
    connection.execute("CREATE TABLE decisions (conversation_id TEXT, label INTEGER)")
    connection.executemany("INSERT INTO dm VALUES (?, ?, ?, ?, ?)", _rows(given))
    connection.executemany("INSERT INTO decisions VALUES (?, ?)", labels)
    connection.commit()
    connection.close()
    return f"sqlite:///{path}"


def _make_postgresql(given: argparse.Namespace, labels: list[tuple[str, int]]) -> str:
    import psycopg

    _drop("postgresql", given)
    with psycopg.connect(given.postgresql) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {TABLE} (conversation_id TEXT, message_id BIGINT, sender_id TEXT, sent_at FLOAT8, text TEXT)"
        )
        cursor.execute(f"CREATE TABLE {TABLE}_decisions (conversation_id TEXT, label INT)")
        with cursor.copy(f"COPY {TABLE} FROM STDIN") as copy:
            for row in _rows(given):
                copy.write_row(row)
        with cursor.copy(f"COPY {TABLE}_decisions FROM STDIN") as copy:
            for labelled in labels:
                copy.write_row(labelled)
    url: str = given.postgresql
    return url


def _drop(kind: str, given: argparse.Namespace) -> None:
    if kind != "postgresql":
        return
    import psycopg

    with psycopg.connect(given.postgresql) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}, {TABLE}_decisions")


if __name__ == "__main__":
    main()
