"""How fast an image is out of the answers, and what erasing costs those who ingest and ask meanwhile.

python -m benchmarks.erasing [--items 100000] [--requests 1000] forgets one subject of so many items, and so many
at once, to the last byte, with servers set to take seconds.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

from benchmarks import service
from benchmarks.service import quantiles, vectors
from memory.model.times import SECOND
from memory.model.vectors import Vector
from streams.config.connections import kafka_cluster
from streams.contract import decoding
from streams.contract.topics import Topic
from streams.erasure.bound import MAX_LOOK_SECONDS
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


def rates(servers: service.Servers, count: int, rounds: int) -> dict[str, Any]:
    """Ingest, and 32 askers, beside an erase worker that is erasing, and while the same is stopped by a signal.

    By turns within one memory, `count` events and a tenth as many questions a turn: from one memory to the next
    rates drift by a fifth. What falls due at most once in ten minutes by default, a scan of the log and a rewrite of
    Redis' file, is told apart, by the time it took.
    """
    roles = ("ingest", "correct", "forget", "query", "erase")
    key = secrets.token_hex(32)
    images, questions = vectors(max(count, ITEMS)), vectors(count // 10, seed=1)
    found: dict[str, Any] = {}
    with service.running(servers, "erasing", roles, signing_key=key) as memory:
        memory.teach(images[:ITEMS])
        eraser = service.workers()["erase"]
        found["scan_and_rewrite"] = _scan_and_rewrite(memory, eraser)
        for name, measure in (
            ("ingest", lambda: memory.teach(images[:count])),
            ("answers", lambda: _ask(memory, questions)),
        ):
            each = count if name == "ingest" else len(questions)
            seconds = _by_turns(measure, eraser, rounds)
            found[f"{name}_with_of_without"] = _ratio(seconds)
            for erasing in (True, False):
                with_or_not = "with" if erasing else "without"
                found[f"{name}_{with_or_not}_per_s"] = [
                    round(each / s, 1) for s in seconds[erasing]
                ]
    return found


def _scan_and_rewrite(memory: service.Service, eraser: psutil.Process) -> dict[str, float]:
    """Let the eraser have work; seconds until it waits for Kafka, and of its CPU until then."""
    started, before = perf_counter(), sum(eraser.cpu_times()[:2])
    requests = [memory.client.forget(image=f"s{n}") for n in range(FORGOTTEN)]
    memory.client.receipt(requests[-1])
    # Those that came while the file was written wait for the next time, ten minutes later.
    memory.client.receipt(requests[0], "redis_purged")
    took = perf_counter() - started
    time.sleep(2 * MAX_LOOK_SECONDS)  # a scan follows within that
    cpu = sum(eraser.cpu_times()[:2]) - before
    return {"rewritten_after_s": round(took, 1), "cpu_s": round(cpu, 2)}


def _by_turns(
    measure: Callable[[], None], eraser: psutil.Process, rounds: int
) -> dict[bool, list[float]]:
    """Seconds that it takes while the eraser goes on (True) and while it is stopped."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    try:
        for n in range(rounds):
            for erasing in (True, False) if n % 2 else (False, True):
                eraser.resume() if erasing else eraser.suspend()
                started = perf_counter()
                measure()
                seconds[erasing].append(perf_counter() - started)
    finally:
        eraser.resume()
    return seconds


def _ratio(seconds: Mapping[bool, Sequence[float]]) -> float:
    """Of median rates."""
    return round(median(seconds[False]) / median(seconds[True]), 3)


def _ask(memory: service.Service, questions: Sequence[Vector]) -> None:
    with ThreadPoolExecutor(32) as askers:
        list(askers.map(lambda question: memory.ask(question, 10), questions))


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
