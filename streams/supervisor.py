"""Child processes that start in order, are restarted, and never outlive this one.

Knows nothing of the project: the standard library on Linux only.

`Process` runs one command and tells when it is ready. `Supervisor` runs an ordered list of
them and writes `stack.json`, which `read_state` gives to other processes. `detach` starts a
supervisor that outlives the terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any, BinaryIO, Self

Log = Callable[[str], None]


def silent(_line: str) -> None:
    """A log for those who want none."""


STATE_FILE = "stack.json"
LOCK_FILE = "lock"
POLL = 0.05
"""Seconds between two looks at a child."""

_LOG_LIMIT = 8 * 2**20
_TAIL_LINES = 40
_TAIL_BYTES = 16_384
_KILL_WAIT = 10.0

# The kernel clears the parent-death signal on fork, not on exec, so a small process sets it
# and becomes the command. A preexec_fn would run Python between fork and exec of a process
# with threads, which can deadlock. The parent may be dead before prctl: hence the second look.
_LAUNCHER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the supervising process is gone")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""

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


class LocalServerError(RuntimeError):
    """A local server or supervised process cannot do what was asked; the text says why."""


@dataclass(frozen=True)
class ChildSpec:
    """What to run.

    env is the whole environment of the child (None: this process's own). A function is asked
    at every start, so it can hand on addresses that are known only once other children run.
    ready is polled until it returns True; an OSError counts as "not yet", any other exception
    is a defect and propagates. Without ready a child is ready as soon as it runs. Timeouts are
    in seconds.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None
    ready: Callable[[], bool] | None = None
    ready_timeout: float = 30.0
    stop_timeout: float = 10.0
    cwd: Path | None = None
    address: str | None = None


class Process:
    """One child process: its own session, output in a file, killed if this process dies.

    The spec is fixed; subclasses override `command` to decide argv and environment at each
    start. Methods may be called from any thread.
    """

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._popen: subprocess.Popen[bytes] | None = None
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
    def pid(self) -> int | None:
        """Process id while the child is alive, else None."""
        with self._lock:
            return self._popen.pid if self._popen is not None and self.alive else None

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
                    self._popen = _spawner.popen(
                        [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=env,
                        cwd=self._spec.cwd,
                        start_new_session=True,
                    )
            except OSError as error:
                raise LocalServerError(f"{self.name} cannot be started: {error}") from error

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the child and wait until it is ready, or until cancelled() is true.

        Raises LocalServerError with the end of the log when it dies first or takes longer than
        ready_timeout; it has been killed then.
        """
        self.spawn()
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


class _Spawner:
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


_spawner = _Spawner()


@dataclass
class _Child:
    process: Process
    restarts: int = 0
    ready: bool = False
    started: float = 0.0
    delay: float = 0.0
    retry_at: float | None = None


class Supervisor:
    """Keeps an ordered list of processes running for one folder, the only one to do so.

    Each starts when the one before is ready. One that dies, or is not ready in time after a
    restart, is started again after backoff[0] seconds, doubling to backoff[1], from the
    beginning after it has lived for steady seconds. They stop in reverse order. on_running is
    called once, when all are ready.
    """

    def __init__(
        self,
        data_dir: Path,
        processes: Sequence[Process | ChildSpec],
        *,
        backoff: tuple[float, float] = (0.5, 10.0),
        steady: float = 30.0,
        log: Log = silent,
        on_running: Callable[[], None] = lambda: None,
    ) -> None:
        self._dir = data_dir
        self._on_running = on_running
        self._children = [
            _Child(Process(each) if isinstance(each, ChildSpec) else each) for each in processes
        ]
        names = [child.process.name for child in self._children]
        if len(set(names)) != len(names):
            raise ValueError(f"two processes have one name: {names}")
        self._backoff = backoff
        self._steady = steady
        self._log = log
        # A plain flag: a signal handler that took an Event's lock could meet its own thread
        # holding it.
        self._stop_requested = False
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
            self._write_state("starting")
            for child in self._children:
                if self._stop_requested:
                    return
                self._log(f"{child.process.name}: starting")
                child.process.start(lambda: self._stop_requested)
                child.started, child.ready = time.monotonic(), True
                self._publish("starting")
            self._on_running()
            self._publish("running")
            while not self._stop_requested:
                changed = [self._tend(child) for child in self._children]
                if any(changed):
                    self._publish("running")
                time.sleep(POLL)
        finally:
            self._publish("stopping")
            self._stop_all()
            (self._dir / STATE_FILE).unlink(missing_ok=True)

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
            except LocalServerError as error:
                self._log(str(error))
            return True
        if not process.alive:
            self._schedule(child, now)
            return True
        if child.ready:
            return False
        child.ready = process.ready()
        if not child.ready and now - child.started > process.ready_timeout:
            self._log(f"{process.name}: not ready after {process.ready_timeout:g} s")
            process.kill()
        return child.ready

    def _schedule(self, child: _Child, now: float) -> None:
        first, longest = self._backoff
        fresh = child.delay == 0 or now - child.started >= self._steady
        child.delay = first if fresh else min(child.delay * 2, longest)
        child.ready = False
        child.retry_at = now + child.delay
        self._log(
            f"{child.process.name}: ended with status {child.process.returncode}, "
            f"starting again in {child.delay:g} s"
        )

    def _stop_all(self) -> None:
        errors = []
        for child in reversed(self._children):
            child.ready = False
            try:
                child.process.stop()
            except LocalServerError as error:
                errors.append(str(error))
        if errors:
            raise LocalServerError("; ".join(errors))

    def _publish(self, status: str) -> None:
        try:
            self._write_state(status)
        except OSError as error:  # a full disk is no reason to stop the servers
            self._log(f"{STATE_FILE} cannot be written: {error}")

    def _write_state(self, status: str) -> None:
        state = {
            "pid": os.getpid(),
            "started": _start_ticks(os.getpid()),
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
        descriptor = os.open(self._dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise LocalServerError(
                    f"{self._dir} is in use by the stack of process {pid}; stop that one or "
                    "choose another folder"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_number: int, _frame: FrameType | None) -> None:
            self._stop_requested = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def read_state(data_dir: Path) -> dict[str, Any] | None:
    """The state of the supervisor of this folder, or None when none is alive.

    Keys: pid, started (clock ticks since boot), status (starting, running, stopping) and
    children: name -> pid, ready, restarts, address, log.
    """
    try:
        state: dict[str, Any] = json.loads((data_dir / STATE_FILE).read_text())
    except FileNotFoundError:
        return None
    # A pid alone may have been given to somebody else since.
    return state if _start_ticks(state["pid"]) == state["started"] else None


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


def write_atomically(path: Path, text: str) -> None:
    """Replace a file, readable by its owner only, so that no reader sees half of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", encoding="utf-8", delete=False
    ) as file:
        unfinished = Path(file.name)
        try:
            file.write(text)
            file.flush()
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink()
            raise


def _start_ticks(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
