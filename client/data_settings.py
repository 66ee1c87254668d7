"""Where a member's conversations lie and how to read them: the ``[data]`` part of ``member.toml``."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ringfence.model.plan import Name

SINCE = re.compile(r"(?<![:\w]):since\b")
"""Where a query asks for the setting ``since``."""

_WHOLE_NUMBER = re.compile(r"-?[0-9]+\.0+")

FileFormat = Literal["conversations", "pan-2012", "panc"]


def label_text(value: object) -> str:
    """Return one spelling of a decision, whatever type a source gives it: ``1``, ``true``, ``ban_grooming``.

    A whole number is the same with zeros behind its point and without: pandas writes 1.0 as soon as one label is null.
    """
    if isinstance(value, bool):
        return str(value).lower()
    written = str(value).strip()
    return written.partition(".")[0] if _WHOLE_NUMBER.fullmatch(written) else written


Decision = Annotated[str, BeforeValidator(label_text), Field(min_length=1)]


class LabelMap(BaseModel):
    """What the member's decisions mean.

    Attributes:
        positive: decisions that stand for the harmful pattern.
        negative: decisions that stand for its absence.
        ignore: decisions that say neither; such a conversation counts as not decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    positive: tuple[Decision, ...] = Field(min_length=1)
    negative: tuple[Decision, ...] = Field(min_length=1)
    ignore: tuple[Decision, ...] = ()

    @model_validator(mode="after")
    def _one_meaning_each(self) -> Self:
        twice = [
            value
            for value, count in Counter((*self.positive, *self.negative, *self.ignore)).items()
            if count > 1
        ]
        if twice:
            raise ValueError(f"a decision has two meanings: {', '.join(sorted(twice))}")
        return self

    def meanings(self) -> dict[str, int | None]:
        """Return each decision with 1, 0, or None for neither."""
        found: dict[str, int | None] = dict.fromkeys(self.ignore)
        return found | dict.fromkeys(self.positive, 1) | dict.fromkeys(self.negative, 0)


class DataSettings(BaseModel):
    """Where the member's conversations lie.

    Three forms: ``files`` of whole conversations; ``tables`` of files with one message a row, read by queries; or a
    database (``kind = "sql"``), read by queries. ``docs/data.md`` shows each.

    Attributes:
        kind: ``files`` or ``sql``.
        files: files of whole conversations, globs or URLs; a relative path counts from the member's folder.
        format: what ``files`` hold: JSONL conversations, the PAN-2012 XML corpus, or CSV as of PANC.
        predators: with ``pan-2012``, the corpus' list of author ids, one a line.
        tables: name of a table -> its JSONL, CSV or Parquet files, globs or URLs; ``messages`` and ``labels`` read them.
        url_env: environment variable that holds the database's URL.
        url_file: file that holds it; a relative path counts from the member's folder.
        messages: query that yields conversation_id, message_id, sender_id, sent_at, text.
        labels: query that yields conversation_id, label and, if decisions may change, decided_at.
        since: bound to ``:since`` in the queries: a date, a time, or a number where the source counts seconds.
        label_map: what the values of ``label`` mean.
        query_timeout_s: how long a database may work on one statement, in seconds.
        lineage: name of this data through all of its growth; it has one privacy budget for life.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["files", "sql"] = "files"
    files: tuple[str, ...] = ()
    format: FileFormat = "conversations"
    predators: str | None = None
    tables: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")], tuple[str, ...]] = {}
    url_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    url_file: str | None = None
    messages: str | None = None
    labels: str | None = None
    since: str | int | None = None
    label_map: LabelMap | None = None
    query_timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    lineage: Name = "conversations"

    @field_validator("tables", mode="before")
    @classmethod
    def _one_file_is_a_list_of_one(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: (files,) if isinstance(files, str) else files for name, files in value.items()}

    @field_validator("since", mode="before")
    @classmethod
    def _a_moment(cls, value: object) -> object:
        # TOML has dates of its own; they are kept as text, so that settings that are written are read the same.
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, str):
            datetime.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        problem = self._problem()
        if problem:
            raise ValueError(problem)
        return self

    @property
    def by_query(self) -> bool:
        """Whether queries read the source, one message a row."""
        return self.kind == "sql" or bool(self.tables)

    @property
    def is_named(self) -> bool:
        """Whether any source is named."""
        return self.by_query or bool(self.files)

    @property
    def needs_network(self) -> bool:
        """Whether reading may need a network: a database, or files that lie elsewhere."""
        everywhere = (*self.files, *(file for files in self.tables.values() for file in files))
        return self.kind == "sql" or any("://" in file for file in everywhere)

    def _problem(self) -> str | None:
        if self.kind == "sql":
            if self.files or self.tables or self.predators or self.format != "conversations":
                return 'kind = "sql" takes neither files, tables, format nor predators'
            if (self.url_env is None) == (self.url_file is None):
                return 'kind = "sql" needs url_env or url_file, one of them'
        else:
            if self.url_env is not None or self.url_file is not None:
                return 'url_env and url_file belong to kind = "sql"'
            if self.files and self.tables:
                return "give files of whole conversations or tables of messages, not both"
        if self.by_query:
            return self._problem_of_queries()
        if self.messages or self.labels or self.label_map or self.since is not None:
            return 'messages, labels, label_map and since belong to tables or to kind = "sql"'
        if (self.format == "pan-2012") != (self.predators is not None):
            return 'format = "pan-2012" and predators go together'
        return None

    def _problem_of_queries(self) -> str | None:
        if not self.messages:
            return "a query named messages is missing"
        if (self.labels is None) != (self.label_map is None):
            return "labels and label_map go together"
        asks = any(SINCE.search(query) for query in (self.messages, self.labels or ""))
        if asks and self.since is None:
            return "a query asks for :since, which is not set"
        if self.since is not None and not asks:
            return "since is set, and no query asks for :since"
        return None
