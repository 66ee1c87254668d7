"""The coordinator's settings: ``coordinator.toml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.plan import Name
from ringfence.model.settings_file import Address, read_settings, split_address, toml_text
from ringfence.server.coordinator_home import CoordinatorHome


def _on_loopback(address: str) -> str:
    if not _stays_here(_host(address)):
        raise ValueError("must be on this machine's loopback, such as 127.0.0.1:9464")
    return address


def _server_name(name: str) -> str:
    if _ip_address(name) is None and (len(name) > _LONGEST_NAME or not _DNS_NAME.fullmatch(name)):
        raise ValueError(
            "must be a DNS name in ASCII (an international one in its xn-- form) or an IP address, without a port"
        )
    return name


LoopbackAddress = Annotated[str, AfterValidator(_on_loopback)]
ServerName = Annotated[str, AfterValidator(_server_name)]

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST_NAME = 253
_LISTENERS = ("fleet", "release", "enrolment")
_LOOPBACK = "127.0.0.1"  # always in the certificate, for the coordinator's own processes


class CoordinatorSettings(BaseModel):
    """What the coordinator decides for its federation.

    Attributes:
        federation: identifier of the federation; never changes.
        demonstration: True only in a federation on invented or public data.
        fleet_address: host:port where the fleet gateway listens.
        release_address: host:port where the release service listens.
        enrolment_address: host:port where companies with an invitation join.
        private_port: loopback port of Flower's own listener; 0 lets the system choose.
        fleet_public_address: host:port that members are given, if another than `fleet_address`. Where that one is every
            address of the machine (0.0.0.0), and this one is not set, members are given the first of `server_names`.
        release_public_address: the same for `release_address`.
        enrolment_public_address: the same for `enrolment_address`; invitations name it.
        longest_connection_s: seconds after which a member's connection to the release service is ended and made anew.
        metrics_address: loopback host:port where the control plane tells Prometheus; None: nowhere.
        fleet_metrics_address: the same for the fleet gateway.
        server_names: DNS names and IP addresses in the listeners' certificate, besides those of `certified_names`.
        database_url_file: file that holds the database's URL, from the folder on; None for SQLite in the folder.
        artifacts_url: object store of models and releases, such as ``s3://bucket/path``, with the access that the cloud's
            own environment gives; None for a folder in the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: Name
    demonstration: bool = False
    fleet_address: Address = "127.0.0.1:8443"
    release_address: Address = "127.0.0.1:9443"
    enrolment_address: Address = "127.0.0.1:9444"
    private_port: int = Field(default=0, ge=0, le=65535)
    fleet_public_address: Address | None = None
    release_public_address: Address | None = None
    enrolment_public_address: Address | None = None
    longest_connection_s: float = Field(default=3600.0, ge=1, le=86_400)
    metrics_address: LoopbackAddress | None = None
    fleet_metrics_address: LoopbackAddress | None = None
    server_names: Annotated[tuple[ServerName, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    database_url_file: Path | None = None
    artifacts_url: str | None = None

    @property
    def fleet_address_for_members(self) -> str:
        """host:port of the fleet gateway as members reach it."""
        return self.fleet_public_address or self._named(self.fleet_address)

    @property
    def release_address_for_members(self) -> str:
        """host:port of the release service as members reach it."""
        return self.release_public_address or self._named(self.release_address)

    @property
    def enrolment_address_for_members(self) -> str:
        """host:port of the enrolment service as companies reach it."""
        return self.enrolment_public_address or self._named(self.enrolment_address)

    @property
    def certified_names(self) -> tuple[str, ...]:
        """What the listeners' certificate holds: `server_names`, and where a listener is reached on this machine alone.

        Whoever listens on loopback, and gives members no other address, means members on this machine, and names nothing for it.
        """
        names = list(self.server_names)
        for listener in _LISTENERS:
            listens, given = (_host(address) for address in _addresses(self, listener))
            if _stays_here(listens) and _stays_here(given) and not _is_among(given, names):
                names.append(given)
        return tuple(names)

    def _named(self, address: str) -> str:
        """Return an address under which somebody else can be reached: 0.0.0.0 is none, the first of our names is."""
        host, port = split_address(address)
        if not _is_wildcard(host.strip("[]")):
            return address
        name = self.server_names[0]
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def unreachable_listeners(settings: CoordinatorSettings) -> dict[str, str]:
    """Return why members could not reach a listener at the address that they would be given, by the listener's name.

    Whoever listens on this machine's loopback, and gives members no other address, is not asked about: see `certified_names`.
    """
    certified = (*settings.certified_names, _LOOPBACK)
    found = {}
    for listener in _LISTENERS:
        listens, given = _addresses(settings, listener)
        host = _host(given)
        if _is_wildcard(host):
            found[listener] = f"{given} is no address that anybody can be reached at"
        elif _is_wildcard(_host(listens)) and _stays_here(host):
            found[listener] = (
                f"it listens on every address, and members would be given {given}, which is their own machine"
            )
        elif not _is_among(host, certified):
            found[listener] = f"members would be given {given}, and server_names do not hold {host}"
    return found


def require_reachable(settings: CoordinatorSettings) -> None:
    """Refuse settings with which no invitation could be used.

    Raises:
        ConfigError: members could not reach a listener. The operator's to mend.
    """
    for listener, problem in unreachable_listeners(settings).items():
        # The first is told; the others have the same cause as a rule.
        raise ConfigError(
            f"Members cannot reach the {listener} listener: {problem}.", hint=reachable_hint(listener)
        )


def reachable_hint(listener: str) -> str:
    """Return what to do about a listener that members cannot reach."""
    return (
        "Name this host as members reach it: --server-name fleet.example.org at init, server_names in coordinator.toml;"
        f" or {listener}_public_address, with its host among the names."
    )


def load_coordinator_settings(
    home: CoordinatorHome, *, environment: Mapping[str, str] | None = None
) -> CoordinatorSettings:
    """Read ``coordinator.toml``; ``RINGFENCE_<FIELD>`` overrides it.

    Raises:
        ConfigError: the file is missing, is not TOML, or has a wrong or unknown key. The operator's to mend.
    """
    return read_settings(
        home.settings_file,
        form=CoordinatorSettings,
        begin_with="ringfence-coordinator init FEDERATION",
        environment=environment,
    )


def save_coordinator_settings(home: CoordinatorHome, *, settings: CoordinatorSettings) -> None:
    """Write ``coordinator.toml``.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    text = "# Settings of this federation's coordinator. Unknown keys are errors.\n" + toml_text(
        settings.model_dump(mode="json")
    )
    try:
        write_atomically(home.settings_file, text.encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.settings_file}: {error.strerror}", hint="Check the folder."
        ) from error


def _addresses(settings: CoordinatorSettings, listener: str) -> tuple[str, str]:
    """Return where a listener listens, and where members are told to find it: host:port each."""
    return getattr(settings, f"{listener}_address"), getattr(settings, f"{listener}_address_for_members")


def _host(address: str) -> str:
    """Return the host of host:port, without the brackets of an IPv6 address."""
    return split_address(address)[0].strip("[]")


def _is_among(host: str, names: Iterable[str]) -> bool:
    """Return whether a host is one of these names, however either is written."""
    return _comparable(host) in {_comparable(name) for name in names}


def _comparable(name: str) -> IPv4Address | IPv6Address | str:
    """Return an IP address as what it means, since it can be written in several ways; a DNS name in small letters."""
    return _ip_address(name) or name.casefold()


def _is_wildcard(host: str) -> bool:
    address = _ip_address(host)
    return address is not None and address.is_unspecified


def _stays_here(host: str) -> bool:
    """Return whether a host is each machine's own loopback."""
    address = _ip_address(host)
    return host.casefold() == "localhost" if address is None else address.is_loopback


def _ip_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
