"""What each part of an answer costs a query worker: the same calls without Kafka, Redis or Faust, in one process.

python -m benchmarks.parts [--items 20000] [--k 100] [--together 16] [--rounds 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import machine
from benchmarks.service import DIM, EMBEDDER, vectors
from memory.decision.influence import deciding
from memory.decision.voting import tally, vote_of
from memory.model.answers import Position, Prediction
from memory.model.events import VectorPayload
from memory.model.keys import ImageKey
from memory.model.questions import Probe, Query, Rule
from memory.model.times import now_us
from memory.replica.rows import Rows, Shown
from streams.config.settings import prepare_process
from streams.contract.encoding import encode_prediction, encode_query
from streams.contract.messages import Answer
from streams.contract.questions import decode_query
from streams.contract.records import Record

SEARCH, CHOICE = "search after the scan", "choice, distances"


class Stopwatch:
    """CPU seconds of this process by part, the least that a round took."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.rounds[part].append(time.process_time() - started)

    def least(self) -> dict[str, float]:
        return {part: min(seconds) for part, seconds in self.rounds.items()}


def filled(items: int) -> Rows:
    rows = Rows(DIM, np.dtype(np.float16), 1 << 33)
    told = [Shown(ImageKey(f"{n:064x}"), f"i{n}", f"l{n % 100}") for n in range(items)]
    rows.put(told, np.array(vectors(items), np.float16))
    return rows


def questions(count: int, k: int, seed: int) -> list[Record]:
    """As a client sends them."""
    found = []
    for n, vector in enumerate(vectors(count, seed)):
        query = Query(VectorPayload(vector, EMBEDDER), k=k)
        said: dict[str, Any] = {"source": "bench", "event_id": f"q{n}", "time": now_us()}
        sent = encode_query(**said, query=query, reply_partition=0)
        found.append(Record("query", 0, n, sent.key, sent.value, tuple(sent.headers), now_us()))
    return found


def answered(rows: Rows, asked: list[Record], k: int, watch: Stopwatch) -> None:
    """As `QueryAgent` does it, a part after the other for all of them."""
    with watch("decode the question"):
        events: list[Any] = [decode_query(record, partitions=1) for record in asked]
    probes = [Probe(event.query.payload.vector, k + 1) for event in events]
    with watch("scan all rows"):
        scan = rows.scan(probes)
    assert scan is not None
    assert len(scan) == len(probes)
    ks = [k + 1] * len(probes)
    without: list[list[int]] = [[]] * len(probes)
    # To ask a scan uses it up, so that the parts of a search need one of their own.
    again = rows.scan(probes)
    assert again is not None
    with watch(CHOICE):
        list(again.nearest(ks, without))
    with watch(SEARCH):
        results = rows.nearest(probes, scan)
    with watch("vote"):
        says = [tally(found.hits, Rule.RANK, k=k) for found in results]
        votes = [vote_of(s, f.hits, Rule.RANK) for s, f in zip(says, results, strict=True)]
    with watch("who decided"):
        for s, vote in zip(says, votes, strict=True):
            deciding(s, vote.label or "")
    as_of = tuple(Position(topic, "an-id-of-a-topic", 0, 1) for topic in ("a", "b", "c"))
    with watch("encode the answer"):
        for event, vote in zip(events, votes, strict=True):
            said = Prediction(vote, Rule.RANK, k, True, EMBEDDER, as_of, {"vote": 0.001})
            encode_prediction(Answer.of(event.query_id, said), 0)


def measured(items: int, k: int, together: int, rounds: int) -> dict[str, float]:
    """CPU microseconds a question by part, of so many questions at once."""
    rows, watch = filled(items), Stopwatch()
    for n in range(rounds):
        answered(rows, questions(together, k, seed=1 + n), k, watch)
    found = {part: 1e6 * least / together for part, least in watch.least().items()}
    found["hits"] = found.pop(SEARCH) - found[CHOICE]
    found["all"] = sum(found.values())
    return {part: round(us, 1) for part, us in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--together", type=int, default=16, help="questions searched together")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    prepare_process()
    given = (options.items, options.k, options.together, options.rounds)
    results: dict[str, Any] = {"machine": machine(), "us_a_question": measured(*given)}
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
