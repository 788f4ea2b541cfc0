"""Looks at a child for as long as it is kept: is it ready, and does it answer at all?"""

from __future__ import annotations

import threading
import time

from streams.local.process import POLL, Process

LIVENESS_SECONDS = 2.0


class Prober:
    """Looks at one process in a thread of its own, since whatever hangs makes a look hang too.

    `ready` is what the last look found, `came_up` whether any look since `begin` did. An
    exception of a look, which is a defect, is kept in `defect`, and looking has ended then.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._answered = time.monotonic()
        self.ready = False
        self.came_up = False
        self.defect: Exception | None = None

    def begin(self, *, ready: bool) -> None:
        """The process has just been started."""
        with self._lock:
            self.ready = self.came_up = ready
            self._answered = time.monotonic()
        if self._thread is None:
            name = f"probes of {self._process.name}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._wake.set()

    def silent_for(self) -> float:
        """Seconds since the process last answered in any way, or was started."""
        return time.monotonic() - self._answered

    def close(self) -> None:
        """End looking; waits for the last look for a few seconds."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while True:
            self._wake.wait(LIVENESS_SECONDS if self.came_up else POLL)
            self._wake.clear()
            if self._closed:
                return
            if (pid := self._process.pid) is None:
                continue
            try:
                ready = self._process.ready()
                live = ready or self._process.live()
            except Exception as defect:  # noqa: BLE001 - raised by whoever keeps the process
                self.defect = defect
                return
            with self._lock:
                # What an earlier run answered says nothing of this one.
                if self._process.pid == pid:
                    self.ready = ready
                    self.came_up |= ready
                    if live:
                        self._answered = time.monotonic()
