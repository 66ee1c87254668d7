"""The policy as a file with a comment beside every key, for the people who decide about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from ringfence.client.member_home import MemberHome
from ringfence.client.policy import Policy, default_policy
from ringfence.model.atomic_file import write_atomically
from ringfence.model.errors import ConfigError

_HEADING = """\
# The policy of this member: what it takes part in, and at most at which price.
# The coordinator may ask for less, never for more: a plan outside of this file is refused, and the refusal names the line.
# Unknown keys are errors. After a change: ringfence policy show
"""


def policy_text(policy: Policy) -> str:
    """Return a policy as TOML that reads back as the same policy, with a comment above every key."""
    lines = [_HEADING, f"schema_version = {policy.schema_version}"]
    for name in type(policy).model_fields:
        section = getattr(policy, name)
        if not isinstance(section, BaseModel):
            continue
        lines += ["", f"[{name}]"]
        values = section.model_dump(mode="json", exclude_none=True)
        for key, information in type(section).model_fields.items():
            lines += [f"# {information.description}", f"{key} = {_toml(values[key])}"]
    return "\n".join(lines) + "\n"


def save_policy(home: MemberHome, *, policy: Policy, replace: bool = False) -> None:
    """Write ``policy.toml``, readable and writable by its owner alone.

    Args:
        home: the member's folder; made if missing.
        policy: what to write.
        replace: write over a policy that is there.

    Raises:
        ConfigError: there is one already, or the file cannot be written. The operator's to mend.
    """
    home.create()
    if home.policy_file.exists() and not replace:
        raise ConfigError(
            f"There is a policy already: {home.policy_file}",
            hint="Edit it, or write the default over it: ringfence policy init --force",
        )
    try:
        write_atomically(home.policy_file, policy_text(policy).encode())
    except OSError as error:
        raise ConfigError(
            f"Cannot write {home.policy_file}: {error.strerror}", hint="Check the folder."
        ) from error


def ensure_policy(home: MemberHome, *, federation: str, demonstration: bool) -> bool:
    """Write the default policy of a member that has just joined, unless it has one; return whether it was written.

    Raises:
        ConfigError: the file cannot be written. The operator's to mend.
    """
    if home.policy_file.exists():
        return False
    save_policy(home, policy=default_policy(federation=federation, demonstration=demonstration))
    return True


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # A JSON string, boolean or number is also a TOML one, as long as it is not escaped to surrogates.
    return json.dumps(value, ensure_ascii=False)
