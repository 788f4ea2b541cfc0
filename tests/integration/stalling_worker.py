"""A worker that stands still while a file is there. Run as a program with the role as argument."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from memory.ports import MemoryIndex
from streams import bootstrap
from streams.config.settings import load
from streams.workers import readiness, worker_process


class Stalling:
    """Everything the index is, but for `put` and `admit`, which wait while the file is there."""

    def __init__(self, index: MemoryIndex, file: Path) -> None:
        self._index = index
        self._file = file

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._index, name)
        if name not in {"put", "admit"}:
            return found

        def stalling(*arguments: Any) -> Any:
            while self._file.exists():
                time.sleep(0.05)
            return found(*arguments)

        return stalling


def main(role: str) -> None:
    settings = load()
    readiness.STALLED_SECONDS, readiness.LAG_SECONDS = 2.0, 0.2
    file = Path(os.environ["STALLED_FILE"])
    worker_process.run_app(
        bootstrap.worker(settings, role, lambda i: Stalling(i, file)), settings.log_level
    )


if __name__ == "__main__":
    main(sys.argv[1])
