"""What a service tells systemd: that it is ready, that it still turns, that it stops.

The protocol is one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. Outside of systemd there is no
such socket and nothing is sent. Nothing of a member's data is ever in such a line.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

_BEATS_IN_A_PERIOD = 4


class ServiceNotice:
    """Speaks to the service manager of this process, if there is one.

    Args:
        address: the socket's path, or a name in the abstract namespace that begins with "@"; None for no manager.
        watchdog_s: the manager restarts this process if it hears nothing for so long; None if it does not watch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        watchdog_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._every_s = None if watchdog_s is None else watchdog_s / _BEATS_IN_A_PERIOD
        self._clock = clock
        self._beat_due_at = float("-inf")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ServiceNotice:
        """Return the notice of this process, as ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` say."""
        variables = os.environ if environment is None else environment
        period = variables.get("WATCHDOG_USEC", "")
        watched = variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(
            variables.get("NOTIFY_SOCKET") or None,
            watchdog_s=int(period) / 1e6 if period.isascii() and period.isdigit() and watched else None,
        )

    def ready(self, status: str) -> None:
        """Say that the service works, in one line for ``systemctl status``."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Say in one line what the service does."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Say that the service was told to stop and does."""
        self._send("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """Say that the service still turns; may be called as often as is convenient."""
        if self._every_s is None or self._clock() < self._beat_due_at:
            return
        self._beat_due_at = self._clock() + self._every_s
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        # A manager that cannot be told must not end the service: it notices by itself.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door,
        ):
            door.setblocking(False)
            door.connect(address)
            door.send(text.encode())
