"""The coordinator's settings: ``coordinator.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.plan import Name
from ringfence.model.settings_file import Address, read_settings, split_address, toml_text
from ringfence.server.coordinator_home import CoordinatorHome


def _on_loopback(address: str) -> str:
    host = split_address(address)[0].strip("[]")
    if host != "localhost":
        try:
            inside = ip_address(host).is_loopback
        except ValueError:
            inside = False
        if not inside:
            raise ValueError("must be on this machine's loopback, such as 127.0.0.1:9464")
    return address


LoopbackAddress = Annotated[str, AfterValidator(_on_loopback)]


class CoordinatorSettings(BaseModel):
    """What the coordinator decides for its federation.

    Attributes:
        federation: identifier of the federation; never changes.
        demonstration: True only in a federation on invented or public data.
        fleet_address: host:port where the fleet gateway listens.
        release_address: host:port where the release service listens.
        enrolment_address: host:port where companies with an invitation join.
        private_port: loopback port of Flower's own listener; 0 lets the system choose.
        fleet_public_address: host:port that members are given, if another than `fleet_address`.
        release_public_address: host:port that members are given, if another than `release_address`.
        enrolment_public_address: host:port that invitations name, if another than `enrolment_address`.
        longest_connection_s: seconds after which a member's connection to the release service is ended and made anew.
        metrics_address: loopback host:port where the control plane tells Prometheus; None: nowhere.
        fleet_metrics_address: the same for the fleet gateway.
        server_names: DNS names and IP addresses in the listeners' certificate.
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
    server_names: Annotated[tuple[str, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    database_url_file: Path | None = None
    artifacts_url: str | None = None

    @property
    def fleet_address_for_members(self) -> str:
        """host:port of the fleet gateway as members reach it."""
        return self.fleet_public_address or self.fleet_address

    @property
    def release_address_for_members(self) -> str:
        """host:port of the release service as members reach it."""
        return self.release_public_address or self.release_address

    @property
    def enrolment_address_for_members(self) -> str:
        """host:port of the enrolment service as companies reach it."""
        return self.enrolment_public_address or self.enrolment_address


def load_coordinator_settings(
    home: CoordinatorHome, *, environment: Mapping[str, str] | None = None
) -> CoordinatorSettings:
    """Read ``coordinator.toml``; ``RINGFENCE_<FIELD>`` overrides it.

    Raises:
        ConfigError: the file is missing, is not TOML, or has a wrong or unknown key. The operator's to mend.
    """
    return read_settings(home.settings_file, form=CoordinatorSettings, environment=environment)


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
