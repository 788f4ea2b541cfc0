"""One child process that never outlives this one: how it starts, is watched and ends.

Knows nothing of the project: the standard library on Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from streams.local.spawner import LAUNCHER, Spawner

Log = Callable[[str], None]


def silent(_line: str) -> None:
    """A log for those who want none."""


POLL = 0.05
"""Seconds between two looks at a child."""

_LOG_LIMIT = 8 * 2**20
_TAIL_LINES = 40
_TAIL_BYTES = 16_384
_KILL_WAIT = 10.0


class LocalServerError(RuntimeError):
    """A local server or supervised process cannot do what was asked; the text says why."""


@dataclass(frozen=True)
class ChildSpec:
    """What to run.

    env is the whole environment of the child (None: this process's own). A function is asked
    at every start, so it can hand on addresses that are known only once other children run.
    ready is polled until it returns True; an OSError counts as "not yet", any other exception
    is a defect and propagates. Without ready a child is ready as soon as it runs. live says of one
    that is not ready whether it answers at all (None: it is taken to); one that has not for
    hang_timeout hangs. Timeouts are in seconds.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None
    ready: Callable[[], bool] | None = None
    live: Callable[[], bool] | None = None
    ready_timeout: float = 30.0
    stop_timeout: float = 10.0
    hang_timeout: float = 60.0
    cwd: Path | None = None
    address: str | None = None


class Started(Protocol):
    """A started process, as `subprocess.Popen` is one."""

    pid: int
    returncode: int | None

    def wait(self) -> int: ...


class Process:
    """One child process: its own session, output in a file, killed if this process dies.

    The spec is fixed; subclasses override `command` to decide argv and environment at each
    start, or `launch` to start it another way. Methods may be called from any thread.
    """

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._popen: Started | None = None
        self._lock = threading.RLock()
        self._log_start = 0

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def log(self) -> Path:
        """The file with the child's output."""
        return self._spec.log

    @property
    def address(self) -> str | None:
        """Where the child is reached, without secrets; None if nowhere or not known yet."""
        return self._spec.address

    @property
    def ready_timeout(self) -> float:
        """Seconds the child may take until it is ready."""
        return self._spec.ready_timeout

    @property
    def stop_timeout(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return self._spec.stop_timeout

    @property
    def hang_timeout(self) -> float:
        """Seconds without any answer after which the child hangs."""
        return self._spec.hang_timeout

    @property
    def pid(self) -> int | None:
        """Process id while the child is alive, else None."""
        with self._lock:
            return self._popen.pid if self._popen is not None and self.alive else None

    @property
    def last_pid(self) -> int | None:
        """Process id of the present or last run; None if there was none."""
        with self._lock:
            return self._popen.pid if self._popen is not None else None

    @property
    def returncode(self) -> int | None:
        """Exit status of the last run, negative for a signal; None while alive or never run."""
        with self._lock:
            return None if self.alive or self._popen is None else self._popen.returncode

    @property
    def alive(self) -> bool:
        with self._lock:
            popen = self._popen
            if popen is None or popen.returncode is not None:
                return False
            # Looking without reaping keeps the pid ours until its group is killed.
            with contextlib.suppress(ChildProcessError):  # reaped by somebody else
                if os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return True
                self._signal_group(popen.pid)
            popen.wait()
            return False

    def command(self) -> tuple[Sequence[str], Mapping[str, str] | None]:
        """Arguments and environment of the next run; called by `spawn`."""
        env = self._spec.env
        return self._spec.argv, env() if callable(env) else env

    def ready(self) -> bool:
        """True when the child is alive and serves."""
        if not self.alive:
            return False
        try:
            return self._spec.ready is None or self._spec.ready()
        except OSError:
            return False

    def live(self) -> bool:
        """False when the child, which may not be ready, does not answer at all."""
        try:
            return self._spec.live is None or self._spec.live()
        except OSError:
            return False

    def launch(
        self, argv: Sequence[str], env: Mapping[str, str] | None, output: BinaryIO
    ) -> Started:
        """Run a command in a session of its own, killed if this process dies; called by `spawn`."""
        return _spawner.popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=self._spec.cwd,
            start_new_session=True,
        )

    def spawn(self) -> None:
        """Start the child without waiting for it.

        Raises LocalServerError when it runs already or cannot be started.
        """
        with self._lock:
            if self.alive:
                raise LocalServerError(f"{self.name} runs already (pid {self.pid})")
            try:
                argv, env = self.command()
                with self._open_log() as output:
                    self._popen = self.launch(argv, env, output)
            except OSError as error:
                raise LocalServerError(f"{self.name} cannot be started: {error}") from error

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the child and wait until it is ready, or until cancelled() is true.

        Raises LocalServerError with the end of the log when it dies first or takes longer than
        ready_timeout; it has been killed then.
        """
        self.spawn()
        self.wait_until_ready(cancelled)

    def wait_until_ready(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """The second half of `start`, for one that has been spawned."""
        try:
            self._wait_until_ready(cancelled)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float | None = None) -> None:
        """SIGTERM, then after timeout seconds (None: stop_timeout) SIGKILL to its group.

        Returns when the child has ended; a child that does not run is no error. Raises
        LocalServerError when it outlives even SIGKILL.
        """
        with self._lock:
            if self._popen is None or not self.alive:
                return
            os.kill(self._popen.pid, signal.SIGTERM)
        if not self._wait(self.stop_timeout if timeout is None else timeout):
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the child and what it started in its session. Raises as `stop`."""
        with self._lock:
            if self._popen is None or not self.alive:
                return
            pid = self._popen.pid
            self._signal_group(pid)
        if not self._wait(_KILL_WAIT):
            raise LocalServerError(f"{self.name} (pid {pid}) does not end after SIGKILL")

    def tail(self) -> str:
        """The last lines the present or last run wrote."""
        try:
            with self.log.open("rb") as lines:
                size = lines.seek(0, os.SEEK_END)
                lines.seek(max(min(self._log_start, size), size - _TAIL_BYTES))
                text = lines.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _open_log(self) -> BinaryIO:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        output = self.log.open("ab")
        self._log_start = output.seek(0, os.SEEK_END)
        return output

    def _wait_until_ready(self, cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.ready_timeout
        while not (cancelled() or self.ready()):
            if not self.alive:
                trouble = f"ended with status {self.returncode} before it was ready"
            elif time.monotonic() > deadline:
                trouble = f"was not ready within {self.ready_timeout:g} s"
            else:
                time.sleep(POLL)
                continue
            end = self.tail() or "(nothing was written)"
            raise LocalServerError(f"{self.name} {trouble}; its log {self.log} ends:\n{end}")

    def _wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL / 2)
        return True

    @staticmethod
    def _signal_group(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


_spawner = Spawner()
