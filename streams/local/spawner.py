"""Starts children from one thread that lives as long as the process."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any


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
