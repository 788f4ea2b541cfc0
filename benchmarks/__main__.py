"""Throughput and latency on this machine, each beside its floor of the same run.

python -m benchmarks [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import embedder, erasing, service
from benchmarks.service import DIM, cpu_seconds, quantiles, vectors
from memory.model.events import Selector
from memory.model.keys import ImageKey
from memory.model.questions import Factors, Probe, WhatIf
from memory.model.state import Put, Trace, TraceWrite
from memory.model.times import make_stamp
from memory.model.vectors import Vector
from streams import bootstrap
from streams.demo.emoji import emoji

PACKAGES = ("faust-streaming", "aiokafka", "kafka-python", "redis", "torch", "numpy")


def percentiles(seconds: list[float]) -> dict[str, float]:
    """As `quantiles`, with the unit in their names."""
    return {f"{name}_ms": value for name, value in quantiles(seconds).items()}


@contextlib.contextmanager
def timed() -> Iterator[Callable[[], float]]:
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started


def traces(count: int, embedder: str) -> list[Put]:
    return [
        Put(
            image=ImageKey(f"{n:032x}"),
            write=TraceWrite(
                make_stamp(1, str(n)),
                Trace(f"i{n}", "0" * 64, f"l{n % 100}", "bench", (), {}, embedder, v),
            ),
        )
        for n, v in enumerate(vectors(count))
    ]


def ingest_of_vectors(servers: service.Servers, count: int, algorithm: str) -> dict[str, float]:
    """Ready vectors: bare HSETs, the law's puts, and the whole way through Kafka."""
    found: dict[str, float] = {}
    with service.running(servers, f"v{algorithm}", ("ingest",), algorithm=algorithm) as memory:
        client = bootstrap.redis_client(memory.settings)
        client.execute_command(  # type: ignore[no-untyped-call]  # redis-py
            *f"FT.CREATE bare{algorithm} ON HASH PREFIX 1 bare{algorithm}: SCHEMA vector VECTOR "
            f"{algorithm} 6 TYPE FLOAT16 DIM {DIM} DISTANCE_METRIC COSINE".split()
        )
        blobs = [v.astype(np.float16).tobytes() for v in vectors(count)]
        with timed() as elapsed:
            for start in range(0, count, 250):
                pipeline = client.pipeline(transaction=False)
                for n in range(start, min(start + 250, count)):
                    pipeline.hset(
                        f"bare{algorithm}:{n}", mapping={"vector": blobs[n], "label": "x"}
                    )
                pipeline.execute()
            found["direct_hset_per_s"] = round(count / elapsed(), 1)
        index = bootstrap.open_index(memory.settings, client)
        puts = traces(count, index.embedder)
        with timed() as elapsed:
            for start in range(0, count, 250):
                index.put(puts[start : start + 250])
            found["law_puts_per_s"] = round(count / elapsed(), 1)
        client.close()
        with timed() as elapsed:
            memory.teach(vectors(count))
            found["service_per_s"] = round(count / elapsed(), 1)
    found["service_of_direct"] = round(found["service_per_s"] / found["direct_hset_per_s"], 3)
    return found


def ingest_of_images(servers: service.Servers, count: int) -> dict[str, Any]:
    """PNGs of 64 x 64 through lite0: the embedder alone, twice, and the service between."""
    paths = [sample.path for sample in emoji("google")][:count]
    defaults = embedder.alone(count, defaults=True)
    before = embedder.alone(count)
    with service.running(servers, "images", ("ingest",), embedder="lite0") as memory:
        memory.teach(paths[:32])
        groups = {
            "broker": servers.kafka_pids,
            "redis": servers.redis_pids,
            "worker": tuple(found.pid for found in service.workers().values()),
        }
        used = cpu_seconds(groups)
        with timed() as elapsed:
            memory.teach(paths)
            through = count / elapsed()
        now = cpu_seconds(groups)
    best = (before + embedder.alone(count)) / 2
    return {
        "embedder_per_s": round(best, 1),
        "service_per_s": round(through, 1),
        "service_of_embedder": round(through / best, 3),
        "embedder_of_its_defaults": round(best / defaults, 2),
        "cpu_ms_an_image": {
            name: round(1000 * (now[name] - used[name]) / count, 2) for name in now
        },
    }


def queries(servers: service.Servers, items: int, asked: int) -> dict[str, Any]:
    """Questions with ready vectors over `items` items, beside the search and the log alone."""
    found: dict[str, Any] = {}
    with service.running(servers, "q", ("ingest", "query")) as memory:
        memory.teach(vectors(items))
        store = bootstrap.redis_client(memory.settings)
        index = bootstrap.open_index(memory.settings, store)
        replica = bootstrap.open_index(memory.settings, store, replicated=True)
        time.sleep(5)  # loaded by then, as that of the worker
        questions = vectors(asked, seed=1)
        for k in (10, 100):
            alone, replicated, answered = [], [], []
            for question in questions:
                with timed() as elapsed:
                    index.search([Probe(question, k)])
                    alone.append(elapsed())
                with timed() as elapsed:
                    replica.search([Probe(question, k)])
                    replicated.append(elapsed())
                with timed() as elapsed:
                    memory.ask(question, k)
                    answered.append(elapsed())
            with ThreadPoolExecutor(32) as askers, timed() as elapsed:
                list(askers.map(lambda q, k=k: memory.ask(q, k), questions * 2))
                rate = 2 * asked / elapsed()
            found[f"k{k}"] = {
                "redis_alone": percentiles(alone),
                "replica_alone": percentiles(replicated),
                "service_1_asker": percentiles(answered),
                "service_32_askers_per_s": round(rate, 1),
            }
            found[f"k{k}"] |= what_if(memory, questions, k)
        found["log_round_trip"] = percentiles(service.round_trips(memory, asked))
        found["freshness"] = percentiles(memory.freshness(min(asked, 200)))
    return found


def what_if(memory: service.Service, questions: Sequence[Vector], k: int) -> dict[str, Any]:
    """Questions that suppose or ask why, each beside a plain one; and what part of one the vote is."""
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "without_a_label": {"what_if": WhatIf((Selector.of(label="l7"),))},
        "without_an_image": {"what_if": WhatIf((Selector.of(image="s7"),))},
        "weights": {"what_if": WhatIf(weights=Factors(labels={"l7": 2.0}))},
        "why": {"why": True},
    }
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    votes = []
    for question in questions:
        for kind, more in kinds.items():
            with timed() as elapsed:
                answer = memory.ask(question, k, **more)
                took[kind].append(elapsed())
            if kind == "plain":
                votes.append(answer.timings["vote"] / took[kind][-1])
    plain = quantiles(took.pop("plain"))["p50"]
    of_plain = {kind: round(quantiles(each)["p50"] / plain, 2) for kind, each in took.items()}
    return {"p50_of_a_plain_question": of_plain, "vote_of_a_question": round(median(votes), 4)}


def deletions(servers: service.Servers, rounds: int) -> dict[str, float]:
    """From sending a request to forget an image to its being in no search, one at a time."""
    found = []
    with service.running(servers, "f", ("ingest", "forget")) as memory:
        memory.teach(vectors(rounds))
        index = bootstrap.open_index(memory.settings, bootstrap.redis_client(memory.settings))
        for n in range(rounds):
            with timed() as elapsed:
                request = memory.client.forget(image=f"s{n}")
                while index.holds([f"s{n}"])[0]:
                    pass
                found.append(elapsed())
            memory.client.receipt(request)
    return percentiles(found)


def counting(servers: service.Servers, count: int, rounds: int) -> dict[str, Any]:
    """Ingest, and one asker meanwhile, beside a query worker that keeps wrong counts and one that does not."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    asked: dict[bool, list[float]] = {True: [], False: []}
    for n in range(rounds):
        for counts in (True, False) if n % 2 else (False, True):
            name = f"counting-{n}-{counts}"
            roles = ("ingest", "query")
            with service.running(servers, name, roles, reliability=counts) as memory:
                memory.teach(vectors(count)[: count // 2])
                with timed() as elapsed:
                    memory.teach(vectors(count)[count // 2 :])
                    rates[counts].append(count / 2 / elapsed())
                for question in vectors(200, seed=3):
                    with timed() as elapsed:
                        memory.ask(question, 10)
                        asked[counts].append(elapsed())
    return {
        "with_per_s": [round(rate, 1) for rate in rates[True]],
        "without_per_s": [round(rate, 1) for rate in rates[False]],
        "with_of_without": round(median(rates[True]) / median(rates[False]), 3),
        "asked_with": percentiles(asked[True]),
        "asked_without": percentiles(asked[False]),
    }


def machine() -> dict[str, Any]:
    """What was measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {package: version(package) for package in PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parser.add_argument("--only", default="", help="what has this in its name")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder, service.servers(Path(folder)) as servers:
        for name, measure in (
            (
                "ingest of vectors, FLAT",
                lambda: ingest_of_vectors(servers, 50_000 // scale, "FLAT"),
            ),
            (
                "ingest of vectors, HNSW",
                lambda: ingest_of_vectors(servers, 10_000 // scale, "HNSW"),
            ),
            ("ingest of images", lambda: ingest_of_images(servers, 1_600 // scale)),
            ("queries", lambda: queries(servers, 20_000 // scale, 1_000 // scale)),
            ("reliability", lambda: counting(servers, 20_000 // scale, 4)),
            ("deletions", lambda: deletions(servers, 500 // scale)),
            ("forgetting", lambda: erasing.forgets(servers, 1_000 // scale)),
            ("erasing", lambda: erasing.rates(servers, 20_000 // scale, 12)),
        ):
            if options.only not in name:
                continue
            results[name] = measure()
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
