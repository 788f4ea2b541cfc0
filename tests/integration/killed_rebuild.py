"""`visual-memory rebuild` that ends itself by SIGKILL at a chosen call, for tests.

Arguments: the class and method, how often it may be called before, ``before`` or ``after``.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from memory.redis import generations, lease
from memory.redis.index import RedisIndex
from streams.config.settings import load
from streams.rebuild.wiring import open_rebuild

CLASSES = {"Generations": generations.Generations, "RedisIndex": RedisIndex}


def main(name: str, times: str, when: str) -> None:
    kind, _, method = name.partition(".")
    found: Any = getattr(CLASSES[kind], method)
    left = int(times)

    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0 and when == "before":
            dies()
        result = found(*arguments, **more)
        if left < 0:
            dies()
        return result

    lease.LEASE_SECONDS = 0.5
    setattr(CLASSES[kind], method, counted)
    with open_rebuild(load(), print) as work:
        work.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
