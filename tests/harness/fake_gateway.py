"""A gateway that says whatever a test wants: another certificate, another time, another status, or no TLS at all."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path


@contextlib.contextmanager
def fake_gateway(
    *,
    certificate_file: Path | None,
    key_file: Path | None,
    says_time: datetime | None = None,
    status: int = 404,
    host: str = "127.0.0.1",
) -> Iterator[str]:
    """Serve on a free loopback port for the length of the block, and yield its address.

    Args:
        certificate_file: chain to show; None to speak no TLS.
        key_file: its key.
        says_time: the Date header; None for none.
        status: of every answer.
        host: a loopback address to listen on.
    """
    listener = socket.create_server((host, 0))
    context = None
    if certificate_file is not None and key_file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate_file, key_file)
    date = f"Date: {format_datetime(says_time, usegmt=True)}\r\n" if says_time is not None else ""
    answer = f"HTTP/1.1 {status} Said\r\n{date}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with (
                contextlib.suppress(OSError, ssl.SSLError),
                context.wrap_socket(plain, server_side=True) if context is not None else plain as caller,
            ):
                caller.settimeout(30)
                caller.recv(65536)
                caller.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"{host}:{listener.getsockname()[1]}"
    finally:
        # Closing alone does not wake an accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
