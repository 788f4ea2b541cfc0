"""Workers forked from a process that has imported all of theirs, which is four fifths of a start.

A forked worker is a process as any other: it has its own session, environment and output, ends with the
process of the tests, and is their child, so that it can be killed and waited for.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from streams.config.settings import ENVIRONMENT_PREFIX
from streams.local.process import ChildSpec, Process, Started

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
REQUEST_BYTES = 2**17
OWN = (ENVIRONMENT_PREFIX, "FAULT", "STALLED", "PYTEST_CURRENT_TEST")
IMPORTED = (
    *("streams.cli", "streams.bootstrap", "threadpoolctl", "numpy.ma"),
    *("faust.app", "faust.agents", "faust.tables", "faust.tables.globaltable", "faust.web.drivers"),
    *("faust.fixups.django", "faust.windows", "mode.supervisors"),
)
"""What a worker imports, Faust some of it when it is first used."""


class Forked:
    """A child that was not started by `subprocess`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class Zygote:
    """The process that forks, started at the first worker and ended with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a worker would import the same: libraries read some variables as they are imported."""
        return _foreign(environment) == _foreign(self._environment)

    def fork(self, argv: Sequence[str], environment: Mapping[str, str], output: BinaryIO) -> Forked:
        """Run what follows Python in `argv` (``-m``, a module, or a file; then arguments)."""
        request = {"argv": argv, "environment": dict(environment), "parent": os.getpid()}
        with self._lock:
            connection = self._socket = self._socket or self._begin()
            # The worker is an orphan once what forked it has ended, and its next ancestor that
            # asked for orphans becomes its parent.
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(connection, [json.dumps(request).encode()], [output.fileno()])
                pid = connection.recv(32)
            finally:
                _prctl(PR_SET_CHILD_SUBREAPER, 0)
        if not pid:
            raise OSError("the process that forks workers has ended")
        return Forked(int(pid))

    def close(self) -> None:
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait()

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.integration.zygote", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=self._environment,
                start_new_session=True,
            )
        return ours


class ForkedProcess(Process):
    """A worker that is forked where it may be, at its restarts too."""

    def __init__(self, spec: ChildSpec, zygote: Zygote) -> None:
        super().__init__(spec)
        self._zygote = zygote

    def launch(
        self, argv: Sequence[str], environment: Mapping[str, str] | None, output: BinaryIO
    ) -> Started:
        assert environment is not None
        if self._zygote.fits(environment):
            return self._zygote.fork(argv[1:], environment, output)
        return super().launch(argv, environment, output)


def _foreign(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables of this project and its tests, which nothing reads as it is imported."""
    return {name: value for name, value in environment.items() if not name.startswith(OWN)}


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def serve(connection: socket.socket) -> list[str]:
    """Fork for each request until there are no more; in the worker, return what it is to run."""
    while True:
        message, outputs, *_ = socket.recv_fds(connection, REQUEST_BYTES, 1)
        if not message:
            sys.exit()
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            middle = os.getpid()
            if (worker := os.fork()) == 0:
                connection.close()
                os.close(reading)
                os.close(writing)
                return become(json.loads(message), middle, outputs[0])
            os.write(writing, str(worker).encode())
            os._exit(0)
        os.close(writing)
        os.close(outputs[0])
        pid = os.read(reading, 32)
        os.close(reading)
        os.waitpid(child, 0)
        connection.send(pid)


def become(request: dict[str, object], middle: int, output: int) -> list[str]:
    argv, environment, parent = request["argv"], request["environment"], request["parent"]
    assert isinstance(argv, list)
    assert isinstance(environment, dict)
    os.setsid()
    while os.getppid() == middle:
        time.sleep(0.001)
    # The signal is the present parent's end; that of one before it is seen by the next look.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process of the tests is gone")
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    return argv


def main() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    connection = socket.socket(fileno=int(sys.argv[1]))
    if threading.active_count() != 1:
        raise RuntimeError("a process with threads cannot be forked safely")
    program = serve(connection)
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main()
