"""The ``[data]`` part of member.toml: three forms, each complete, and written settings read the same."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from data_homes import LABEL_MAP

from ringfence.client.data_settings import DataSettings
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings, load_member_settings, save_member_settings
from ringfence.client.source_files import local_folders
from ringfence.model.errors import ConfigError

SQL = {"kind": "sql", "url_env": "X", "messages": "SELECT 1", "labels": "SELECT 2", "label_map": LABEL_MAP}
TABLES = {"tables": {"dm": ["a.csv"]}, "messages": "SELECT\n  'ünïcode' -- 1\nFROM dm"}
FIXED = (
    'federation = "n"\nmember = "a"\nfleet_address = "h:1"\nrelease_address = "h:2"\nplan_public_key = "x"\n'
)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"files": ["a.jsonl", "s3://bucket/*.jsonl.gz"]},
        {"files": ["corpus.xml"], "format": "pan-2012", "predators": "list.txt"},
        {"files": ["x.csv"], "format": "panc", "lineage": "research"},
        SQL,
        {**SQL, "url_env": None, "url_file": "chat.url", "messages": "SELECT :since", "since": "2026-01-01"},
        {**SQL, "messages": "SELECT 1 WHERE t > :since", "since": 1_700_000_000},
        TABLES,
        {**TABLES, "tables": {"dm": "a.csv", "decisions": ["b.csv", "c.csv"]}},
    ],
)
def test_settings_that_are_written_are_read_the_same(tmp_path: Path, given: dict[str, Any]) -> None:
    home = MemberHome(tmp_path).create()
    settings = MemberSettings(
        federation="n",
        member="a",
        fleet_address="h:1",
        release_address="h:2",
        plan_public_key="x",
        data=DataSettings.model_validate(given),
    )
    save_member_settings(home, settings=settings)
    assert load_member_settings(home, environment={}) == settings
    tomllib.loads(home.settings_file.read_text())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"files": ["a"], "tables": {"dm": "b"}, "messages": "SELECT 1"}, "not both"),
        ({"kind": "sql", "messages": "SELECT 1"}, "url_env or url_file"),
        ({**SQL, "url_file": "x"}, "url_env or url_file"),
        ({**SQL, "files": ["a"]}, "takes neither files"),
        ({"kind": "sql", "url_env": "X"}, "messages is missing"),
        ({**SQL, "label_map": None}, "go together"),
        ({**SQL, "labels": None}, "go together"),
        ({**SQL, "label_map": {**LABEL_MAP, "ignore": ["ban"]}}, "two meanings: ban"),
        ({**SQL, "label_map": {"positive": [], "negative": ["x"]}}, "positive"),
        ({**SQL, "since": "2026-01-01"}, "no query asks for :since"),
        ({**SQL, "messages": "SELECT :since"}, "which is not set"),
        ({**SQL, "messages": "SELECT :since", "since": "yesterday"}, "since"),
        ({"files": ["a"], "messages": "SELECT 1"}, "belong to"),
        ({"files": ["a"], "url_env": "X"}, "belong to kind"),
        ({"files": ["a.xml"], "format": "pan-2012"}, "go together"),
        ({"tables": {"Robert'); --": "b"}, "messages": "SELECT 1"}, "tables"),
        ({"files": ["a"], "password": "x"}, "password"),
    ],
)
def test_a_form_that_is_not_complete_is_refused_with_what_is_missing(
    given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        DataSettings.model_validate(given)


def test_dates_of_toml_are_taken_for_since_and_decisions_may_be_numbers_or_truths(tmp_path: Path) -> None:
    home = MemberHome(tmp_path).create()
    home.settings_file.write_text(
        FIXED
        + '[data]\nkind = "sql"\nurl_env = "X"\nmessages = "SELECT :since"\nlabels = "SELECT 1"\nsince = 2026-01-01\n'
        "[data.label_map]\npositive = [1, true]\nnegative = [0, false]\n"
    )
    data = load_member_settings(home, environment={}).data
    assert data.since == "2026-01-01"
    assert data.label_map is not None
    assert data.label_map.meanings() == {"1": 1, "true": 1, "0": 0, "false": 0}


def test_a_wrong_form_is_named_in_the_file_and_nothing_of_it_is_quoted(tmp_path: Path) -> None:
    home = MemberHome(tmp_path).create()
    home.settings_file.write_text(
        FIXED + '[data]\nkind = "sql"\nurl_env = "postgresql://u:sesame@h/d"\nmessages = "x"\n'
    )
    with pytest.raises(ConfigError, match=r"data\.url_env") as caught:
        load_member_settings(home, environment={})
    assert "sesame" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({"files": ["a.jsonl"]}, False),
        ({"files": ["a.jsonl", "s3://b/c"]}, True),
        (TABLES, False),
        ({**TABLES, "tables": {"dm": "gs://b/c.csv"}}, True),
        (SQL, True),
    ],
)
def test_only_what_lies_elsewhere_needs_a_network(given: dict[str, Any], needs: bool) -> None:
    assert DataSettings.model_validate(given).needs_network is needs


def test_the_folders_that_reading_opens_are_known_beforehand(tmp_path: Path) -> None:
    home = MemberHome(tmp_path)
    data = DataSettings(files=("/a/b/*.jsonl", "/a/*/c.jsonl", "chats/x.jsonl", "s3://bucket/y.jsonl"))
    assert local_folders(home, data) == {Path("/a/b"), Path("/a"), tmp_path / "chats"}
    assert local_folders(
        home, DataSettings.model_validate({**SQL, "url_env": None, "url_file": "/etc/x/url"})
    ) == {Path("/etc/x")}
