"""The README is executed: its example runs, its commands parse, its tables match the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from memory.errors import Reason
from streams.cli import cli
from streams.config.settings import CACHE, ENVIRONMENT_PREFIX, Settings
from streams.contract.topics import Topic, event_type
from streams.demo.emoji import emoji
from tests.integration.running import ROOT, running

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line.startswith("visual-memory")
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_readme_parses(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    command = cli.commands[words[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        (tmp_path / "cat.png").write_bytes(b"x")
        context = command.make_context(words[0], words[1:])
    assert isinstance(context, click.Context)


def test_the_readme_has_commands() -> None:
    assert {words[0] for words in COMMANDS} >= {"up", "ingest", "query", "correct", "forget"}


def test_the_table_of_events_is_the_contract() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `([a-z0-9.-]+)` \|", README, flags=re.MULTILINE))
    assert rows == {str(topic): event_type(topic) for topic in Topic}


def test_reasons_and_settings_named_in_the_readme_exist() -> None:
    named = set(re.findall(rf"{ENVIRONMENT_PREFIX}([A-Z_]+)", README))
    tests_own = {"TEST_KAFKA", "TEST_REDIS"}
    assert named - tests_own <= {name.upper() for name in Settings.model_fields}
    assert {"not-an-image", "wrong-dimension", "time-ahead", "forgotten"} <= set(Reason)


def test_the_example_of_the_readme_runs(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    (example,) = [text for language, text in BLOCKS if language == "python"]
    name = unique("readme")
    one, other = emoji("google", CACHE)[100], emoji("twitter", CACHE)[100]
    (tmp_path / "cat.png").write_bytes(one.path.read_bytes())
    (tmp_path / "other.png").write_bytes(other.path.read_bytes())
    example = example.replace('"localhost:9092"', f'"{kafka_bootstrap}", prefix="{name}"')
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=name,
        workers={"ingest": 1, "correct": 1, "forget": 1, "query": 1},
        embedder="lite0",
    ) as memory:
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer, stages = done.stdout.splitlines()
        assert answer.startswith("cat [('photo-17', ")
        assert "erased" in stages
        assert memory.index().stats().items == 0


def test_every_command_has_help_and_stands_in_a_document() -> None:
    documents = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
    for name, command in cli.commands.items():
        assert command.help, name
        assert f"visual-memory {name}" in documents, name


def test_the_map_of_the_packages_shows_every_room() -> None:
    rooms = {
        f"{package}/{entry.name}/" if entry.is_dir() else f"{package}/{entry.name}"
        for package in ("memory", "streams")
        for entry in (ROOT / package).iterdir()
        if entry.suffix == ".py" or (entry / "__init__.py").exists()
        if entry.name != "__init__.py"
    }
    rows = "\n".join(re.findall(r"^\| (`(?:memory|streams)/.*?) \|", README, flags=re.MULTILINE))
    assert set(re.findall(r"`([\w/.]+)`", rows)) == rooms
