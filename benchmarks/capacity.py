"""What an item costs: memory and append-only file of Redis, and its time to start again.

python -m benchmarks.capacity [--items N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memory.model.keys import ImageKey, SelectorKey
from memory.model.state import Put, Trace, TraceWrite
from memory.model.times import make_stamp
from memory.redis.connection import connect
from memory.redis.index import RedisIndex
from streams.config.settings import CACHE
from streams.local.redis_server import RedisServer

CASES = [
    (384, "FLAT", "FLOAT16"),
    (768, "FLAT", "FLOAT16"),
    (1280, "FLAT", "FLOAT16"),
    (1280, "FLAT", "FLOAT32"),
    (384, "HNSW", "FLOAT16"),
    (1280, "HNSW", "FLOAT16"),
]
PAGE = 250


@dataclass(frozen=True, slots=True)
class Named:
    """An embedder that is asked for its name only."""

    name: str
    digest: str
    dim: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes an item, and seconds that Redis takes to start again with all of them."""

    memory: float
    file: float
    restart: float


def puts(count: int, dim: int) -> list[Put]:
    """Items as an ingest leaves them: an id, a label, a source, two subjects."""
    drawn = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return [
        Put(
            image=ImageKey(f"{n:032x}"),
            selectors=tuple(
                map(
                    SelectorKey,
                    (f"source:{0:032x}", f"subject:{n % 1000:032x}", f"subject:{n % 7:032x}"),
                )
            ),
            write=TraceWrite(
                make_stamp(1, str(n)),
                Trace(
                    f"photos/2026/{n:08}.jpg",
                    f"{n:064x}",
                    f"label-{n % 100}",
                    "camera-app",
                    (f"customer-{n % 1000}", f"customer-{n % 7}"),
                    {},
                    "capacity",
                    vector,
                ),
            ),
        )
        for n, vector in enumerate(drawn)
    ]


def cost(folder: Path, items: int, dim: int, algorithm: str, dtype: str) -> Cost:
    """Fill a Redis of its own, then kill it and start it again."""
    # Rewritten halfway through, the file would say nothing.
    config = {"auto-aof-rewrite-percentage": "0"}
    with RedisServer(folder, CACHE, extra_config=config) as store:
        client = connect(store.url)
        index = RedisIndex.open(
            client,
            namespace="capacity",
            hmac_key=bytes(32),
            embedder=Named("capacity", "capacity", dim),  # type: ignore[arg-type]  # never embeds
            algorithm=algorithm,
            dtype=dtype,
        )
        before = index.stats().bytes
        made = puts(items, dim)
        for start in range(0, items, PAGE):
            page = made[start : start + PAGE]
            index.enlist([(put.selectors, put.image) for put in page])
            index.put(page)
        used = index.stats().bytes - before
        written = sum(file.stat().st_size for file in folder.rglob("*.aof"))
        client.close()
        store.stop()
        started = time.perf_counter()
        store.start()
        return Cost(used / items, written / items, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--items", type=int, default=20_000, help="items of each case")
    items = parser.parse_args().items
    print(f"| dimension | index | memory an item | file an item | restart with {items:,} |")
    print("|---|---|---|---|---|")
    for dim, algorithm, dtype in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = cost(Path(folder), items, dim, algorithm, dtype)
        print(
            f"| {dim} | {algorithm} {dtype} | {found.memory / 1000:.1f} kB "
            f"| {found.file / 1000:.1f} kB | {found.restart:.1f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
