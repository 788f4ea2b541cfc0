"""What corrections, forgets and questions take behind a backlog of images, and when it is merged.

All of it is in the log before a worker starts, so that it outlasts what is measured. A fifth is merged before, and
what workers do once is done.

python -m benchmarks.backlog [--images 100000] [--rounds 50] [--embedder lite0]
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import service
from benchmarks.__main__ import machine, percentiles
from benchmarks.service import EMBEDDER, resident, vectors
from memory.model.vectors import Vector
from streams import bootstrap
from streams.client import MemoryClient
from streams.config.settings import Settings
from streams.demo.emoji import emoji

ROLES = ("ingest", "correct", "forget", "query")


def behind(settings: Settings) -> int:
    """Images in the log that are not merged yet."""
    monitor = bootstrap.monitor(settings)
    try:
        return sum(lag.records for lag in monitor.lag() if lag.topic.endswith("image-ingest"))
    finally:
        monitor.close()


def wait_until_behind(settings: Settings, images: int) -> None:
    while behind(settings) > images:
        time.sleep(0.1)


class Load:
    """One kind of images, to be sent under many names."""

    def __init__(self, embedder: str) -> None:
        ready = embedder.startswith("vectors:")
        self._names = EMBEDDER if ready else None
        self._images: Sequence[Vector | bytes] = (
            vectors(1000)
            if ready
            else [sample.path.read_bytes() for sample in emoji("google")[:200]]
        )

    def send(self, client: MemoryClient, name: str, n: int, **more: Any) -> None:
        image = self._images[n % len(self._images)]
        client.ingest(image, id=f"{name}-{n}", label=f"l{n % 100}", embedder=self._names, **more)


def measured(client: MemoryClient, rounds: int, phase: str) -> dict[str, dict[str, float]]:
    """p50 and p99 of each kind of event, by turns, from sent to effective."""

    def asked(_: int) -> None:
        client.query(item="known-0", k=10, timeout=60)

    def corrected(n: int) -> None:
        written = client.correct(f"known-{n}", f"{phase}-{n}")
        client.query(item="known-0", k=1, after=[written.position()], timeout=60)

    def forgotten(n: int) -> None:
        client.receipt(client.forget(subject=f"{phase}-subject-{n}"), "erased")

    kinds = {"question": asked, "correction": corrected, "forget": forgotten}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for n in range(rounds):
        for kind, action in kinds.items():
            started = time.perf_counter()
            action(n)
            seconds[kind].append(time.perf_counter() - started)
    return {kind: percentiles(found) for kind, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backlog", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--embedder", default=f"vectors:{EMBEDDER}:{service.DIM}")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "embedder": options.embedder}
    same: dict[str, Any] = {"embedder": options.embedder, "hmac_key": secrets.token_hex(32)}
    load = Load(options.embedder)
    with tempfile.TemporaryDirectory() as folder, service.servers(Path(folder)) as servers:
        with service.running(servers, "b", ROLES, **same) as memory:
            for n in range(options.rounds):
                load.send(memory.client, "known", n)
                for phase in ("without", "behind"):
                    subjects = [f"{phase}-subject-{n}"]
                    load.send(memory.client, f"known-{phase}", n, subjects=subjects)
            memory.client.flush()
            wait_until_behind(memory.settings, 0)
            results["resident_mb_before"] = resident()
        with bootstrap.client(memory.settings, "bench") as client:
            started = time.perf_counter()
            for n in range(options.images):
                load.send(client, "backlog", n)
            client.flush()
            results["sent_per_s"] = round(options.images / (time.perf_counter() - started))
        with service.running(servers, "b", ROLES, **same) as memory:
            wait_until_behind(memory.settings, options.images * 4 // 5)
            results["behind_at_start"] = behind(memory.settings)
            results["behind"] = measured(memory.client, options.rounds, "behind")
            results["behind_at_end"] = behind(memory.settings)
            results["resident_mb_behind"] = resident()
            wait_until_behind(memory.settings, 0)
            results["without"] = measured(memory.client, options.rounds, "without")
    for kind in results["behind"]:
        ratio = results["behind"][kind]["p50_ms"] / results["without"][kind]["p50_ms"]
        results[f"{kind}_ratio"] = round(ratio, 2)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
