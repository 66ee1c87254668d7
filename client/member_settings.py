"""The member's settings: ``member.toml``."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from ringfence.client.data_settings import DataSettings as DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.training_device import Device
from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.joining import SizeClass
from ringfence.model.plan import Name
from ringfence.model.settings_file import Address, read_settings, toml_text


class MemberSettings(BaseModel):
    """What a member knows of its federation, and what it trains on.

    Attributes:
        federation: identifier of the federation.
        member: the member's identifier in it.
        fleet_address: host:port of the coordinator's fleet gateway.
        release_address: host:port of the coordinator's release service.
        demonstration: True only in a federation on invented or public data.
        plan_public_key: Ed25519 key that signs plans, base64 of its 32 bytes.
        size_class: power of two near the number of conversations, declared in public when joining.
        device: where the private step runs: "cpu", "cuda", or "auto" for a GPU where there is one. The CPU is faster for
            the heads that plans train.
        data: where the conversations lie.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: Name
    member: Name
    fleet_address: Address
    release_address: Address
    demonstration: bool = False
    plan_public_key: str
    size_class: SizeClass = 256
    device: Device = "cpu"
    data: DataSettings = DataSettings()


def load_member_settings(home: MemberHome, *, environment: Mapping[str, str] | None = None) -> MemberSettings:
    """Read ``member.toml``; ``RINGFENCE_<FIELD>`` overrides it.

    Raises:
        ConfigError: the file is missing, is not TOML, or has a wrong or unknown key. The operator's to mend.
    """
    return read_settings(
        home.settings_file,
        form=MemberSettings,
        begin_with="ringfence join INVITATION",
        environment=environment,
    )


def save_member_settings(home: MemberHome, *, settings: MemberSettings) -> None:
    """Write ``member.toml``.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    text = "# Settings of this member. Unknown keys are errors.\n" + toml_text(
        settings.model_dump(mode="json")
    )
    try:
        write_atomically(home.settings_file, text.encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.settings_file}: {error.strerror}", hint="Check the folder."
        ) from error
