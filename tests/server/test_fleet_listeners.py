"""What the fleet service listens with."""

from __future__ import annotations

import socket

from ringfence.server.fleet_service import _listen


def test_an_answer_does_not_wait_for_the_other_side_between_its_headers_and_its_body() -> None:
    listener = _listen(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()[:2], timeout=20):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
