"""Two hosts on one machine: network namespaces with a cable between them. Needs root; tests skip without."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LISTENING = "0A"
_SCAN = """\
import socket, sys
found = []
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(found)
"""


@dataclass(frozen=True)
class Host:
    """A host: a namespace and its address."""

    namespace: str
    address: str

    def on(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def listening(self) -> set[str]:
        """Return what accepts connections or datagrams on this host, as the kernel has it: local address and port in hexadecimal."""
        found = set()
        for table in ("tcp", "tcp6", "udp", "udp6"):
            shown = subprocess.run(
                self.on(["cat", f"/proc/net/{table}"]), check=True, capture_output=True, text=True, timeout=60
            )
            for line in shown.stdout.splitlines()[1:]:
                fields = line.split()
                if not table.startswith("tcp") or fields[3] == _LISTENING:
                    found.add(fields[1])
        return found

    def reachable_ports(self, other: Host, *, python: str) -> str:
        """Return every TCP port of another host that answers from here, as a list in text."""
        done = subprocess.run(
            self.on([python, "-c", _SCAN, other.address]),
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.stdout.strip()


def unavailable() -> str | None:
    """Return why there can be no two hosts here, or None."""
    if shutil.which("ip") is None:
        return "the command ip is not here"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    with contextlib.suppress(subprocess.CalledProcessError, OSError), two_hosts("probe"):
        return None
    return "this system makes no network namespaces"


@contextlib.contextmanager
def two_hosts(name: str) -> Iterator[tuple[Host, Host]]:
    """Make two hosts that reach each other and nothing else; take them away afterwards."""
    tag = f"{os.getpid() % 100_000:05d}"
    hosts = Host(f"{name}-c-{tag}", "10.91.7.1"), Host(f"{name}-m-{tag}", "10.91.7.2")
    with contextlib.ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.namespace)
            stack.callback(_ip, "netns", "del", host.namespace)
            Path("/run/netns", host.namespace).stat()
        ends = f"rfc{tag}", f"rfm{tag}"
        _ip(
            *("link", "add", ends[0], "netns", hosts[0].namespace, "type", "veth"),
            *("peer", "name", ends[1], "netns", hosts[1].namespace),
        )
        for host, end in zip(hosts, ends, strict=True):
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", end)
            _ip("-n", host.namespace, "link", "set", end, "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        yield hosts


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)
