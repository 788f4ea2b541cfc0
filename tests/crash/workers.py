"""The workers of one memory under a supervisor that may be killed. Run as a program.

python -m tests.crash.workers FOLDER NAME KAFKA_PORT REDIS_PORT
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from streams.config.settings import Settings, load
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from tests.faults.breaking_worker import DIM
from tests.faults.ground import Servers, ground
from tests.integration.running import KEY

WORKERS = {"ingest": 2, "correct": 1, "forget": 1, "query": 1}
SETTINGS: dict[str, Any] = {
    "batch": 16,
    "clock_skew": 0.2,
    "partitions": 4,
    "embedder": f"vectors:test:{DIM}",
}


def settings_of(servers: Servers, name: str) -> Settings:
    """What the workers of this memory run with."""
    return load(
        kafka=servers.kafka.bootstrap,
        redis=servers.redis.url,
        topic_prefix=name,
        namespace=name,
        hmac_key=KEY,
        **SETTINGS,
    )


def main(folder: Path, name: str, kafka_port: int, redis_port: int) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    servers = Servers(
        KafkaServer(folder / "none", port=kafka_port), RedisServer(folder / "none", port=redis_port)
    )
    with ground(servers, folder, name, WORKERS, **SETTINGS):
        Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
