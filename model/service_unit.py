"""A hardened systemd unit as text. Pure: what a service may do is decided here, for both programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ringfence.model.errors import ConfigError

START_S = 300
STOP_S = 90
WATCHDOG_S = 600  # longer than any single call of a service waits

# Each of these is written down with why it can be asked for. Left out on purpose: DynamicUser, because ledgers and keys belong
# to one lasting user; PrivateNetwork, because the service talks to its federation.
_CONFINEMENT = """\
# It gains no right that its user does not have, and has no capability.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictSUIDSGID=yes
# The whole system is read-only to it but for the folders named below; nobody's home, no device, no foreign process is seen.
ProtectSystem=strict
PrivateTmp=yes
PrivateMounts=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
LimitCORE=0
# No memory is both writable and executable: neither PyTorch nor anything else here compiles while it runs.
MemoryDenyWriteExecute=yes
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
"""


@dataclass(frozen=True, slots=True)
class ServiceUnit:
    """What differs between services.

    Attributes:
        description: one line.
        command: the program and its arguments.
        user: the account it runs as; it owns the service's folder.
        namespaces: what it may make for its own children, such as ("user", "net"); none otherwise.
        writable: folders that it may change.
        read_only: folders that it reads. Folders and no files: a file that somebody replaces would stay the old one to a service
            that holds it as a mount of its own.
        program: folders that its program is run from.
        hidden: what it has no business with, also inside of a writable folder; may be missing.
        after: further units that are started before it.
    """

    description: str
    command: Sequence[str]
    user: str
    namespaces: Sequence[str]
    writable: Sequence[Path]
    program: Sequence[Path]
    read_only: Sequence[Path] = ()
    hidden: Sequence[Path] = ()
    after: Sequence[str] = ()


def unit_text(unit: ServiceUnit) -> str:
    """Return the unit file.

    Raises:
        ConfigError: a path or an argument holds a control character, which no unit file can carry. The operator's to mend.
    """
    seen = [*unit.program, *unit.writable, *unit.read_only]
    lines = [
        "[Unit]",
        f"Description={_escaped(unit.description)}",
        "Wants=network-online.target",
        f"After={' '.join(['network-online.target', *unit.after])}",
        "# Five failures in ten minutes: somebody has to look.",
        "StartLimitIntervalSec=600",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"User={unit.user}",
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in unit.command)}",
        "Restart=on-failure",
        "RestartSec=5",
        "# Bad input does not mend itself.",
        "RestartPreventExitStatus=4",
        f"TimeoutStartSec={START_S}",
        f"WatchdogSec={WATCHDOG_S}",
        "# It is told first and ends its own children; what is left after that is killed.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_S}",
        "",
        _CONFINEMENT + f"RestrictNamespaces={' '.join(unit.namespaces) or 'yes'}",
        f"ProtectHome={'read-only' if any(_is_in_a_home(path) for path in seen) else 'yes'}",
        *(f"ReadWritePaths={_quoted(str(path))}" for path in unit.writable),
        *(f"ReadOnlyPaths={_quoted(str(path))}" for path in unit.read_only),
        *(f"InaccessiblePaths=-{_quoted(str(path))}" for path in unit.hidden),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _is_in_a_home(path: Path) -> bool:
    return any(path.is_relative_to(home) for home in ("/home", "/root", "/run/user"))


def _quoted(text: str) -> str:
    plain = _escaped(text)
    return (
        plain
        if plain and not set(plain) & set(" \t;'\"\\")
        else f'"{plain.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"'
    )


def _escaped(text: str) -> str:
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise ConfigError(
            f"{text!r} cannot stand in a unit file.",
            hint="Use a folder without control characters in its name.",
        )
    return text.replace("%", "%%")  # systemd would read it as one of its specifiers
