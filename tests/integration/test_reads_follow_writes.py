"""An answer asked with `after` has seen what was written before, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streams.client import MemoryClient
from streams.contract.messages import Answer
from tests.integration.events import EMBEDDER, unit
from tests.integration.running import running

ROUNDS = 1_000
ASKERS = 8
KILLS = (300, 600)
"""Rounds at which the query worker is killed, and its replica with it, amid the questions of others."""
PATIENCE = 120


def one_round(client: MemoryClient, number: int) -> tuple[Answer, Answer, Answer]:
    """A class from a single image, its correction, its end; an answer after each."""
    image_id, vector = f"image-{number}", unit(number)
    learned = client.ingest(vector, id=image_id, label=f"class-{number}", embedder="test")
    after_ingest = client.query(
        vector, embedder="test", k=1, after=[learned.position()], timeout=PATIENCE
    )
    corrected = client.correct(image_id, f"corrected-{number}")
    after_correction = client.query(
        vector, embedder="test", k=1, after=[corrected.position()], timeout=PATIENCE
    )
    forgotten = client.forget(image=image_id)
    after_forget = client.query(
        vector, embedder="test", k=1, after=[forgotten.position()], timeout=PATIENCE
    )
    return after_ingest, after_correction, after_forget


def test_each_write_changes_the_next_answer_in_a_thousand_rounds(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("rounds"),
        workers={"ingest": 1, "correct": 1, "forget": 1, "query": 1},
        embedder=EMBEDDER,
    ) as memory:
        client = memory.client()

        def round_of(number: int) -> tuple[Answer, Answer, Answer]:
            if number in KILLS:
                os.kill(memory.pid_of("query"), signal.SIGKILL)
            return one_round(client, number)

        with ThreadPoolExecutor(ASKERS) as askers:
            rounds = list(askers.map(round_of, range(ROUNDS)))
        assert memory.restarts("query") == len(KILLS)
        for number, (learned, corrected, forgotten) in enumerate(rounds):
            assert learned.label == f"class-{number}"
            assert learned.neighbors[0].image_id == f"image-{number}"
            assert corrected.label == f"corrected-{number}"
            assert all(n.image_id != f"image-{number}" for n in forgotten.neighbors)
            assert forgotten.status in ("answered", "empty")
        assert memory.index().stats().items == 0
