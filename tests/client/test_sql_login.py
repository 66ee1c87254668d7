"""A database that refuses a login or cannot be reached is said to be that, and nothing shows its password."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from data_homes import MESSAGES, at, chat_database, data_home

from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.taking_snapshot import take_snapshot
from ringfence.model.errors import ConfigError, DataError, RingfenceError

PLANTED = "the blue heron waits"
PASSWORD = "sesame-of-the-tests"


@pytest.fixture
def home(tmp_path: Path) -> MemberHome:
    return data_home(tmp_path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"postgresql://nobody:{PASSWORD}@127.0.0.1:1/test", "could not be asked"),
        (f"postgresql://nobody:{PASSWORD}@no-such-host.invalid/test", "could not be asked"),
        (f"not a url {PASSWORD}", "is not one"),
        (f"postgresql://nobody:{PASSWORD}@127.0.0.1:port/test", "is not one"),
        (f"postgresql://nobody:7/{PASSWORD}@127.0.0.1/test", "could not be asked"),
        (f"postgresql://nobody:{PASSWORD}\udce9@127.0.0.1/test", "is not one"),  # a byte that is not UTF-8
        (f"mysql://nobody:{PASSWORD}@127.0.0.1/test", "not read"),
        (f"sqlite:////nowhere/{PASSWORD[:0]}chats.db", "no database"),
        ("sqlite://", "names no file"),
    ],
)
def test_a_database_that_cannot_be_asked_is_named_without_its_password(
    home: MemberHome, url: str, expected: str
) -> None:
    data = DataSettings(kind="sql", url_env="CHAT_DB_URL", messages=MESSAGES)
    with pytest.raises(RingfenceError, match=expected) as caught:
        take_snapshot(home, data=data, labelled_only=False, environment={"CHAT_DB_URL": url})
    assert PASSWORD not in f"{caught.value.message} {caught.value.hint} {caught.value!r}"
    assert caught.value.__cause__ is None
    assert list(home.snapshots.glob("*")) == []


@contextmanager
def refusing_server(state: str, said: str) -> Iterator[int]:
    """A server that speaks PostgreSQL's protocol so far as to refuse a login."""
    fields = f"SFATAL\0VFATAL\0C{state}\0M{said}\0\0".encode()
    answer = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(8)[4:6] == b"\x04\xd2":  # asks for encryption
                        connection.sendall(b"N")
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("state", "said", "expected"),
    [
        ("28P01", f'password authentication failed for user "{PLANTED}"', "the login is refused"),
        ("28000", f'no pg_hba.conf entry for host "{PLANTED}"', "the login is refused"),
        ("28000", f'role "{PLANTED}" does not exist', "the login is refused"),
        ("3D000", f'database "{PLANTED}" does not exist', "there is no such database"),
        ("53300", "sorry, too many clients already", "has no connection left"),
        ("53300", "remaining connection slots are reserved for roles", "has no connection left"),
        ("57P03", "the database system is starting up", "is starting or stopping"),
        ("28P01", "Passwort-Authentifizierung fehlgeschlagen", "or the login is refused"),
    ],
)
def test_why_a_login_is_refused_is_said_in_words_of_our_own(
    home: MemberHome, state: str, said: str, expected: str
) -> None:
    data = DataSettings(kind="sql", url_env="CHAT_DB_URL", messages=MESSAGES)
    with refusing_server(state, said) as port:
        url = f"postgresql://nobody:{PASSWORD}@127.0.0.1:{port}/test"
        with pytest.raises(DataError, match=f"could not be asked: .*{expected}") as caught:
            take_snapshot(home, data=data, labelled_only=False, environment={"CHAT_DB_URL": url})
    shown = f"{caught.value.message} {caught.value.hint} {caught.value!r}"
    assert not [word for word in (PASSWORD, PLANTED, "Passwort") if word in shown]
    assert (f"SQLSTATE {state}" in shown) == (said[0] != "P")


def test_a_url_of_another_spelling_is_that_of_postgresql(home: MemberHome, tmp_path: Path) -> None:
    with chat_database("postgresql", tmp_path) as database:
        database.say(("c1", 1, "otter", at(1), "hello"))
        environment = {"CHAT_DB_URL": database.url.replace("postgresql://", "postgres://")}
        with take_snapshot(
            home, data=database.settings(), labelled_only=False, environment=environment
        ) as snapshot:
            assert len(snapshot) == 1


def test_a_password_that_everybody_can_read_is_refused(home: MemberHome) -> None:
    file = home.root / "chat.url"
    data = DataSettings(kind="sql", url_file="chat.url", messages=MESSAGES)
    for url in (
        f"postgresql://nobody:{PASSWORD}@127.0.0.1:1/test",
        f"postgresql://127.0.0.1:1/test?password={PASSWORD}",
    ):
        file.write_text(url)
        file.chmod(0o644)
        with pytest.raises(ConfigError, match=r"Everybody can read .*chat\.url") as caught:
            take_snapshot(home, data=data)
        assert PASSWORD not in f"{caught.value.message} {caught.value.hint}"
        file.chmod(0o640)  # a group may be given it, as a service's
        with pytest.raises(DataError, match="could not be asked"):
            take_snapshot(home, data=data)


def test_the_url_may_lie_in_a_file_and_a_missing_one_is_named(home: MemberHome, tmp_path: Path) -> None:
    with chat_database("sqlite", tmp_path) as database:
        database.say(("c1", 1, "otter", at(1), "hello"))
        data = DataSettings(kind="sql", url_file="chat.url", messages=MESSAGES)
        with pytest.raises(ConfigError, match=r"chat\.url"):
            take_snapshot(home, data=data, labelled_only=False)
        (home.root / "chat.url").write_text(database.url + "\n")
        with take_snapshot(home, data=data, labelled_only=False) as snapshot:
            assert len(snapshot) == 1
    with pytest.raises(ConfigError, match="CHAT_DB_URL is not set"):
        take_snapshot(home, data=database.settings(), environment={})
