"""Drafts that await signatures, one JSON file each."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ringfence.model.atomic_file import write_atomically
from ringfence.model.drafts import Draft, load_draft
from ringfence.model.errors import ConfigError, NotFoundError
from ringfence.model.plan import Name

_NAME = TypeAdapter(Name)


class DraftStore:
    """The coordinator's open drafts. Who changes them holds the repository's lock.

    Args:
        folder: the coordinator home's ``drafts`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> tuple[Draft, ...]:
        """Return the open drafts, by identifier."""
        return tuple(load_draft(path) for path in sorted(self._folder.glob("[!.]*.json")))

    def get(self, draft_id: str) -> Draft:
        """Return one draft.

        Raises:
            NotFoundError: there is none of that name.
        """
        path = self.path(draft_id)
        if not path.is_file():
            raise NotFoundError(f"There is no draft {draft_id}.", hint="List them: ringfence approve list")
        return load_draft(path)

    def save(self, draft: Draft) -> None:
        """Write a draft, replacing its earlier form at once.

        Raises:
            ConfigError: the file cannot be written. The operator's to mend.
        """
        try:
            write_atomically(
                self.path(draft.id), draft.model_dump_json(indent=2).encode() + b"\n", mode=0o644
            )
        except OSError as error:
            raise ConfigError(f"Cannot write the draft: {error.strerror}", hint="Check the disk.") from error

    def remove(self, draft_id: str) -> None:
        """Forget a draft, if it is there."""
        self.path(draft_id).unlink(missing_ok=True)

    def path(self, draft_id: str) -> Path:
        """Return where a draft lies.

        Raises:
            NotFoundError: no draft can have this name.
        """
        try:
            # The name comes from outside and becomes a file name.
            return self._folder / f"{_NAME.validate_python(draft_id)}.json"
        except ValidationError as error:
            raise NotFoundError(
                "There is no such draft.", hint="List them: ringfence approve list"
            ) from error
