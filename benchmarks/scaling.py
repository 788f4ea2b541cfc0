"""Ingest of ready vectors by one worker and by two, by turns, and what an event takes in the log.

python -m benchmarks.scaling [--events 60000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import service
from benchmarks.__main__ import machine
from benchmarks.service import EMBEDDER, Servers, vectors
from streams import bootstrap
from streams.client import MemoryClient
from streams.config import memory_topics
from streams.config.settings import load
from streams.contract.topics import Topic

PARTITIONS = 4


def fill(at: Servers, name: str, count: int) -> float:
    """Put all into the log before a worker reads it. Returns the bytes an event takes there."""
    settings = load(
        kafka=at.kafka,
        redis=at.redis,
        topic_prefix=f"{name}-",
        namespace=name,
        partitions=PARTITIONS,
    )
    memory_topics.create_topics(settings)
    with bootstrap.client(settings, "bench") as client:
        send(client, count)
    topic = settings.topic_prefix + Topic.IMAGE_INGEST
    logs = (at.folder / "kafka").rglob(f"{topic}-*/*.log")
    return sum(log.stat().st_size for log in logs) / count


def send(client: MemoryClient, count: int) -> None:
    made = vectors(1000)
    for n in range(count):
        client.ingest(made[n % 1000], id=f"s{n}", label=f"l{n % 100}", embedder=EMBEDDER)
    client.flush()


def rate(at: Servers, name: str, workers: int, count: int) -> tuple[float, float, float]:
    """Events a second from the middle one that is merged to the last, how many cores were used meanwhile, and
    the bytes of an event in the log.
    """
    size = fill(at, name, count)
    names = ["ingest", *(f"ingest-{n}" for n in range(1, workers))]
    with service.running(at, name, names, partitions=PARTITIONS) as memory:
        store = bootstrap.redis_client(memory.settings)
        index = bootstrap.open_index(memory.settings, store)

        def merged() -> int:
            return sum(index.positions().values())

        # By then the workers have shared the partitions among themselves.
        while (before := merged()) < count / 2:
            time.sleep(0.005)
        started, busy = time.perf_counter(), sum(psutil.cpu_times()[:3])
        while merged() < count:
            time.sleep(0.02)
        took, used = time.perf_counter() - started, sum(psutil.cpu_times()[:3]) - busy
        store.close()
    return (count - before) / took, used / took, size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, service.servers(Path(folder)) as at:
        for number in range(options.rounds):
            for workers, rates in found.items():
                rates.append(rate(at, f"r{number}w{workers}", workers, options.events))
                per_s, cores, size = rates[-1]
                print(
                    f"{workers}: {per_s:.0f}/s, {cores:.2f} cores, {size:.0f} bytes an event",
                    flush=True,
                )
    one, two = (statistics.median(each[0] for each in rates) for rates in found.values())
    print(json.dumps({"machine": machine(), "two_of_one": round(two / one, 2)}))


if __name__ == "__main__":
    main()
