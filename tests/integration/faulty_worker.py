"""A worker whose index raises what nobody expects, at a given step, a given number of times.

Run as a program with the role as its argument; FAULT is ``method:call:times``, and FAULT_FILE counts the faults
over restarts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from memory.ports import MemoryIndex
from streams import bootstrap
from streams.config.settings import load
from streams.workers import worker_process


class UnexpectedError(Exception):
    """No part of the error tree."""


class Faulty:
    """Everything the index is, but for one method that fails at its n-th call."""

    def __init__(self, index: MemoryIndex, fault: str, count: Path) -> None:
        self._index = index
        self._method, call, times = fault.split(":")
        self._call, self._times = int(call), int(times)
        self._calls = 0
        self._count = count

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._index, name)
        if name != self._method:
            return found

        def faulty(*arguments: Any) -> Any:
            self._calls += 1
            if self._calls == self._call:
                faults = int(self._count.read_text() or 0) if self._count.exists() else 0
                if faults < self._times:
                    self._count.write_text(str(faults + 1))
                    raise UnexpectedError
            return found(*arguments)

        return faulty


def main(role: str) -> None:
    settings = load()
    fault, count = os.environ.get("FAULT", "none:0:0"), Path(os.environ["FAULT_FILE"])
    app = bootstrap.worker(settings, role, lambda index: Faulty(index, fault, count))
    worker_process.run_app(app, settings.log_level)


if __name__ == "__main__":
    main(sys.argv[1])
