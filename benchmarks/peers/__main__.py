"""What one would pick instead, beside this service, in one run: interleaved, the same client.

python -m benchmarks.peers [--quick] [--items N] [--only NAME ...] [--json FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import service
from benchmarks.__main__ import machine
from benchmarks.peers.arms import OWN_PYTHON, Running, peer, this_service
from benchmarks.peers.driver import Driver
from benchmarks.service import Servers, cpu_seconds, quantiles, vectors

ARMS: Mapping[str, Callable[[Servers, str], AbstractContextManager[Running]]] = {
    "this service": this_service,
    "plain, Redis FLAT": partial(peer, script="plain.py", algorithm="FLAT"),
    "one process, numpy": partial(peer, script="one_process.py"),
    "Quix Streams, Redis FLAT": partial(peer, script="quix.py"),
    "Pathway, brute force": partial(peer, script="pathway_index.py", algorithm="brute"),
    "Pathway, USearch": partial(peer, script="pathway_index.py", algorithm="usearch"),
    # What no system on these can be below: they look up a key where others search.
    "floor: aiokafka": partial(peer, script="floor_kafka.py", python=OWN_PYTHON),
    "floor: Faust, Redis": partial(
        peer, script="floor_faust.py", python=OWN_PYTHON, roles=("write", "ask")
    ),
}
ROUNDS = 3
ITEMS, ASKED, LAGS = 20_000, 1_600, 60
"""Items learnt, questions asked by 32 askers, and images of which each lag is measured."""
FIRST, REST_SECONDS = 5_000, 5.0
"""So many of the items are learnt, and a rest is had, before the clock starts: what a system does once, as
compiling or loading a library, is no part of its rate.
"""


def _resident(pids: tuple[int, ...]) -> float:
    found = 0
    for pid in pids:
        process = psutil.Process(pid)
        found += sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    return round(found / 2**20, 1)


async def measure(at: Servers, running: Running, count: int, scale: int) -> dict[str, Any]:
    """All figures of one system that is up and empty."""
    items = vectors(count)
    asked = vectors(ASKED // scale, seed=1)
    groups = {"broker": at.kafka_pids, "redis": at.redis_pids, "system": running.pids}
    async with Driver.connect(at.kafka, running.dialect) as driver:
        await driver.up()
        await driver.learn(items[: (first := FIRST // scale)])
        await asyncio.sleep(REST_SECONDS)
        before = cpu_seconds(groups)
        rate = await driver.learn(items[first:], first)
        after = cpu_seconds(groups)
        thousands = (len(items) - first) / 1000
        used = {name: round((after[name] - before[name]) / thousands, 3) for name in after}
        await driver.latencies(asked[:20])
        idle = await driver.latencies(asked[: len(asked) // 4])
        k10 = await driver.side_by_side(asked, 32, k=10)
        k100 = await driver.side_by_side(asked, 32)
        lags = await driver.lags(vectors(LAGS // scale or 2, seed=2))
        busy = await driver.under_writes(asked[: len(asked) // 4], vectors(500, seed=3))
        wrong = await driver.wrong_answers(items, 200 // scale, 100 // scale)
    one = quantiles(idle)
    return {
        "ingest_per_s": round(rate, 1),
        "cpu_s_per_1000": used,
        "one_asker": one,
        "askers_32": k100,
        "askers_32_k10": k10,
        **lags,
        "p99_under_writes_of_idle": round(quantiles(busy)["p99"] / one["p99"], 2),
        "wrong_answers": wrong,
        "resident_mb": _resident(running.pids),
    }


def spread(rounds: list[Any]) -> Any:
    """Of each figure the least, the median and the greatest of the rounds."""
    if isinstance(rounds[0], dict):
        return {name: spread([each[name] for each in rounds]) for name in rounds[0]}
    return [min(rounds), statistics.median(rounds), max(rounds)]


COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "ingest ev/s": lambda r: f"{r['ingest_per_s'][1]:,.0f}",
    "1 asker p50/p99 ms": lambda r: _pair(r["one_asker"]),
    "32 askers/s": lambda r: f"{r['askers_32']['per_s'][1]:,.0f}",
    "… k = 10": lambda r: f"{r['askers_32_k10']['per_s'][1]:,.0f}",
    "fresh p50/p99": lambda r: _pair(r["freshness"]),
    "relabel": lambda r: _pair(r["relabel"]),
    "delete": lambda r: _pair(r["delete"]),
    "p99 writing : idle": lambda r: f"{r['p99_under_writes_of_idle'][1]:.1f}",
    "wrong": lambda r: f"{r['wrong_answers'][2]:.0f}",
    "CPU s/1,000": lambda r: f"{sum(each[1] for each in r['cpu_s_per_1000'].values()):.2f}",
    "RSS MB": lambda r: f"{r['resident_mb'][1]:,.0f}",
}


def _pair(found: Mapping[str, list[float]]) -> str:
    return f"{found['p50'][1]:.1f}/{found['p99'][1]:.1f}"


def table(results: Mapping[str, Any]) -> str:
    """Markdown of the medians (of wrong answers: the most)."""
    lines = ["| system | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, found in results["systems"].items():
        lines.append(f"| {name} | " + " | ".join(show(found) for show in COLUMNS.values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, one round")
    parser.add_argument("--items", type=int, default=ITEMS, help="items learnt")
    parser.add_argument("--only", action="append", choices=ARMS, help="leave the others out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--table", type=Path, help="only show the table of such a file")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())), end="")
        return
    scale, rounds = (10, 1) if options.quick else (1, ROUNDS)
    names, items = options.only or list(ARMS), options.items // scale
    found: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(rounds):
        for index, name in enumerate(names):
            # New servers for each: what one system leaves behind costs no other anything.
            with (
                tempfile.TemporaryDirectory() as folder,
                service.servers(Path(folder)) as servers,
                ARMS[name](servers, f"arm{index}") as running,
            ):
                one = asyncio.run(measure(servers, running, items, scale))
            found[name].append(one)
            print(f"round {number + 1}, {name}: {json.dumps(one)}", flush=True)
    results = {
        "machine": machine(),
        "items": items,
        "rounds": rounds,
        "systems": {name: spread(each) for name, each in found.items()},
    }
    print(table(results), end="")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
