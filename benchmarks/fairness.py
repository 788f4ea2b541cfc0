"""What one source's flood does to another's freshness, without and with a Kafka quota.

python -m benchmarks.fairness [--flood 60000] [--quota 500000]

The quota (bytes a second, by the flooding producer's client id) is set with Kafka's own tool, as
docs/operations.md tells operators to do it by user.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import service
from benchmarks.__main__ import machine, percentiles
from benchmarks.service import EMBEDDER, Service, vectors
from streams.client import MemoryClient
from streams.config.settings import CACHE
from streams.local.downloads import find_java, install_kafka

FLOOD = "flood"
BETWEEN_SECONDS = 0.1
BURST_SECONDS = 15.0
"""Kafka averages over eleven seconds, so a flood begins with a burst that passes its quota."""


def set_quota(kafka: str, bytes_per_second: int) -> None:
    """Bound what the client id `flood` may produce."""
    tool = [str(find_java(CACHE)), "-cp", f"{install_kafka(CACHE)}/*", "kafka.admin.ConfigCommand"]
    alter = ["--bootstrap-server", kafka, "--alter", "--entity-type", "clients"]
    alter += ["--entity-name", FLOOD, "--add-config", f"producer_byte_rate={bytes_per_second}"]
    subprocess.run([*tool, *alter], check=True, capture_output=True)


def freshness_beside(memory: Service, flood: int, after: float = 0) -> dict[str, Any]:
    """The other source's freshness while the flood is sent, from `after` seconds on."""
    done = threading.Event()
    started = time.perf_counter()

    def send() -> None:
        images = vectors(1000)
        with MemoryClient(
            memory.settings.kafka,
            source=FLOOD,
            prefix=memory.settings.topic_prefix,
            client_id=FLOOD,
        ) as client:
            for n in range(flood):
                client.ingest(images[n % 1000], id=f"f{n}", label="f", embedder=EMBEDDER)
            client.flush(600)
        done.set()

    thread = threading.Thread(target=send)
    thread.start()
    seconds: list[float] = []
    while not done.is_set():
        fresh = memory.freshness(1)
        if time.perf_counter() - started > after:
            seconds += fresh
        time.sleep(BETWEEN_SECONDS)
    thread.join()
    return {
        **percentiles(seconds),
        "rounds": len(seconds),
        "flood_per_s": round(flood / (time.perf_counter() - started)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--flood", type=int, default=80_000)
    parser.add_argument("--quota", type=int, default=1_000_000, help="bytes a second")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    with (
        tempfile.TemporaryDirectory() as folder,
        service.servers(Path(folder)) as servers,
        service.running(servers, "f", ("ingest", "query")) as memory,
    ):
        results["alone"] = percentiles(memory.freshness(50))
        results["beside_a_flood"] = freshness_beside(memory, options.flood)
        set_quota(servers.kafka, options.quota)
        results["beside_a_flood_with_quota"] = freshness_beside(
            memory, options.flood // 2, BURST_SECONDS
        )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
