"""Ingest of ready vectors by one worker and by two, by turns, and what an event takes in the log.

python -m benchmarks.scaling [--events 24000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import service
from benchmarks.__main__ import machine
from benchmarks.service import EMBEDDER, Servers, vectors
from memory.ports import MemoryIndex
from streams import bootstrap
from streams.client import MemoryClient
from streams.contract.topics import Topic

PARTITIONS = 4
FIRST = 4_000
STANDING_SECONDS = 7.0
"""Less than a consumer group waits for a member that says nothing."""


def send(client: MemoryClient, count: int) -> None:
    made = vectors(1000)
    for n in range(count):
        client.ingest(made[n % 1000], id=f"s{n}", label=f"l{n % 100}", embedder=EMBEDDER)
    client.flush()


def rate(at: Servers, name: str, workers: int, count: int) -> tuple[float, float, float]:
    """Events a second from a log that is full, how many cores were used meanwhile, and the bytes of an event in
    the log.

    Workers have shared the partitions by then, and stand still until all is in the log.
    """
    names = ["ingest", *(f"ingest-{n}" for n in range(1, workers))]
    with service.running(at, name, names, partitions=PARTITIONS) as memory:
        store = bootstrap.redis_client(memory.settings)
        index = bootstrap.open_index(memory.settings, store)
        send(memory.client, FIRST)
        merged(index, FIRST)
        family = psutil.Process().children(recursive=True)
        pids = [child.pid for child in family if "worker" in child.cmdline()]
        assert len(pids) == workers
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.perf_counter()
        try:
            send(memory.client, count)
        finally:
            started, busy = time.perf_counter(), sum(psutil.cpu_times()[:3])
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        if started - stopped > STANDING_SECONDS:
            raise RuntimeError(f"{started - stopped:.1f} s to fill the log; name fewer --events")
        merged(index, FIRST + count)
        took, used = time.perf_counter() - started, sum(psutil.cpu_times()[:3]) - busy
        store.close()
        topic = memory.settings.topic_prefix + Topic.IMAGE_INGEST
    logs = (at.folder / "kafka").rglob(f"{topic}-*/*.log")
    size = sum(log.stat().st_size for log in logs) / (FIRST + count)
    return count / took, used / took, size


def merged(index: MemoryIndex, count: int) -> None:
    """Return when so many events are."""
    while sum(index.positions().values()) < count:
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--events", type=int, default=24_000)
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
