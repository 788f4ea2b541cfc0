"""A worker that looks at its topics and servers more often. Run with the role as its argument."""

from __future__ import annotations

import sys

from streams import bootstrap
from streams.config.settings import load
from streams.workers import readiness

if __name__ == "__main__":
    bootstrap.PROMISES_WATCH_SECONDS = 1.0
    readiness.KAFKA_SECONDS, readiness.LAG_SECONDS = 2.0, 0.5
    bootstrap.run_worker(load(), sys.argv[1])
