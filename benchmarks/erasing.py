"""How fast an image is out of the answers, and what erasing costs those who ingest and ask meanwhile.

python -m benchmarks.erasing [--items 100000] [--requests 1000] forgets one subject of so many items, and so many
at once, to the last byte, with servers set to take seconds.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import service
from benchmarks.service import quantiles, vectors
from memory.model.times import SECOND
from memory.model.vectors import Vector
from streams.config.connections import kafka_cluster
from streams.contract import decoding
from streams.contract.topics import Topic
from streams.kafka.reading import Tail, decode_known

FORGOTTEN = 50
"""Requests that are under way while rates are measured."""
ITEMS = 20_000


def forgets(servers: service.Servers, rounds: int) -> dict[str, Any]:
    """From a request for one image to its being in no answer, one at a time.

    From the log's receiving it, by the receipt, where the log's time is in whole milliseconds; and
    from the worker's reading it, by the worker's own metric.
    """
    took: list[float] = []
    stage = "visual_memory_stage_seconds"
    with service.running(servers, "forgets", ("ingest", "forget", "query")) as memory:
        memory.teach(vectors(rounds))
        for n in range(rounds):
            stages = memory.client.receipt(memory.client.forget(image=f"s{n}")).stages
            took.append((stages["erased"] - stages["received"]) / SECOND)
        read = {
            f"within_{1000 * float(le):g}_ms": memory.metric(
                "forget", f"{stage}_bucket", stage="erase", le=le
            )
            / rounds
            for le in ("0.005", "0.01", "0.02")
        }
        read["mean_ms"] = 1000 * memory.metric("forget", f"{stage}_sum", stage="erase") / rounds
    return {
        "from_log": {f"{name}_ms": value for name, value in quantiles(took).items()},
        "from_reading": {name: round(value, 4) for name, value in read.items()},
    }


def rates(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Ingest, and 32 askers, beside an erase worker that is erasing, and without one.

    While `count` are ingested a scan of the log, a rewrite of Redis' file, and looks at what is dead, fall due:
    as many as in the ten minutes that by default lie between two of them. Each round has servers of its own:
    a rewrite is of all that Redis holds.
    """
    written: dict[bool, list[float]] = {True: [], False: []}
    asked: dict[bool, list[float]] = {True: [], False: []}
    for n in range(rounds):
        for erasing in (True, False) if n % 2 else (False, True):
            roles = ("ingest", "correct", "forget", "query", *(("erase",) if erasing else ()))
            key = secrets.token_hex(32)
            name = f"erasing-{n}-{erasing}"
            with (
                service.servers(folder / name) as servers,
                service.running(servers, name, roles, signing_key=key) as memory,
            ):
                ingest, answers = _round(memory, vectors(ITEMS + count))
                written[erasing].append(ingest)
                asked[erasing].append(answers)
    return {
        "ingest_with_of_without": _ratio(written),
        "answers_with_of_without": _ratio(asked),
        "ingest_with_per_s": [round(rate, 1) for rate in written[True]],
        "ingest_without_per_s": [round(rate, 1) for rate in written[False]],
        "answers_with_per_s": [round(rate, 1) for rate in asked[True]],
        "answers_without_per_s": [round(rate, 1) for rate in asked[False]],
    }


def _ratio(rates: dict[bool, list[float]]) -> float:
    """Of two that were measured one after the other; the machine's speed drifts from minute to minute."""
    return round(
        median(one / other for one, other in zip(rates[True], rates[False], strict=True)), 3
    )


def _round(memory: service.Service, images: Sequence[Vector]) -> tuple[float, float]:
    memory.teach(images[:ITEMS])
    for n in range(FORGOTTEN):
        last = memory.client.forget(image=f"s{n}")
    memory.client.receipt(last)
    started = perf_counter()
    for start in range(ITEMS, len(images), ITEMS):
        memory.teach(images[start : start + ITEMS])
    ingest = (len(images) - ITEMS) / (perf_counter() - started)
    questions = vectors(3000, seed=1)
    started = perf_counter()
    with ThreadPoolExecutor(32) as askers:
        list(askers.map(lambda question: memory.ask(question, 10), questions))
    return ingest, len(questions) / (perf_counter() - started)


QUICK_KAFKA = {
    "log.cleaner.backoff.ms": "1000",
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
}
QUICK: dict[str, Any] = {
    "clock_skew": 0.5,
    "compaction_lag": 5.0,
    "answers_kept": 10.0,
    "erasure_pause": 1.0,
}
COMPLETED_SECONDS = 1800.0


def many(servers: service.Servers, items: int, requests: int) -> dict[str, Any]:
    """Seconds to `erased` and to `completed`: of one subject of all items, and of many at once."""
    roles = ("ingest", "correct", "forget", "query", "erase")
    key = secrets.token_hex(32)
    with service.running(servers, "many", roles, signing_key=key, **QUICK) as memory:
        memory.teach(vectors(items), subject="one")
        started = perf_counter()
        request = memory.client.forget(subject="one")
        erased = memory.client.receipt(request, "erased", COMPLETED_SECONDS)
        took = {"erased_s": perf_counter() - started}
        done = memory.client.receipt(request, "completed", COMPLETED_SECONDS)
        took["completed_s"] = perf_counter() - started
        memory.teach(vectors(requests))
        started = perf_counter()
        _wait_until_completed(
            memory, {memory.client.forget(image=f"s{n}").request_id for n in range(requests)}
        )
        took["requests_completed_s"] = perf_counter() - started
        return {
            "items": erased.images,
            "requests": requests,
            **{name: round(seconds, 1) for name, seconds in took.items()},
            "evidence": done.evidence,
        }


def _wait_until_completed(memory: service.Service, requests: set[str]) -> None:
    cluster = kafka_cluster(memory.settings)
    deadline = perf_counter() + COMPLETED_SECONDS
    with closing(Tail(cluster, [cluster.full_name(Topic.FORGET_RECEIPT)], {})) as tail:
        while requests:
            if perf_counter() > deadline:
                raise RuntimeError(f"{len(requests)} requests are not completed")
            for receipt in decode_known(tail.poll(1.0), decoding.decode_receipt):
                if "completed" in receipt.stages:
                    requests.discard(receipt.request)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.erasing", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        service.servers(Path(folder), QUICK_KAFKA) as servers,
    ):
        print(json.dumps(many(servers, options.items, options.requests)))


if __name__ == "__main__":
    main()
