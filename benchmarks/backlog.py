"""What corrections, forgets and questions take behind a backlog of images, and without one.

python -m benchmarks.backlog [--images 100000] [--rounds 50] [--embedder lite0]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import service
from benchmarks.__main__ import machine, percentiles
from benchmarks.service import EMBEDDER, Service, resident, vectors
from memory.model.vectors import Vector
from streams import bootstrap
from streams.demo.emoji import emoji


def seconds_of(action: Callable[[int], object], rounds: int) -> list[float]:
    found = []
    for n in range(rounds):
        started = time.perf_counter()
        action(n)
        found.append(time.perf_counter() - started)
    return found


def behind(memory: Service) -> int:
    """Images in the log that are not merged yet."""
    monitor = bootstrap.monitor(memory.settings)
    try:
        return sum(lag.records for lag in monitor.lag() if lag.topic.endswith("image-ingest"))
    finally:
        monitor.close()


class Load:
    """One kind of images, and what is asked and changed beside them."""

    def __init__(self, memory: Service, embedder: str) -> None:
        self.memory = memory
        self._ready = embedder.startswith("vectors:")
        self._names = EMBEDDER if self._ready else None
        self._images: list[Vector | bytes] = (
            list(vectors(1000))
            if self._ready
            else [sample.path.read_bytes() for sample in emoji("google")[:200]]
        )

    def send(self, name: str, n: int, **more: Any) -> Any:
        image = self._images[n % len(self._images)]
        return self.memory.client.ingest(
            image, id=f"{name}-{n}", label=f"l{n % 100}", embedder=self._names, **more
        )

    def measured(self, rounds: int, phase: str) -> dict[str, dict[str, float]]:
        """p50 and p99 of each kind of event, from sent to effective."""
        client = self.memory.client

        def corrected(n: int) -> None:
            written = client.correct(f"known-{n}", f"{phase}-{n}")
            client.query(item="known-0", k=1, after=[written.position()], timeout=60)

        def forgotten(n: int) -> None:
            client.receipt(client.forget(subject=f"{phase}-subject-{n}"), "erased")

        return {
            "question": percentiles(
                seconds_of(lambda _: client.query(item="known-0", k=10, timeout=60), rounds)
            ),
            "correction": percentiles(seconds_of(corrected, rounds)),
            "forget": percentiles(seconds_of(forgotten, rounds)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backlog", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--embedder", default=f"vectors:{EMBEDDER}:{service.DIM}")
    options = parser.parse_args()
    roles = ("ingest", "correct", "forget", "query")
    results: dict[str, Any] = {"machine": machine(), "embedder": options.embedder}
    with (
        tempfile.TemporaryDirectory() as folder,
        service.servers(Path(folder)) as servers,
        service.running(servers, "b", roles, embedder=options.embedder) as memory,
    ):
        load_ = Load(memory, options.embedder)
        subjects = [
            [f"{p}-subject-{n}" for p in ("without", "behind")] for n in range(options.rounds)
        ]
        for n in range(options.rounds):
            load_.send("known", n, subjects=subjects[n])
        while behind(memory):
            time.sleep(0.1)
        results["without"] = load_.measured(options.rounds, "without")
        results["resident_mb_without"] = resident()
        for n in range(options.rounds):
            load_.send("again", n, subjects=[f"behind-subject-{n}"])
        started = time.perf_counter()
        for n in range(options.images):
            load_.send("backlog", n)
        memory.client.flush()
        results["sent_per_s"] = round(options.images / (time.perf_counter() - started))
        results["behind_at_start"] = behind(memory)
        results["behind"] = load_.measured(options.rounds, "behind")
        results["behind_at_end"] = behind(memory)
        results["resident_mb_behind"] = resident()
    for kind in ("question", "correction", "forget"):
        ratio = results["behind"][kind]["p50_ms"] / results["without"][kind]["p50_ms"]
        results[f"{kind}_ratio"] = round(ratio, 2)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
