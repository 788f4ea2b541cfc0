"""The demo, end to end, as the README shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streams.local.supervisor import read_state
from tests.integration.running import ROOT

README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.servers
def test_it_learns_recognises_is_corrected_and_forgets_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "stack"
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", "demo", "--json", "--data-dir", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
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
    for heading in ("1. It learns", "2. It recognises", "3. A person corrects", "4. It forgets"):
        assert heading in done.stderr
    assert read_state(folder) is None
