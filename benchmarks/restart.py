"""How long a killed query worker takes to answer again, and to have all items in its replica.

python -m benchmarks.restart [--items 300000] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import service
from benchmarks.__main__ import machine
from benchmarks.curves import clustered, fill
from benchmarks.service import EMBEDDER, Servers, Service
from streams import bootstrap
from streams.config.settings import load

NAME = "restart"


def wait_until_loaded(memory: Service, items: int) -> None:
    """Return when the query worker has so many items in its replica."""
    while True:
        with contextlib.suppress(OSError):  # it is not up yet
            if memory.metric("query", "visual_memory_replica_items") == items:
                return
        time.sleep(0.05)


def measured(at: Servers, items: int, rounds: int) -> list[dict[str, float]]:
    """Seconds from the kill to the answer of a question that was sent then, and to the whole replica."""
    key = secrets.token_hex(32)
    settings = load(
        kafka=at.kafka,
        redis=at.redis,
        topic_prefix=f"{NAME}-",
        namespace=NAME,
        hmac_key=key,
        embedder=f"vectors:{EMBEDDER}:{service.DIM}",
    )
    store = bootstrap.redis_client(settings)
    fill(bootstrap.open_index(settings, store, bootstrap.embedder(settings)), items)
    store.close()
    ((question,),) = clustered(1, seed=2)
    found = []
    with service.running(at, NAME, ("query",), hmac_key=key) as memory:
        wait_until_loaded(memory, items)
        for _ in range(rounds):
            os.kill(service.workers()["query"].pid, signal.SIGKILL)
            killed = time.perf_counter()
            memory.ask(question, 10)
            answered = time.perf_counter() - killed
            wait_until_loaded(memory, items)
            found.append(
                {
                    "answered_s": round(answered, 1),
                    "loaded_s": round(time.perf_counter() - killed, 1),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, service.servers(Path(folder)) as at:
        found = measured(at, options.items, options.rounds)
    results: dict[str, Any] = {"machine": machine(), "items": options.items, "rounds": found}
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
