"""A network between a member and the coordinator that a test can cut: nothing passes, in either direction, and nobody is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_LOOK_S = 0.05


class CuttableNetwork:
    """Passes bytes between those who connect to ``address`` and a target, until it is cut; used as a context manager.

    While it is cut connections stay open, new ones are accepted and lead nowhere, and what is sent is held back: like a cable
    that is pulled, not like a server that is stopped. When it is mended, what was held back arrives.

    Args:
        target: host:port that it leads to.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._passes = threading.Event()
        self._passes.set()
        self._closed = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._left: set[socket.socket] = set()
        self.held_back = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._passes.set()
        self._listener.close()

    def cut(self) -> None:
        """Let nothing pass any more."""
        self.held_back = 0
        self._passes.clear()

    def mend(self) -> None:
        """Let everything pass again."""
        self._passes.set()

    def forget_callers(self) -> None:
        """End every connection for those who made them, and leave the other side believing that they are there."""
        pairs, self._pairs = self._pairs, []
        for near, far in pairs:
            self._left.add(far)
            near.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._wait()
        try:
            far = socket.create_connection(self._target, timeout=30)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        self._pairs.append((near, far))
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                if not self._passes.is_set():
                    self.held_back += len(block)
                    self._wait()
                sink.sendall(block)
        for end in {source, sink} - self._left:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _wait(self) -> None:
        while not self._passes.wait(_LOOK_S):
            continue
