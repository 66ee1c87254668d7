"""Small files of a member's own that hold one value each: read with one form and one kind of error."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ringfence.model.errors import ConfigError
from ringfence.model.plan import describe

_Form = TypeVar("_Form", bound=BaseModel)


def read_own(path: Path, form: type[_Form], *, again: str) -> _Form | None:
    """Return what a file holds, or None if there is none.

    Args:
        path: of the file.
        form: that it has.
        again: what to do about a damaged one.

    Raises:
        ConfigError: it cannot be read or is damaged. The member's to mend.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.", hint="Check its owner.") from error
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"{path} is not in the agreed form: {describe(error)}", hint=again) from error
