"""Child processes that start in order and are restarted, for one folder.

Knows nothing of the project but its neighbours. `Supervisor` runs an ordered list of processes and
writes `stack.json`, which `state` gives to others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from streams.local.prober import Prober
from streams.local.process import POLL, ChildSpec, LocalServerError, Log, Process, silent
from streams.local.spawner import start_ticks
from streams.local.state import STATE_FILE, read_state, write_atomically

LOCK_FILE = "lock"
_SAID = 500
"""Characters shown of the last line that a child wrote."""


@dataclass
class _Child:
    process: Process
    prober: Prober
    restarts: int = 0
    ready: bool = False
    started: float = 0.0
    delay: float = 0.0
    retry_at: float | None = None


def _child(process: Process | ChildSpec) -> _Child:
    kept = Process(process) if isinstance(process, ChildSpec) else process
    return _Child(kept, Prober(kept))


class Supervisor:
    """Keeps an ordered list of processes running for one folder, the only one to do so.

    Each starts when the one before is ready, and they stop in reverse order; those of a tuple start
    and stop together (no `Server`, which may have to choose another port as it starts). One that
    dies, hangs, or is not ready in time after a restart, is started again after backoff[0] seconds,
    doubling to backoff[1], from the beginning after it has lived for steady seconds. on_running is
    called once, when all are ready; on_ended with the process id of each that has died, before
    it is started again. log and on_ended may fail with an OSError, as on a full disk.
    """

    def __init__(
        self,
        data_dir: Path,
        processes: Sequence[Process | ChildSpec | tuple[Process | ChildSpec, ...]],
        *,
        backoff: tuple[float, float] = (0.5, 10.0),
        steady: float = 30.0,
        log: Log = silent,
        on_running: Callable[[], None] = lambda: None,
        on_ended: Callable[[int], None] = lambda _pid: None,
    ) -> None:
        self._dir = data_dir
        self._on_running = on_running
        self._on_ended = on_ended
        self._stages = [
            [_child(one) for one in (each if isinstance(each, tuple) else (each,))]
            for each in processes
        ]
        self._children = [child for stage in self._stages for child in stage]
        names = [child.process.name for child in self._children]
        if len(set(names)) != len(names):
            raise ValueError(f"two processes have one name: {names}")
        self._backoff = backoff
        self._steady = steady
        self._say = log
        # A plain flag: a signal handler that took an Event's lock could meet its own thread
        # holding it.
        self._stop_requested = False
        self._is_starting = False
        self._runner: threading.Thread | None = None
        self._run_lock = threading.Lock()

    def run(self) -> None:
        """Start everything, keep it running, return after `stop`, SIGTERM or SIGINT.

        In the main thread it answers those signals itself. Raises LocalServerError when another
        supervisor has this folder or when a first start fails; nothing is left running.
        """
        if not self._run_lock.acquire(blocking=False):
            raise LocalServerError("this supervisor runs already")
        self._runner = threading.current_thread()
        try:
            with self._folder_lock(), self._signals():
                self._supervise()
        finally:
            self._runner = None
            self._run_lock.release()

    def stop(self, timeout: float | None = None) -> None:
        """Ask `run` to end and wait until it has, at most timeout seconds (None: for ever).

        Raises LocalServerError when it has not ended in that time. From run's own thread it
        only asks.
        """
        self._stop_requested = True
        if self._runner is threading.current_thread():
            return
        if not self._run_lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LocalServerError(f"the supervisor has not stopped within {timeout:g} s")
        self._run_lock.release()

    def _supervise(self) -> None:
        try:
            self._publish("starting")
            for stage in self._stages:
                if self._stop_requested:
                    return
                try:
                    self._is_starting = True
                    self._start(stage)
                except KeyboardInterrupt:
                    return
                finally:
                    self._is_starting = False
            self._on_running()
            self._publish("running")
            while not self._stop_requested:
                changed = [self._tend(child) for child in self._children]
                if any(changed):
                    self._publish("running")
                time.sleep(POLL)
        finally:
            for child in self._children:
                child.prober.close()
            self._publish("stopping")
            self._stop_all()
            (self._dir / STATE_FILE).unlink(missing_ok=True)

    def _start(self, stage: Sequence[_Child]) -> None:
        is_alone = len(stage) == 1
        for child in stage:
            self._log(f"{child.process.name}: starting")
            if not is_alone:
                child.process.spawn()
        for child in stage:
            process = child.process
            begin = process.start if is_alone else process.wait_until_ready
            begin(lambda: self._stop_requested)
            child.started, child.ready = time.monotonic(), True
            child.prober.begin(ready=True)
            self._publish("starting")

    def _tend(self, child: _Child) -> bool:
        """Restart a child when its time has come; True when the state has changed."""
        now = time.monotonic()
        process = child.process
        if child.retry_at is not None:
            if now < child.retry_at:
                return False
            child.retry_at = None
            child.restarts += 1
            child.started = now
            try:
                process.spawn()
                child.prober.begin(ready=False)
            except LocalServerError as error:
                self._log(str(error))
            return True
        if not process.alive:
            self._schedule(child, now)
            return True
        prober = child.prober
        if prober.defect is not None:
            raise prober.defect
        if not prober.came_up and now - child.started > process.ready_timeout:
            self._log(f"{process.name}: not ready after {process.ready_timeout:g} s")
            process.kill()
        elif prober.came_up and prober.silent_for() > process.hang_timeout:
            self._log(f"{process.name}: no answer for {process.hang_timeout:g} s")
            process.kill()
        changed = child.ready != prober.ready
        child.ready = prober.ready
        return changed

    def _schedule(self, child: _Child, now: float) -> None:
        if (pid := child.process.last_pid) is not None:
            with contextlib.suppress(OSError):
                self._on_ended(pid)
        first, longest = self._backoff
        fresh = child.delay == 0 or now - child.started >= self._steady
        child.delay = first if fresh else min(child.delay * 2, longest)
        child.ready = False
        child.retry_at = now + child.delay
        status = child.process.returncode
        # One that a signal ended has not said why.
        last = child.process.tail().rpartition("\n")[2] if status and status > 0 else ""
        said = f" ({last.strip()[:_SAID]})" if last else ""
        self._log(
            f"{child.process.name}: ended with status {status}{said}, "
            f"starting again in {child.delay:g} s"
        )

    def _stop_all(self) -> None:
        errors = []
        for stage in reversed(self._stages):
            for child in stage:
                child.ready = False
            with ThreadPoolExecutor(len(self._children)) as together:
                ends = [together.submit(child.process.stop) for child in stage]
            for end in ends:
                try:
                    end.result()
                except LocalServerError as error:
                    errors.append(str(error))
        if errors:
            raise LocalServerError("; ".join(errors))

    def _log(self, line: str) -> None:
        # Whoever reads it lacks a line; the servers go on.
        with contextlib.suppress(OSError):
            self._say(line)

    def _publish(self, status: str) -> None:
        try:
            self._write_state(status)
        except OSError as error:  # a full disk is no reason to stop the servers
            self._log(f"{STATE_FILE} cannot be written: {error}")

    def _write_state(self, status: str) -> None:
        state = {
            "pid": os.getpid(),
            "started": start_ticks(os.getpid()),
            "status": status,
            "children": {
                child.process.name: {
                    "pid": child.process.pid,
                    "ready": child.ready,
                    "restarts": child.restarts,
                    "address": child.process.address,
                    "log": str(child.process.log),
                }
                for child in self._children
            },
        }
        write_atomically(self._dir / STATE_FILE, json.dumps(state, indent=2) + "\n")

    @contextlib.contextmanager
    def _folder_lock(self) -> Iterator[None]:
        self._dir.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._dir / LOCK_FILE, timeout=0, mode=0o600):
                yield
        except Timeout:
            pid = (read_state(self._dir) or {"pid": "unknown"})["pid"]
            raise LocalServerError(
                f"{self._dir} is in use by the stack of process {pid}; stop that one or "
                "choose another folder"
            ) from None

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_number: int, _frame: FrameType | None) -> None:
            self._stop_requested = True
            if self._is_starting:
                # What a server needs may be on its way here for minutes yet.
                raise KeyboardInterrupt

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
