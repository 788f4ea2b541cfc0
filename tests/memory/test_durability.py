"""What an answer showed, and what it claimed to rest on, survives a kill of Redis at that moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from memory.embedders import VectorsOnly
from memory.errors import Unavailable
from memory.model.answers import Prediction
from memory.model.events import Forget, Ingest, LogPartition, Selector, SelectorKind, VectorPayload
from memory.model.questions import Probe, Query
from memory.model.times import make_stamp
from memory.redis.connection import connect
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.config.settings import CACHE
from streams.local.redis_server import RedisServer

pytestmark = pytest.mark.servers

KILLS = 20
DIM = 8
BATCH = 4
TOPIC = {"topic-id": "image-ingest"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, CACHE) as made:
        yield made


@dataclass
class Client:
    """Teaches, asks and makes forget; keeps what it was told last."""

    memory: VisualMemory
    written: int = 0
    shown: set[str] = field(default_factory=set)
    merged: int = 0
    forgotten: set[str] = field(default_factory=set)

    def go_on(self) -> None:
        first = self.written
        self.written += BATCH
        self.memory.remember([event(n) for n in range(first, self.written)])
        self.memory.index.advance({LogPartition("topic-id", 0): self.written})
        shown, merged = self.ask()
        self.shown, self.merged = shown, merged
        if first % 3 == 0:
            self.shown.discard(name(first))  # from here on it may be gone
            self.memory.forget(
                Forget(f"request-{first}", Selector(SelectorKind.IMAGE, name(first)), first)
            )
            self.forgotten.add(name(first))

    def ask(self) -> tuple[set[str], int]:
        """What is visible, and how far an answer says that the memory has come."""
        vector = np.ones(DIM, "f4")
        (answer,) = self.memory.recall([Query(VectorPayload(vector, "test"))])
        assert isinstance(answer, Prediction)
        (found,) = self.memory.index.search([Probe(vector, 4096)])
        merged = max((at.offset for at in answer.as_of), default=0)
        return {hit.image_id for hit in found.hits}, merged

    def ask_again(self) -> tuple[set[str], int]:
        """As `ask`, once the index has read all that Redis holds."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.ask()
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def go_on_until_killed(self) -> None:
        while True:
            self.go_on()


def name(number: int) -> str:
    return f"image-{number}"


def event(number: int) -> Ingest:
    vector = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
    return Ingest(
        stamp=make_stamp(number, name(number)),
        image_id=name(number),
        label="a",
        source="camera",
        payload=VectorPayload(vector, "test"),
        payload_digest=name(number),
    )


def opened(server: RedisServer) -> VisualMemory:
    index = RedisIndex.open(
        connect(server.url), namespace="vm", hmac_key=bytes(32), embedder=VectorsOnly("test", DIM)
    )
    index.check_durability()
    return VisualMemory(index, None, clock_skew=0, logs=TOPIC)


def test_what_an_answer_showed_survives_a_kill_of_redis_at_that_moment(
    server: RedisServer,
) -> None:
    rng = random.Random(1)
    client = Client(opened(server))
    for _ in range(KILLS):
        killer = threading.Timer(rng.uniform(0.005, 0.1), server.kill)
        killer.start()
        with pytest.raises(Unavailable):
            client.go_on_until_killed()
        killer.join()
        server.start()
        shown, merged = client.ask_again()
        assert client.shown <= shown, f"told and lost: {sorted(client.shown - shown)}"
        assert client.merged <= merged
        assert not client.forgotten & shown
    assert client.written > KILLS * BATCH
