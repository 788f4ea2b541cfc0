"""Half load with churn for minutes: do recall, memory, latency and freshness drift?

python -m benchmarks.soak [--minutes 10] [--items 20000] [--algorithm HNSW] [--json FILE]

A tenth of the items is forgotten and replaced by others each minute, while images come at half
the rate at which the service took the first ones, and questions are asked one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import service
from benchmarks.__main__ import machine, percentiles
from benchmarks.curves import DIM, clustered
from benchmarks.service import EMBEDDER, Service, resident
from memory.errors import Unavailable
from memory.model.questions import Probe
from memory.model.vectors import Vector
from memory.redis.index import RedisIndex
from streams import bootstrap

ROWS_A_MINUTE = 2
CHURN_A_MINUTE = 0.1
RECALLED = 50


class Churn:
    """What the memory should hold, and the events that change it."""

    def __init__(self, memory: Service, items: int) -> None:
        self.memory = memory
        self.lock = threading.Lock()
        self.living: deque[tuple[str, Vector]] = deque()
        self._names = (f"c{n}" for n in itertools.count())
        self._vectors = itertools.chain.from_iterable(
            itertools.chain.from_iterable(
                clustered(100 * items, seed) for seed in itertools.count(9)
            )
        )
        self._resent = random.Random(0)

    def teach(self, **more: Any) -> None:
        name, vector = next(self._names), next(self._vectors)
        self.memory.client.ingest(vector, id=name, label="l", embedder=EMBEDDER, **more)
        with self.lock:
            self.living.append((name, vector))

    def repeat(self) -> None:
        """An image that is known, as an upstream job that runs again sends it."""
        with self.lock:
            name, vector = self._resent.choice(self.living)
        self.memory.client.ingest(vector, id=name, label="l", embedder=EMBEDDER)

    def replace(self) -> None:
        with self.lock:
            name, _ = self.living.popleft()
        self.memory.client.forget(image=name)
        self.teach()


def recall(index: RedisIndex, churn: Churn, questions: list[Vector], k: int = 10) -> float:
    """Share of the true neighbours found, among what should live now."""
    with churn.lock:
        living = list(churn.living)
    names = [name for name, _ in living]
    matrix = np.stack([vector for _, vector in living])
    found = index.search([Probe(question, k) for question in questions])
    shares = []
    for question, result in zip(questions, found, strict=True):
        nearest = {names[i] for i in np.argsort(-(matrix @ question), kind="stable")[:k]}
        shares.append(len(nearest & {hit.image_id for hit in result.hits}) / k)
    return round(float(np.mean(shares)), 4)


def repeatedly(action: Callable[[], None], a_second: float, stop: threading.Event) -> None:
    due = time.monotonic()
    while not stop.is_set():
        action()
        due += 1 / a_second
        stop.wait(max(0.0, due - time.monotonic()))


def rows(memory: Service, churn: Churn, minutes: float, rate: float) -> list[dict[str, Any]]:
    """One row each half minute."""
    stop = threading.Event()
    (questions,) = clustered(RECALLED, seed=3)
    index = bootstrap.open_index(memory.settings, bootstrap.redis_client(memory.settings))
    replaced = CHURN_A_MINUTE * len(churn.living) / 60
    threads = [
        threading.Thread(target=repeatedly, args=(churn.repeat, max(1.0, rate - replaced), stop)),
        threading.Thread(target=repeatedly, args=(churn.replace, replaced, stop)),
    ]
    for thread in threads:
        thread.start()
    found = []
    try:
        for number in range(round(minutes * ROWS_A_MINUTE)):
            until = time.monotonic() + 60 / ROWS_A_MINUTE
            asked: list[float] = []
            fresh: list[float] = []
            late = 0
            while time.monotonic() < until:
                started = time.perf_counter()
                memory.ask(questions[len(asked) % RECALLED], 10)
                asked.append(time.perf_counter() - started)
                if len(asked) % 20 == 0:
                    try:
                        fresh += memory.freshness(1)
                    except Unavailable:
                        late += 1
            stats = index.stats()
            row = {
                "minute": (number + 1) / ROWS_A_MINUTE,
                "items": stats.items,
                "bytes": stats.bytes,
                "recall_at_10": recall(index, churn, questions),
                "question": percentiles(asked),
                "freshness": percentiles(fresh),
                "late": late,
                "resident_mb": resident(),
            }
            found.append(row)
            print(json.dumps(row), flush=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--algorithm", choices=("FLAT", "HNSW"), default="HNSW")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "algorithm": options.algorithm}
    roles = ("ingest", "forget", "query")
    with (
        tempfile.TemporaryDirectory() as folder,
        service.servers(Path(folder)) as servers,
        service.running(
            servers,
            "soak",
            roles,
            embedder=f"vectors:{EMBEDDER}:{DIM}",
            algorithm=options.algorithm,
        ) as memory,
    ):
        churn = Churn(memory, options.items)
        started = time.perf_counter()
        for _ in range(options.items):
            churn.teach()
        memory.freshness(1)
        rate = options.items / (time.perf_counter() - started)
        results["full_rate_per_s"] = round(rate)
        results["rows"] = rows(memory, churn, options.minutes, rate / 2)
    first, last = results["rows"][min(1, len(results["rows"]) - 1)], results["rows"][-1]
    results["drift"] = {
        "bytes_an_item": round(
            last["bytes"] / last["items"] / (first["bytes"] / first["items"]), 3
        ),
        "recall_at_10": round(last["recall_at_10"] - first["recall_at_10"], 4),
        "question_p50": round(last["question"]["p50_ms"] / first["question"]["p50_ms"], 2),
    }
    print(json.dumps({name: results[name] for name in ("full_rate_per_s", "drift")}))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
