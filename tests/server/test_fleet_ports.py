"""A fleet service that comes back listens where it did: the server app of a run, which outlived it, finds it again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from federation_harness import free_port

from ringfence.server.coordinator_home import CoordinatorHome
from ringfence.server.fleet_service import listen_privately

ANY_PORT = ("127.0.0.1", 0)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    made = CoordinatorHome(tmp_path)
    made.flower.mkdir(parents=True)
    return made


def lived_at(home: CoordinatorHome, address: str) -> None:
    (home.flower / "private.address").write_text(address)


def test_it_listens_where_the_life_before_did(home: CoordinatorHome) -> None:
    port = free_port()
    lived_at(home, f"127.0.0.1:{port}")
    with listen_privately(home, ANY_PORT) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)


def test_it_gives_way_to_another_program_that_took_the_port(home: CoordinatorHome) -> None:
    with socket.create_server(ANY_PORT) as other:
        lived_at(home, f"127.0.0.1:{other.getsockname()[1]}")
        with listen_privately(home, ANY_PORT) as listener:
            assert listener.getsockname()[1] != other.getsockname()[1]


@pytest.mark.parametrize("content", [None, "", "nonsense", "127.0.0.1:99999"])
def test_without_a_life_before_it_takes_any_port(home: CoordinatorHome, content: str | None) -> None:
    if content is not None:
        lived_at(home, content)
    with listen_privately(home, ANY_PORT) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_what_was_left_behind_cannot_make_it_listen_on_another_address(home: CoordinatorHome) -> None:
    port = free_port()
    lived_at(home, f"0.0.0.0:{port}")
    with listen_privately(home, ANY_PORT) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_configured_port_is_kept_to(home: CoordinatorHome) -> None:
    lived_at(home, f"127.0.0.1:{free_port()}")
    port = free_port()
    with listen_privately(home, ("127.0.0.1", port)) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
