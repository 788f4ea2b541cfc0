"""The page of the settings: made from the code, and the file of it up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from memory.errors import Reason
from streams.cli import cli
from streams.config.settings import ENVIRONMENT_PREFIX, Settings
from streams.config.settings_page import page

FILE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_file_is_what_the_command_prints() -> None:
    """If not: visual-memory settings > docs/settings.md."""
    assert CliRunner().invoke(cli, ["settings"]).stdout == FILE.read_text("utf-8")


def test_every_setting_is_on_the_page_with_its_meaning() -> None:
    rows = re.findall(
        rf"^\| `{ENVIRONMENT_PREFIX}([A-Z_0-9]+)` \| .+ \| .+ \| (.+) \|$",
        page(),
        flags=re.MULTILINE,
    )
    assert [name for name, _ in rows] == [name.upper() for name in Settings.model_fields]
    assert all(meaning.strip() for _, meaning in rows)


def test_no_default_of_a_secret_is_on_the_page() -> None:
    defaults = [
        field.default.get_secret_value()
        for field in Settings.model_fields.values()
        if isinstance(field.default, SecretStr)
    ]
    assert defaults
    assert not [value for value in defaults if value in page()]


def test_the_page_is_the_same_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = page()
    monkeypatch.setenv("VISUAL_MEMORY_HMAC_KEY", "ab" * 32)
    monkeypatch.setenv("VISUAL_MEMORY_KAFKA", "elsewhere:1")
    assert page() == before


CLAIMS = (FILE.parent / "claim-checks.md").read_text("utf-8")


def test_the_settings_of_claims_have_the_defaults_that_their_page_tells() -> None:
    rows = re.findall(
        rf"^\| `{ENVIRONMENT_PREFIX}([A-Z_]+)` \| (\S+) \|", CLAIMS, flags=re.MULTILINE
    )
    assert len(rows) == 7
    for name, told in rows:
        default = Settings.model_fields[name.lower()].default
        assert told == ("none" if default == () else str(default).lower()), name


def test_every_reason_that_the_page_of_claims_names_is_one() -> None:
    named = set(re.findall(r"`((?:claims?|image|not|truncated)-[a-z-]+)`", CLAIMS))
    assert len(named) > 8
    assert named - {"claim-checks"} <= set(map(str, Reason))
