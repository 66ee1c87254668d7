"""Settings in TOML: environment over file over default, and an unknown key is an error."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ValidationError

from ringfence.model.errors import ConfigError
from ringfence.model.plan import describe

PREFIX = "RINGFENCE_"

Settings = TypeVar("Settings", bound=BaseModel)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 host stands in brackets.

    Raises:
        ValueError: this is not such an address.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 host must stand in brackets")
    return host, int(port)


def _checked_address(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_checked_address)]


def read_settings(
    path: Path, *, form: type[Settings], begin_with: str, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read a file of settings; ``RINGFENCE_<FIELD>`` in the environment overrides a plain field of the file.

    Args:
        path: TOML file.
        form: pydantic model of the settings.
        begin_with: the command that makes the file, for whoever has none yet.
        environment: variables to look in; the process's own by default.

    Raises:
        ConfigError: the file is missing, is not TOML, or has a wrong or unknown key. The operator's to mend.
    """
    variables = os.environ if environment is None else environment
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"Cannot read {path}: {error.strerror}", hint=f"Check --home, or begin with: {begin_with}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="Correct the line that is named.") from error
    overridden = []
    for field, information in form.model_fields.items():
        name = PREFIX + field.upper()
        if name in variables and _fits_one_line(information.annotation):
            values[field] = variables[name]
            overridden.append(name)
    try:
        return form.model_validate(values)
    except ValidationError as error:
        also = f" (with {', '.join(overridden)} from the environment)" if overridden else ""
        raise ConfigError(
            f"{path} is not valid{also}: {describe(error, toml=text)}", hint="Correct the named fields."
        ) from error


def toml_text(values: Mapping[str, object], *, table: str = "") -> str:
    """Return settings as TOML: plain fields first, then one table for each mapping that holds something.

    Values are strings, booleans, numbers, lists of those, or mappings of such values; None is left out.
    """
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if _is_plain(value)]
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            name = f"{table}.{key}" if table else key
            lines += ["", f"[{name}]", toml_text(value, table=name).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _fits_one_line(annotation: object) -> bool:
    # Tables and lists have no one-line form that could not be misread: those come from the file alone.
    return get_origin(annotation) not in (tuple, list, dict) and not (
        isinstance(annotation, type) and issubclass(annotation, BaseModel)
    )


def _is_plain(value: object) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _toml_value(value: object) -> str:
    # A JSON string, boolean, number or array of those is also a TOML one, as long as it is not escaped to surrogates.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
