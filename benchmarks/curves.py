"""What grows with the number of items: ingest, search in Redis and in a replica, recall of HNSW, bytes.

python -m benchmarks.curves [--items 1000 10000 100000 300000] [--exact] [--json FILE]

With --exact HNSW, which takes most of the time, is left out.
Searches run on the index itself, without Kafka; vectors lie in clusters, as embeddings do.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import machine, percentiles
from memory.embedders import VectorsOnly
from memory.model.keys import ImageKey
from memory.model.questions import Probe
from memory.model.state import Put, Trace, TraceWrite
from memory.model.times import make_stamp
from memory.model.vectors import Vector
from memory.redis.connection import connect
from memory.redis.index import RedisIndex
from memory.replica.index import ReplicatedIndex
from streams.config.settings import CACHE
from streams.local.redis_server import RedisServer

DIM = 384
PAGE = 1000
CLUSTERS = 1000
SPREAD = 0.7
"""Length of a vector's own part beside its cluster's centre of length 1."""
QUESTIONS = 200
K = (10, 100)
BATCHES = (1, 8, 32)


def clustered(count: int, seed: int) -> Iterator[list[Vector]]:
    """Pages of unit vectors, float32, shape (384,) each."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIM))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    drawn = np.random.default_rng(seed)
    for start in range(0, count, PAGE):
        size = min(PAGE, count - start)
        own = drawn.normal(size=(size, DIM)) * SPREAD / np.sqrt(DIM)
        page = centres[drawn.integers(CLUSTERS, size=size)] + own
        page /= np.linalg.norm(page, axis=1, keepdims=True)
        yield list(page.astype(np.float32))


def fill(index: RedisIndex, count: int) -> float:
    """Items a second."""
    spent, done = 0.0, 0
    for page in clustered(count, seed=1):
        puts = [
            Put(
                image=ImageKey(f"{done + n:032x}"),
                write=TraceWrite(
                    make_stamp(1, str(done + n)),
                    Trace(
                        f"i{done + n}", "0" * 64, f"l{n % 100}", "bench", (), {}, index.embedder, v
                    ),
                ),
            )
            for n, v in enumerate(page)
        ]
        started = time.perf_counter()
        for start in range(0, len(puts), 250):
            index.put(puts[start : start + 250])
        spent += time.perf_counter() - started
        done += len(page)
    return done / spent


def searched(index: RedisIndex, questions: Sequence[Vector], k: int) -> tuple[list[set[str]], Any]:
    """What each question finds, and how long it takes."""
    found, seconds = [], []
    for question in questions:
        started = time.perf_counter()
        (result,) = index.search([Probe(question, k)])
        seconds.append(time.perf_counter() - started)
        found.append({hit.image_id for hit in result.hits})
    return found, percentiles(seconds)


def in_batches(index: RedisIndex, questions: Sequence[Vector]) -> dict[str, float]:
    """Questions a second by how many are searched together, k = 10."""
    rates = {}
    for size in BATCHES:
        started = time.perf_counter()
        for start in range(0, len(questions), size):
            batch = questions[start : start + size]
            index.search([Probe(question, 10) for question in batch])
        rates[str(size)] = round(len(questions) / (time.perf_counter() - started), 1)
    return rates


def replicated(
    index: ReplicatedIndex, questions: Sequence[Vector], exact: Mapping[int, list[set[str]]]
) -> dict[str, Any]:
    """The same searches in a replica, which must find the same."""
    started = time.perf_counter()
    index.start(8 << 30)
    while index.state().age is None:
        time.sleep(0.01)
    row: dict[str, Any] = {
        "loaded_s": round(time.perf_counter() - started, 2),
        "bytes_an_item": round(index.state().bytes / index.state().items),
    }
    for k in K:
        found, row[f"search_k{k}"] = searched(index, questions, k)
        if found != exact[k]:
            raise RuntimeError(f"the replica found others than Redis, k = {k}")
    row["questions_per_s_by_batch"] = in_batches(index, questions)
    index.stop()
    return row


def measured(folder: Path, items: int, algorithms: Sequence[str]) -> dict[str, Any]:
    """Each algorithm, FLAT first, over the same items, each in a Redis of its own."""
    results: dict[str, Any] = {}
    exact: dict[int, list[set[str]]] = {}
    (questions,) = clustered(QUESTIONS, seed=2)
    for algorithm in algorithms:
        with RedisServer(folder / f"{algorithm}-{items}", CACHE) as server:
            client = connect(server.url)
            memory: dict[str, Any] = {
                "namespace": "curves",
                "hmac_key": secrets.token_bytes(32),
                "embedder": VectorsOnly("bench", DIM),
                "algorithm": algorithm,
            }
            index = RedisIndex.open(client, **memory)
            before = index.stats().bytes
            rate = fill(index, items)
            row: dict[str, Any] = {
                "puts_per_s": round(rate, 1),
                "bytes_an_item": round((index.stats().bytes - before) / items),
            }
            for k in K:
                found, row[f"search_k{k}"] = searched(index, questions, k)
                if algorithm == "FLAT":
                    exact[k] = found
                else:
                    shares = [len(a & b) / len(b) for a, b in zip(found, exact[k], strict=True)]
                    row[f"recall_at_{k}"] = round(float(np.mean(shares)), 4)
            row["questions_per_s_by_batch"] = in_batches(index, questions)
            results[algorithm] = row
            if algorithm == "FLAT":
                copy = ReplicatedIndex.open(client, **memory)
                results["replica"] = replicated(copy, questions, exact)
            client.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 10_000, 100_000, 300_000])
    parser.add_argument("--exact", action="store_true", help="without HNSW")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    algorithms = ("FLAT",) if options.exact else ("FLAT", "HNSW")
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for items in options.items:
            results[str(items)] = measured(Path(folder), items, algorithms)
            print(f"{items} items: {json.dumps(results[str(items)])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
