"""Killing any one process at any moment of the demo does not change what it says at its end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from streams.local.state import read_state
from tests.integration.running import ROOT

SEED = int(os.environ.get("SEED", "1"))
RUN_SECONDS = 280
PROCESSES = ("supervisor", "kafka", "redis", "ingest", "correct", "forget", "query", "monitor")


def run_demo(folder: Path) -> subprocess.Popen[str]:
    words = ["demo", "--json", "--data-dir", str(folder / "stack")]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "streams.cli", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )


def facts(demo: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    try:
        said, _ = demo.communicate(timeout=RUN_SECONDS)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, (folder / "said").read_text()[-3000:]
    found: dict[str, Any] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What the demo says when nothing is killed, and how long it takes."""
    folder, started = tmp_path_factory.mktemp("demo"), time.monotonic()
    return facts(run_demo(folder), folder), time.monotonic() - started


def kill_at(folder: Path, name: str, seconds: float, killed: list[str]) -> None:
    """As soon as that process is there from then on."""
    time.sleep(seconds)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = read_state(folder / "stack")
        child = {"pid": state["pid"]} if state else {}
        if state and name != "supervisor":
            child = state["children"].get(name, {})
        if child.get("pid") is not None:
            os.kill(child["pid"], signal.SIGKILL)
            killed.append(name)
            return
        time.sleep(0.05)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_kill_during_the_demo_changes_nothing_of_what_it_says(
    name: str, undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    wanted, took = undisturbed
    at = random.Random(f"{SEED} {name}").uniform(1, took - 4)
    killed: list[str] = []
    demo = run_demo(tmp_path)
    killer = threading.Thread(target=kill_at, args=(tmp_path, name, at, killed))
    killer.start()
    found = facts(demo, tmp_path)
    killer.join()
    print(f"\n{name} killed after {at:.1f} s")
    assert killed, f"{name} was not there at {at:.1f} s"
    assert found == wanted
