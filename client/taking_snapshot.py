"""Takes a snapshot of a member's data: reads whatever ``[data]`` names, once, into a file that only this member can read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.data_settings import DataSettings
from ringfence.client.exclusions import load_exclusions
from ringfence.client.member_home import MemberHome
from ringfence.client.pan12_reader import read_pan12, read_predators
from ringfence.client.panc_reader import read_panc
from ringfence.client.pseudonyms import Pseudonyms
from ringfence.client.query_source import QuerySource
from ringfence.client.snapshot import Snapshot
from ringfence.client.snapshot_folder import folder_in_use, new_snapshot_file
from ringfence.client.snapshot_writer import SnapshotWriter
from ringfence.client.source_files import SourceFiles
from ringfence.client.source_rows import LABELS, MESSAGES, LabelRows, MessageRows
from ringfence.client.stop_signals import stops_as_ctrl_c
from ringfence.model.errors import ConfigError, DataError
from ringfence.model.jsonl_reader import SkippedLines, stream_conversations

Progress = Callable[[int], None]
_REPORT_EVERY = 5_000


def take_snapshot(
    home: MemberHome,
    *,
    data: DataSettings,
    labelled_only: bool = True,
    secret: bytes | None = None,
    skipped: SkippedLines | None = None,
    progress: Progress | None = None,
    everybody: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Snapshot:
    """Read the member's data in this process and return the snapshot. Its file has no name from before its first word on.

    Args:
        home: the member's folder.
        data: where the data lies.
        labelled_only: leave out conversations that nobody decided, and fail if none is left.
        secret: of the pseudonyms; the member's own by default, made on first use.
        skipped: count bad lines of JSONL conversations here and go on, instead of raising at the first.
        progress: is told now and then how many messages were read.
        everybody: also people whom the member forgot; to count them, never to train.
        environment: where ``url_env`` is looked up; the process's own by default.

    Raises:
        ConfigError: no source is named, or it is not known whom to leave out, or the disk is full. The operator's to mend.
        DataError: the source cannot be read, or what it holds is not in the agreed form. The data owner's to mend.
    """
    _check_named(home, data)
    with stops_as_ctrl_c(), folder_in_use(home):
        path = new_snapshot_file(home)
        try:
            writer = _writer(home, path, labelled_only=labelled_only, secret=secret, everybody=everybody)
        finally:
            path.unlink(missing_ok=True)
        with writer:
            _fill(
                home,
                writer,
                data=data,
                labelled_only=labelled_only,
                skipped=skipped,
                progress=progress,
                environment=environment,
            )
            return Snapshot(writer.hand_over())


def write_snapshot(home: MemberHome, *, path: Path, data: DataSettings) -> None:
    """Read the member's labelled conversations into a file for another process's `Snapshot`; errors as `take_snapshot`.

    Args:
        home: the member's folder, whose folder of snapshots the caller holds.
        path: of a new file in it.
        data: where the data lies.
    """
    _check_named(home, data)
    with _writer(home, path, labelled_only=True, secret=None, everybody=False) as writer:
        _fill(home, writer, data=data, labelled_only=True, skipped=None, progress=None, environment=None)


def _check_named(home: MemberHome, data: DataSettings) -> None:
    if not data.is_named:
        raise ConfigError(
            f"{home.settings_file} names no conversations.",
            hint='Add: [data] files = ["/path/to/conversations.jsonl"]',
        )


def _writer(
    home: MemberHome, path: Path, *, labelled_only: bool, secret: bytes | None, everybody: bool
) -> SnapshotWriter:
    exclusions = load_exclusions(home)
    return SnapshotWriter(
        path,
        pseudonyms=Pseudonyms(contribution_secret(home) if secret is None else secret),
        excluded=lambda person: not everybody and exclusions.since(person) is not None,
        labelled_only=labelled_only,
    )


def _fill(
    home: MemberHome,
    writer: SnapshotWriter,
    *,
    data: DataSettings,
    labelled_only: bool,
    skipped: SkippedLines | None,
    progress: Progress | None,
    environment: Mapping[str, str] | None,
) -> None:
    try:
        if data.by_query:
            with query_source(home, data, environment) as source:
                _read_queries(writer, source, data, progress)
        else:
            with SourceFiles(home) as files:
                _read_files(writer, files, data, skipped, progress)
        found = writer.finish()
        if labelled_only and not found:
            raise DataError(
                "No conversation has a label.",
                hint="Training needs conversations that people have decided: label 1 or 0, or a labels query.",
            )
    except sqlite3.Error as error:
        # Its text may quote what was written; its code does not.
        raise ConfigError(
            f"The snapshot in {home.snapshots} cannot be written ({getattr(error, 'sqlite_errorname', '')}).",
            hint="Check the free space of that disk.",
        ) from None


def query_source(home: MemberHome, data: DataSettings, environment: Mapping[str, str] | None) -> QuerySource:
    """Return what reads data that is read by queries.

    Raises:
        ConfigError: the settings do not lead to a source. The operator's to mend.
    """
    # Heavy, and of no use to a member whose conversations are files.
    if data.kind == "sql":
        from ringfence.client.sql_source import SqlSource

        return SqlSource(home, data=data, environment=environment)
    from ringfence.client.table_source import TableSource

    return TableSource(home, data=data)


def _read_queries(
    writer: SnapshotWriter, source: QuerySource, data: DataSettings, progress: Progress | None
) -> None:
    if data.labels is not None and data.label_map is not None:
        found = source.query(LABELS, data.labels)
        labels = LabelRows([column.name for column in found.columns], meanings=data.label_map.meanings())
        for row in found.rows:
            decided = labels.decision(row)
            if decided is not None:
                writer.add_decision(decided.conversation, decided.label, decided.decided_at)
    writer.settle_decisions()
    found = source.query(MESSAGES, data.messages or "")
    messages = MessageRows([column.name for column in found.columns])
    count = 0
    for count, row in enumerate(found.rows, start=1):
        writer.add_message(messages.message(row))
        _report(progress, count)
    if count == 0:
        raise DataError("The messages query yields no row.", hint="Run it in the database's own console.")


def _read_files(
    writer: SnapshotWriter,
    files: SourceFiles,
    data: DataSettings,
    skipped: SkippedLines | None,
    progress: Progress | None,
) -> None:
    paths = files.locate(data.files)
    if data.format == "panc":
        _read_panc(writer, paths, progress)
        return
    if data.format == "pan-2012":
        predators = read_predators(files.locate([data.predators or ""])[0])
        streams = [read_pan12(path, predators=predators) for path in paths]
    else:
        streams = stream_conversations(paths, skipped=skipped)
    count = 0
    for part, conversations in enumerate(streams):
        for conversation in conversations:
            writer.add_conversation(conversation, part=part)
            count += len(conversation.messages)
            _report(progress, count, step=len(conversation.messages))


def _read_panc(writer: SnapshotWriter, paths: Sequence[Path], progress: Progress | None) -> None:
    # Labels first, as everywhere: which chats are decided is known before any of their words is kept.
    for part, path in enumerate(paths):
        for message, label in read_panc(path):
            writer.add_decision(message.conversation, label, None, part=part)
    writer.settle_decisions()
    count = 0
    for part, path in enumerate(paths):
        for message, _ in read_panc(path):
            count += 1
            writer.add_message(replace(message, id=count), part=part)
            _report(progress, count)


def _report(progress: Progress | None, count: int, *, step: int = 1) -> None:
    if progress is not None and count // _REPORT_EVERY != (count - step) // _REPORT_EVERY:
        progress(count)
