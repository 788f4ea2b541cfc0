"""Starting a process that outlives whoever starts it, and its terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from streams.local.process import LocalServerError

# The second fork makes init the parent, so no zombie waits for whoever called detach.
_DETACHER = """
import os, sys
os.setsid()
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
os.dup2(2, 1)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def detach(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> int:
    """Start argv in a session of its own that outlives this process; returns its pid.

    Its output goes to log. Raises LocalServerError when it cannot be started; a command that
    is not found shows in the log only.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _DETACHER, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env=env,
            check=False,
        )
    if done.returncode != 0:
        raise LocalServerError(f"{argv[0]} cannot be started; see {log}")
    return int(done.stdout)
