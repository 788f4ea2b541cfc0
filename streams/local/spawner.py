"""Starts children from one thread that lives as long as the process."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

# The kernel clears the parent-death signal on fork, not on exec, so a small process sets it
# and becomes the command. A preexec_fn would run Python between fork and exec of a process
# with threads, which can deadlock. The parent may be dead before prctl: hence the second look.
LAUNCHER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the supervising process is gone")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Spawner:
    """Runs every Popen in one thread that lives as long as the process.

    The parent-death signal fires when the *thread* that forked ends, so a child started from
    a short-lived thread would be killed at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: SimpleQueue[Callable[[], None]] | None = None
        os.register_at_fork(after_in_child=self._forget)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        done = threading.Event()
        outcome: list[subprocess.Popen[bytes] | Exception] = []

        def request() -> None:
            try:
                outcome.append(subprocess.Popen(argv, **options))
            except Exception as error:  # noqa: BLE001  raised in the caller's thread
                outcome.append(error)
            done.set()

        with self._lock:
            if self._requests is None:
                self._requests = SimpleQueue()
                threading.Thread(
                    target=self._serve, args=(self._requests,), name="spawner", daemon=True
                ).start()
            self._requests.put(request)
        done.wait()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _forget(self) -> None:
        # Threads do not survive a fork.
        self._lock = threading.Lock()
        self._requests = None

    @staticmethod
    def _serve(requests: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            requests.get()()


def start_ticks(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
