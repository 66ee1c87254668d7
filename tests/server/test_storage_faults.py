"""Locked, full, damaged, gone, of another version, used by two: a clear error, a bounded wait, and nothing half done."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cut_network import CuttableNetwork
from databases import SERVER, new_database
from federation_harness import coordinator_command, wait_until
from sqlalchemy import select, text
from trust_harness import TrustFederation, prepare_trust_federation

from ringfence.model.console import run_application
from ringfence.model.errors import ConfigError, StorageError
from ringfence.server.claims import claim, is_claimed
from ringfence.server.command_line import application
from ringfence.server.coordinator_database import open_database
from ringfence.server.database import Database
from ringfence.server.serving_claim import serve_alone
from ringfence.server.tables import properties

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def federation(tmp_path: Path, database_url: str) -> TrustFederation:
    return prepare_trust_federation(tmp_path / "federation", names=("acme",), database_url=database_url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    with new_database("sqlite", tmp_path) as made:
        return made


def put(database: Database, key: str, value: str = "") -> None:
    with database.transaction() as connection:
        connection.execute(properties.insert().values(key=key, value=value))


def test_a_command_against_a_locked_database_waits_a_bounded_time_and_says_so(
    federation: TrustFederation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = open_database(federation.home).url
    holder = Database(url)
    monkeypatch.setattr("ringfence.server.coordinator_database._OPEN", {})
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "busy_timeout_s", 0.3)
    held, over, codes = threading.Event(), threading.Event(), []

    def hold() -> None:
        with holder.transaction():
            held.set()
            over.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(120)
    home = str(federation.home.root)
    codes.append(run_application(application, ["member", "suspend", "acme", "--home", home]))
    codes.append(run_application(application, ["member", "list", "--home", home]))
    over.set()
    thread.join(120)
    codes.append(run_application(application, ["member", "suspend", "acme", "--home", home]))
    assert codes == [3, 0, 0], "a change waits and gives up, a look does not wait"
    said = capsys.readouterr().err
    assert "is busy" in said
    assert "Try again" in said
    assert federation.registry.get("acme").status == "suspended"


_FILLS = """
import resource, sys
from ringfence.model.errors import StorageError
from ringfence.server.database import Database
from ringfence.server.tables import properties
from pathlib import Path
database = Database(sys.argv[1])
size = Path(sys.argv[1].removeprefix("sqlite:///")).stat().st_size
with database.transaction() as connection:
    connection.execute(properties.insert().values(key="before", value=""))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    with database.transaction() as connection:
        connection.execute(properties.insert().values(key="first", value=""))
        for number in range(100):
            connection.execute(properties.insert().values(key=f"large{number}", value="x" * 100_000))
except StorageError as error:
    print(error.message, "|", error.hint, "|", error.exit_code)
"""


def test_a_full_disk_is_named_and_what_was_kept_before_stays(sqlite: Database) -> None:
    url = sqlite.url.render_as_string()
    done = subprocess.run(
        [sys.executable, "-c", _FILLS, url], capture_output=True, text=True, timeout=120, check=True
    )
    said = done.stdout
    assert "is full" in said or "cannot be read or written" in said, said
    assert "nothing was changed" in said.lower()
    put(sqlite, "after")
    with sqlite.reading() as connection:
        assert set(connection.scalars(select(properties.c.key))) == {"federation", "before", "after"}
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("53100", "is full"),
        ("53300", "no room for another connection"),
        ("25006", "cannot be written"),
        ("XX001", "is damaged"),
        ("57014", "is busy"),
    ],
)
def test_what_postgresql_reports_is_said_in_our_words(state: str, says: str, tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database:

        def fail() -> None:
            with database.transaction() as connection:
                connection.execute(properties.insert().values(key="half", value=""))
                connection.execute(
                    text(f"DO $$ BEGIN RAISE EXCEPTION 'secret row' USING ERRCODE = '{state}'; END $$")
                )

        with pytest.raises(StorageError, match=says) as caught:
            fail()
        assert "secret" not in str(caught.value) + caught.value.hint
        with database.reading() as connection:
            assert set(connection.scalars(select(properties.c.key))) == {"federation"}


def _header(file: Path) -> None:
    file.write_bytes(b"not a database" + file.read_bytes()[14:])


def _middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 : len(content) - 100] = b"\xa5" * (len(content) - 4196)
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def _gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(_header, "is damaged"), (_middle, "is damaged"), (_cut, "is damaged"), (_gone, "is not there")],
)
def test_a_damaged_or_missing_file_is_named_with_what_to_do(
    sqlite: Database, spoil: Callable[[Path], None], says: str
) -> None:
    file = sqlite.file
    assert file is not None
    spoil(file)
    again = Database(sqlite.url)
    with pytest.raises(StorageError, match=says) as caught, again.reading() as connection:
        connection.execute(select(properties)).all()
    assert caught.value.exit_code == 1
    assert "ringfence-coordinator" in caught.value.hint
    assert spoil is not _gone or not file.exists(), "a look never makes a database"


def test_a_database_that_is_not_on_the_server_is_named() -> None:
    database = Database(SERVER.rsplit("/", 1)[0] + "/ringfence_nothing_of_that_name")
    with pytest.raises(StorageError, match=r"is not there|cannot be reached"), database.reading():
        pass


def test_a_second_coordinator_on_one_database_is_refused_and_told_by_whom(
    federation: TrustFederation,
) -> None:
    with serve_alone(open_database(federation.home), now=NOW):
        second = subprocess.run(
            coordinator_command("serve", "--home", federation.home.root),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert second.returncode == 4
        assert "A coordinator serves from the database" in second.stderr
        assert f"since {NOW.isoformat(timespec='seconds')}" in second.stderr
        assert "Stop that one first" in second.stderr
    with serve_alone(open_database(federation.home), now=NOW):
        pass


def _through(network: CuttableNetwork, database: Database) -> Database:
    """Return the same database, reached over a network that can be cut."""
    host, _, port = network.address.rpartition(":")
    return Database(database.url.set(host=host, port=int(port)))


def _address(database: Database) -> str:
    return f"{database.url.host}:{database.url.port or 5432}"


def test_a_claim_that_only_this_side_lost_is_taken_again_from_its_own_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server believes that the connection is there, and holds the claim for it: that is no other coordinator."""
    with (
        new_database("postgresql", tmp_path) as database,
        CuttableNetwork(_address(database)) as network,
        serve_alone(_through(network, database), now=NOW) as held,
    ):
        held.keep()
        network.forget_callers()

        def is_back() -> bool:
            held.keep()
            return "is back" in caplog.text

        wait_until(is_back, what="the claim is taken again")
        assert is_claimed(database, "serve")
        assert caplog.text.count("still held a lost connection") <= 1
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} on"),
            serve_alone(database, now=NOW + timedelta(days=1), patience_s=0),
        ):
            pass


def test_a_claim_that_was_lost_and_taken_names_who_has_it(tmp_path: Path) -> None:
    with (
        new_database("postgresql", tmp_path) as database,
        CuttableNetwork(_address(database)) as network,
        serve_alone(_through(network, database), now=NOW) as held,
    ):
        _cut_off(database)
        network.forget_callers()
        later = NOW + timedelta(days=1)
        with (
            serve_alone(database, now=later),
            pytest.raises(ConfigError, match=f"process {os.getpid()} on .*, since {later.date()}"),
        ):
            held.keep()


def test_a_claim_on_a_database_that_stands_still_is_tried_again_and_its_own_once_that_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringfence.server.claims.LONGEST_LOOK_S", 0.5)
    monkeypatch.setattr("ringfence.server.database._CONNECT_TIMEOUT_S", 2)
    with (
        new_database("postgresql", tmp_path) as database,
        CuttableNetwork(_address(database)) as network,
        serve_alone(_through(network, database), now=NOW) as held,
    ):
        network.cut()
        for _ in range(2):
            keeping = threading.Thread(target=held.keep, daemon=True)
            keeping.start()
            keeping.join(30)
            assert not keeping.is_alive()
        assert caplog.text.count("cannot be reached") == 1
        network.mend()

        def is_back() -> bool:
            held.keep()
            return "is back" in caplog.text

        wait_until(is_back, what="the claim is taken again")
        assert is_claimed(database, "serve")


class _SilentServer:
    """A PostgreSQL that lets everybody in and answers nothing."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._callers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return f"postgresql://somebody@127.0.0.1:{self._listener.getsockname()[1]}/any?sslmode=disable&gssencmode=disable"

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for caller in self._callers:
            caller.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                self._callers.append(caller)
                caller.recv(4096)
                welcome = b"R" + struct.pack("!ii", 8, 0)
                ready = b"Z" + struct.pack("!i", 5) + b"I"
                caller.sendall(welcome + ready)


def test_a_database_that_lets_in_and_then_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own timeouts help, as it does not look at them, nor TCP's: its system receives everything."""
    monkeypatch.setattr("ringfence.server.overdue_answers.AnsweredConnection.longest_answer_s", 0.5)
    found: list[StorageError] = []

    def look() -> None:
        try:
            with Database(url).reading():
                pass
        except StorageError as error:
            found.append(error)

    with _SilentServer() as url:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(30)
        assert ["cannot be reached" in error.message for error in found] == [True]


def test_a_coordinator_waits_for_the_claim_of_one_that_is_gone_and_for_no_other(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(60)
    with new_database("postgresql", tmp_path) as database:
        other = Database(database.url)
        with serve_alone(
            other, now=NOW
        ):  # stands for a server that does not know yet that the process is gone
            with database.transaction() as connection:
                known = {"host": socket.gethostname(), "process": ended.pid, "since": "then"}
                connection.execute(
                    properties.update().where(properties.c.key == "serving").values(value=json.dumps(known))
                )
            with (
                pytest.raises(ConfigError, match=f"process {ended.pid} on"),
                serve_alone(database, now=NOW, patience_s=0.1),
            ):
                pass
            began, over = threading.Event(), threading.Event()

            def serve() -> None:
                began.set()
                with serve_alone(database, now=NOW, patience_s=120):
                    over.set()

            waiting = threading.Thread(target=serve)
            waiting.start()
            assert began.wait(60)
            assert not over.wait(1.0)
        waiting.join(120)
        assert over.is_set()
        other.close()


def test_either_side_of_a_connection_to_postgresql_soon_notices_that_the_other_is_gone(
    tmp_path: Path,
) -> None:
    with new_database("postgresql", tmp_path) as database, database.reading() as connection:
        settings = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        idle, interval, count = (
            int(connection.scalar(text(f"SELECT current_setting('{name}')"))) for name in settings
        )
        assert 0 < idle + interval * count <= 60
        assert connection.scalar(text("SELECT current_setting('tcp_user_timeout')")) == "30000"
        own = socket.socket(fileno=os.dup(connection.connection.dbapi_connection.fileno()))
        with own:
            tcp = socket.IPPROTO_TCP
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, interval, count = (own.getsockopt(tcp, option) for option in options)
            assert 0 < idle + interval * count <= 60
            assert own.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 30_000


_SERVES = """
import signal, sys
from datetime import UTC, datetime
from ringfence.server.database import Database
from ringfence.server.serving_claim import serve_alone
with serve_alone(Database(sys.argv[1]), now=datetime.now(UTC)):
    print("serves", flush=True)
    signal.pause()
"""


def test_a_killed_coordinator_stands_in_nobodys_way(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen([sys.executable, "-c", _SERVES, url], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"serves\n"
            with pytest.raises(ConfigError, match="serves from the database"), serve_alone(database, now=NOW):
                pass
        finally:
            process.kill()
    wait_until(lambda: not is_claimed(database, "serve"), what="the claim is free")
    with serve_alone(database, now=NOW):
        assert is_claimed(database, "serve")


def _cut_off(database: Database) -> None:
    """Have the server end every connection that holds a claim in the database's schema."""
    with psycopg.connect(SERVER, autocommit=True) as server, database.reading() as connection:
        held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid"
        for pid in connection.scalars(text(held)).all():
            server.execute("SELECT pg_terminate_backend(%s)", (pid,))


def test_a_claim_that_the_server_lost_is_taken_again_unless_another_was_faster(tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database, serve_alone(database, now=NOW) as held:
        held.keep()
        _cut_off(database)
        held.keep()
        assert is_claimed(database, "serve")
        _cut_off(database)
        other = Database(database.url)
        with (
            claim(other, "serve", taken="taken", hint="stop"),
            pytest.raises(ConfigError, match="Another command holds the database"),
        ):
            held.keep()
        held.keep()
        assert is_claimed(database, "serve")
        other.close()
