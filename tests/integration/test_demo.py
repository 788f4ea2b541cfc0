"""The demo, end to end, as the README shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streams.local.state import read_state
from tests.integration.running import ROOT
from tests.waiting import until

README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.servers
@pytest.mark.timeout(900)  # two stacks, 580 embeddings, on a machine that may be busy
def test_it_learns_recognises_is_corrected_and_forgets_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "stack"
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", "demo", "--json", "--data-dir", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    shown = re.search(r"top-1 ([\d.]+)%, top-5 ([\d.]+)% \(guessing: ([\d.]+)%\)", README)
    assert shown is not None
    top1, top5, guessing = (float(number) / 100 for number in shown.groups())
    # Torch gives slightly other vectors in another batch size.
    assert said["top1"] == pytest.approx(top1, abs=0.01)
    assert said["top5"] == pytest.approx(top5, abs=0.01)
    assert 1 / said["classes"] == pytest.approx(guessing, abs=0.0001)
    answers = [said[f"answer{when}"] for when in ("", "_after_correction", "_after_forgetting")]
    before, corrected, forgotten = answers
    assert before == "spider web"
    assert corrected == "my own label"
    assert forgotten not in (before, corrected)
    foretold = re.search(r"it would be '(.*)'", README)
    assert foretold is not None
    assert forgotten == foretold[1]
    for heading in (
        *("1. It learns", "2. It recognises", "3. A person corrects"),
        *("4. It says what would change", "5. It forgets", "6. It proves it"),
        *("log_compacted", "receipts in one chain, each signed and verified"),
    ):
        assert heading in done.stderr
    assert said["completed"] >= 1
    assert read_state(folder) is None
    command(folder, "up", "--detach")
    try:
        why_is_what_the_readme_shows(folder)
    finally:
        command(folder, "down")


def command(folder: Path, *words: str) -> str:
    """What a command prints on the demo's memory, for a person and for a program."""
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *words, "--data-dir", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout + done.stderr


def why_is_what_the_readme_shows(folder: Path) -> None:
    typed = re.findall(r"visual-memory (correct \w+ animal)", README)
    assert len(typed) == 3
    for words in typed:
        command(folder, *words.split())
    asked = re.search(r"\$ visual-memory (query .* --why.*)", README)
    assert asked is not None
    until(lambda: "animal (48%)" in command(folder, *asked[1].split()), seconds=60)
    shown = command(folder, *asked[1].split())
    assert "it would be lotus:" in shown
    assert "a single wrong label could change it" in shown
    told, printed = rows(README), rows(shown)
    assert len(told) == len(printed) == 5
    for there, here in zip(told, printed, strict=True):
        for one, other in zip(there, here, strict=True):
            # Torch gives slightly other vectors in another batch size.
            assert one == other or float(one.strip("%")) == pytest.approx(
                float(other.strip("%")), abs=0.2
            )


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of a table that begin with a rank."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if re.match(r"│ \d+ +│", line)
    ]
