"""The guide for operators as tests read it: its shell commands by heading."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from streams.config.settings import CACHE
from streams.local.downloads import install_redis
from tests.integration.running import ROOT

GUIDE = (ROOT / "docs" / "operations.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", GUIDE, flags=re.DOTALL | re.MULTILINE))
CURL = """\
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[-1]).read().decode())
except OSError:
    sys.exit(22)
"""


def blocks(heading: str) -> list[str]:
    """The shell blocks that stand under a heading."""
    return re.findall(r"```sh\n(.*?)```", SECTIONS[heading], flags=re.DOTALL)


def run_blocks(heading: str, environment: Mapping[str, str], folder: Path) -> str:
    """Run the commands under a heading in one shell that ends at the first failure; its output.

    The shell finds `visual-memory`, the embedded server's redis-cli, and curl.
    """
    commands = "\n".join(blocks(heading))
    assert commands, heading
    path = os.pathsep.join(map(str, (_programs(folder), install_redis(CACHE), os.environ["PATH"])))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _programs(folder: Path) -> Path:
    """A folder with this source tree's command, and with a curl where the machine has none."""
    made = folder / "programs"
    made.mkdir(parents=True, exist_ok=True)
    scripts = {"visual-memory": f'exec {sys.executable} -m streams.cli "$@"\n'}
    if shutil.which("curl") is None:
        (made / "curl.py").write_text(CURL)
        scripts["curl"] = f'exec {sys.executable} "{made}/curl.py" "$@"\n'
    for name, text in scripts.items():
        (made / name).write_text(f"#!/bin/sh\n{text}")
        (made / name).chmod(0o755)
    return made
