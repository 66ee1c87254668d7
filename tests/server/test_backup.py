"""A backup holds everything that a coordinator would miss, and a restore settles what follows from going back."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from databases import KINDS, empty_database_url, write_database_url
from round_table import table_plan
from sqlalchemy import select
from trust_harness import TrustFederation, make_trust_federation, prepare_trust_federation

from ringfence.model.console import run_application
from ringfence.model.errors import RollbackError, StorageError
from ringfence.model.trust_chain import check_role
from ringfence.server import backup, publication_gap, restore
from ringfence.server.artifacts import ArtifactStore
from ringfence.server.audit_events import AuditEvents
from ringfence.server.backup import MANIFEST, BackupManifest, write_backup
from ringfence.server.command_line import application
from ringfence.server.coordinator_database import forget_database, open_database
from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.coordinator_settings import load_coordinator_settings
from ringfence.server.database import Database
from ringfence.server.database_copy import copy_rows
from ringfence.server.key_rotation import begin_rotation
from ringfence.server.members import MemberRegistry
from ringfence.server.run_store import RunStore, SignedPlan, event_now
from ringfence.server.serving_claim import serve_alone
from ringfence.server.signing_keys import KeyName
from ringfence.server.tables import audit_events, invitations, properties

SIGNED = SignedPlan(plan=table_plan(), signature=bytes(range(64)))


@pytest.fixture
def federation(tmp_path: Path, database_url: str) -> TrustFederation:
    """Three members and a run of two rounds; the database is SQLite elsewhere than in the folder, then PostgreSQL."""
    made = prepare_trust_federation(tmp_path / "federation", database_url=database_url)
    fill(made)
    return made


@pytest.fixture
def small(tmp_path: Path) -> TrustFederation:
    """The same with its database in its folder."""
    made = prepare_trust_federation(tmp_path / "federation")
    fill(made)
    return made


def fill(made: TrustFederation) -> None:
    run = RunStore.of(made.home).create("spring-1", signed=SIGNED, initial=np.zeros(3))
    run.save_round(1, np.ones(3), contributors={"acme": 256}, event=event_now("round", round=1))
    now = made.clock[0]
    with open_database(made.home).transaction() as connection:
        for state in ("open", "used"):
            connection.execute(
                invitations.insert().values(
                    id=state,
                    member="delta",
                    secret_hash=state.encode(),
                    again=False,
                    require_approval=False,
                    state=state,
                    created_at=now,
                    expires_at=now + timedelta(days=3),
                )
            )


def coordinate(home: CoordinatorHome, *arguments: object) -> int:
    return run_application(application, [*map(str, arguments), "--home", str(home.root)])


def back_up(made: TrustFederation, file: Path, *options: str) -> Path:
    assert coordinate(made.home, "backup", file, *options) == 0
    return file


def test_a_restored_coordinator_has_the_members_the_runs_and_the_models_of_the_backup(
    federation: TrustFederation, tmp_path: Path
) -> None:
    file = back_up(federation, tmp_path / "backup.tar", "--with-keys")
    before = federation.registry.all()
    federation.registry.suspend("beta")
    RunStore.of(federation.home).open("spring-1").save_round(2, np.full(3, 2.0))
    assert coordinate(federation.home, "restore", file) == 4, "never over a coordinator that is there"
    assert coordinate(federation.home, "restore", file, "--replace") == 0

    assert federation.registry.all() == before
    run = RunStore.of(federation.home).open("spring-1")
    assert [model.tolist() for model in run.history()] == [[0.0] * 3, [1.0] * 3]
    assert (run.signed_plan(), run.contributors()) == (SIGNED, {"acme": 256})
    assert [event.event for event in run.events()] == ["round"]
    run.save_round(2, np.full(3, 5.0), event=event_now("round", round=2))
    federation.registry.set_node_id("acme", node_id=9)
    database = open_database(federation.home)
    assert [event.action for event in AuditEvents(database).all()][-1] == "restore"
    AuditEvents(database).record("tried", subject="x", now=datetime.now(UTC))  # numbering goes on
    with database.reading() as connection:
        assert set(connection.execute(select(invitations.c.id, invitations.c.state))) == {
            ("open", "cancelled"),
            ("used", "used"),
        }
    aside = list(federation.root.glob("coordinator.before-*"))
    assert len(aside) == 1
    for path in federation.home.root.rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("kind", KINDS)
def test_a_coordinator_moves_to_another_database_with_all_that_it_has(
    kind: str, small: TrustFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = small.registry.all()
    (tmp_path / "elsewhere").mkdir()
    with empty_database_url(kind, tmp_path / "elsewhere") as url:
        file = write_database_url(tmp_path, url)
        with serve_alone(open_database(small.home), now=datetime.now(UTC)):
            assert coordinate(small.home, "db", "move", file) == 4, "never while it serves"
        assert load_coordinator_settings(small.home).database_url_file is None
        assert coordinate(small.home, "db", "move", file) == 0
        there = open_database(small.home)
        assert there.url == Database(url).url
        assert MemberRegistry(there).all() == members
        assert RunStore.of(small.home).open("spring-1").rounds_done() == 1
        AuditEvents(there).record("tried", subject="x", now=datetime.now(UTC))  # numbering goes on
        assert coordinate(small.home, "db", "move", file) == 4, "only an empty database is written to"
        assert MemberRegistry(there).all() == members
        there.close()


def test_private_keys_are_in_a_backup_only_when_asked_for_and_the_roots_never(
    small: TrustFederation, tmp_path: Path
) -> None:
    without, within = tmp_path / "without.tar", tmp_path / "with.tar"
    back_up(small, without)
    back_up(small, within, "--with-keys")
    assert b"PRIVATE KEY" not in without.read_bytes()
    with tarfile.open(within) as tar:
        names = set(tar.getnames())
    assert {"keys/plan.key", "pki/server.key", "pki/intermediate.pem"} <= names
    assert "pki/root.key" not in names
    assert without.stat().st_mode & 0o077 == 0


def test_keys_that_the_backup_lacks_are_kept_from_the_folder_or_named(
    small: TrustFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = back_up(small, tmp_path / "backup.tar")
    key = (small.home.keys / "plan.key").read_bytes()
    capsys.readouterr()
    new = CoordinatorHome(tmp_path / "new")
    assert coordinate(new, "restore", file, "--json") == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert "keys/plan.key" in data["missing_keys"]
    assert data["cancelled_invitations"] == 1
    assert coordinate(small.home, "restore", file, "--replace", "--json") == 0
    assert json.loads(capsys.readouterr().out)["data"]["missing_keys"] == []
    assert (small.home.keys / "plan.key").read_bytes() == key


def test_a_backup_that_is_taken_while_others_write_holds_one_state(
    database: Database, tmp_path: Path
) -> None:
    home = CoordinatorHome(tmp_path / "home").create()
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with database.transaction() as connection:
                connection.execute(properties.insert().values(key=f"a{number}", value=""))
                AuditEvents(database).record("tried", subject=f"a{number}", now=datetime.now(UTC))
            if number == 20:
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(120)
        for number in range(3):
            write_backup(
                tmp_path / f"{number}.tar",
                home=home,
                federation="example",
                database=database,
                artifacts=ArtifactStore(home.artifacts),
                with_keys=False,
                now=lambda: datetime.now(UTC),
            )
    finally:
        stop.set()
        writer.join(60)
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar") as tar:
            tar.extract("coordinator.db", tmp_path / str(number), filter="data")
        copy = Database(f"sqlite:///{tmp_path / str(number) / 'coordinator.db'}")
        with copy.reading() as connection:
            keys = {key for key in connection.scalars(select(properties.c.key)) if key.startswith("a")}
            subjects = set(connection.scalars(select(audit_events.c.subject)))
        copy.close()
        assert len(keys) >= 20
        assert keys == subjects, "of two tables, one transaction's rows are both there or neither"


def test_nothing_is_published_while_a_backup_reads_what_is_published(
    small: TrustFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[bool] = []

    def look(source: Database, target: Database) -> None:
        with (small.home.repository / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free.append(True)
            except OSError:
                free.append(False)
        copy_rows(source, target)

    monkeypatch.setattr(backup, "copy_rows", look)
    back_up(small, tmp_path / "backup.tar")
    assert free == [False]


def test_another_backup_is_never_written_over(small: TrustFederation, tmp_path: Path) -> None:
    file = back_up(small, tmp_path / "backup.tar")
    before = file.read_bytes()
    assert coordinate(small.home, "backup", file) == 1
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*backup*")] == ["backup.tar"]


def rewrite(file: Path, change: Callable[[dict[str, tarfile.TarInfo], dict[str, bytes]], None]) -> None:
    """Change a backup's entries and write it anew."""
    entries: dict[str, tarfile.TarInfo] = {}
    contents: dict[str, bytes] = {}
    with tarfile.open(file) as tar:
        for entry in tar:
            entries[entry.name] = entry
            read = tar.extractfile(entry) if entry.isreg() else None
            contents[entry.name] = read.read() if read else b""
    change(entries, contents)
    for name in ("../outside", "pki/out", "pki/device"):
        if name in entries:  # forged by somebody who knows the form: the manifest agrees
            target = entries[name].linkname.encode() or contents[name]
            manifest = BackupManifest.model_validate_json(contents[MANIFEST])
            files = {**manifest.files, name: hashlib.sha256(target).hexdigest()}
            contents[MANIFEST] = manifest.model_copy(update={"files": files}).model_dump_json().encode()
    with tarfile.open(file, "w") as tar:
        for name, entry in entries.items():
            entry.size = len(contents[name])
            tar.addfile(entry, io.BytesIO(contents[name]))


def _changed(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    contents["coordinator.toml"] += b"# more\n"


def _left_out(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    del entries["pki/ca.pem"]


def _no_manifest(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    del entries[MANIFEST]


def _besides(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    entries["pki/extra"], contents["pki/extra"] = tarfile.TarInfo("pki/extra"), b"x"


def _outside(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    entries["../outside"], contents["../outside"] = tarfile.TarInfo("../outside"), b"x"


def _link_out(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    link = tarfile.TarInfo("pki/out")
    link.type, link.linkname = tarfile.SYMTYPE, "../../outside"
    entries["pki/out"], contents["pki/out"] = link, b""


def _device(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
    device = tarfile.TarInfo("pki/device")
    device.type = tarfile.FIFOTYPE
    entries["pki/device"], contents["pki/device"] = device, b""


@pytest.mark.parametrize(
    "change", [_changed, _left_out, _no_manifest, _besides, _outside, _link_out, _device, None]
)
def test_a_damaged_or_forged_backup_restores_nothing(
    small: TrustFederation, tmp_path: Path, change: Callable[..., None] | None
) -> None:
    file = back_up(small, tmp_path / "backup.tar")
    if change is None:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        rewrite(file, change)
    new = CoordinatorHome(tmp_path / "new")
    with pytest.raises(StorageError):
        restore.restore_backup(file, home=new, replace=False, now=datetime.now(UTC))
    assert not new.root.exists()
    assert not (tmp_path / "outside").exists()
    assert list(tmp_path.glob(".*restoring")) == []


def test_nothing_is_restored_under_a_coordinator_that_serves(
    federation: TrustFederation, tmp_path: Path
) -> None:
    file = back_up(federation, tmp_path / "backup.tar")
    members = federation.registry.all()
    with serve_alone(open_database(federation.home), now=datetime.now(UTC)):
        assert coordinate(federation.home, "restore", file, "--replace") == 4
    assert federation.registry.all() == members
    assert list(federation.root.glob("coordinator.before-*")) == []


def test_a_backup_of_an_unknown_form_is_refused(small: TrustFederation, tmp_path: Path) -> None:
    file = back_up(small, tmp_path / "backup.tar")

    def later(entries: dict[str, tarfile.TarInfo], contents: dict[str, bytes]) -> None:
        manifest = BackupManifest.model_validate_json(contents[MANIFEST])
        contents[MANIFEST] = json.dumps({**manifest.model_dump(mode="json"), "schema_version": 2}).encode()

    rewrite(file, later)
    assert coordinate(CoordinatorHome(tmp_path / "new"), "restore", file) == 1


def test_members_follow_a_restored_coordinator_although_they_saw_later_timestamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_trust_federation(tmp_path / "federation")
    file = back_up(made, tmp_path / "backup.tar", "--with-keys")
    for _ in range(3):
        made.clock[0] += timedelta(hours=30)
        assert made.trust.refresh_timestamp()
    made.catch_up("acme")

    def catch_up_after_restore() -> None:
        assert coordinate(made.home, "restore", file, "--replace") == 0
        forget_database(made.home.database_file)
        made.catch_up("acme")

    monkeypatch.setattr(publication_gap, "VERSIONS", 1)
    with pytest.raises(RollbackError):
        catch_up_after_restore()
    monkeypatch.undo()
    catch_up_after_restore()
    made.release("1.0.0")


def test_a_restored_coordinator_publishes_nothing_that_its_own_root_does_not_believe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backup has no keys and names those of before; the folder has those that have taken their place since."""
    made = make_trust_federation(tmp_path / "federation")
    file = back_up(made, tmp_path / "backup.tar")
    old = made.trust.repository.read()
    names: list[KeyName] = ["snapshot", "timestamp"]
    begin_rotation(made.home, names=names, database=open_database(made.home), now=made.clock[0])
    made.catch_up("acme", "beta")
    draft = made.trust.draft_trust(made.active, replace=True)
    made.sign(draft, "acme", "beta")
    made.trust.publish(draft.id)

    capsys.readouterr()
    assert coordinate(made.home, "restore", file, "--replace", "--json") == 0
    answered, said = capsys.readouterr()
    assert json.loads(answered)["data"]["missing_keys"] == ["keys/snapshot.key", "keys/timestamp.key"]
    assert "keys/timestamp.key is missing, or another" in said
    restored = made.trust.repository.read()
    assert restored.timestamp.to_bytes() == old.timestamp.to_bytes(), (
        "a later one would be signed by another key"
    )
    check_role(restored.root.signed, role="timestamp", metadata=restored.timestamp)


def test_the_form_of_the_database_is_shown_and_upgraded(
    federation: TrustFederation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coordinate(federation.home, "db", "version", "--json") == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["schema_version"] == data["used"] == "0001"
    assert coordinate(federation.home, "db", "upgrade") == 0
    with serve_alone(open_database(federation.home), now=datetime.now(UTC)):
        assert coordinate(federation.home, "db", "upgrade") == 4


def test_who_took_a_backup_with_keys_stands_in_the_audit_trail(
    small: TrustFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back_up(small, tmp_path / "backup.tar", "--with-keys")
    capsys.readouterr()
    assert coordinate(small.home, "audit", "--last", 1, "--json") == 0
    (event,) = json.loads(capsys.readouterr().out)["data"]["events"]
    assert (event["action"], event["subject"], event["detail"]) == ("backup", "example", "with keys")
    assert coordinate(small.home, "audit") == 0
    assert "with keys" in capsys.readouterr().out
