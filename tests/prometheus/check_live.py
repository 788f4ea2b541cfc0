"""Every panel has data and every alert fires and clears, over real workers and a real Prometheus.

Not in `make test`, for it needs Prometheus: `make test-prometheus`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from memory.model.keys import RequestKey
from memory.model.logs import Cut
from memory.model.vectors import Vector
from memory.redis.connection import connect
from streams.client import MemoryClient
from streams.config.connections import kafka_cluster
from streams.config.settings import CACHE
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from streams.local.state import read_state
from tests.integration.running import SIGNING_KEY, Running, running
from tests.integration.test_bad_input import png
from tests.integration.test_batches import damage
from tests.prometheus.files import Panel, alerts, panels
from tests.prometheus.server import PrometheusServer

ROLES = ("ingest", "correct", "forget", "query")
PANELS = list(panels())
PATIENCE = 90.0
LIMIT_SECONDS = 45
"""Of erasing, which takes about 25 s at worst here."""
ROUNDS = 6
MARKED = "broken-marked-image"

MAY_BE_ZERO = {
    "memory: Open forget-requests": "each is carried out between two looks of the monitor",
    "memory: Oldest open forget-request": "as above",
    "workers: Lag": "the workers keep up with this small load",
    "workers: Unreadable partitions": "every batch can be read",
    "workers: Log cuts": "no log is cut",
    "memory: Lag now": "as the lag by topic",
    "memory: Oldest open forget": "as above",
    "memory: Suspects": "a few images, each of a vector of its own",
    "memory: Unreliable images": "as above",
    "memory: Pruned images": "nobody pruned any",
    "memory: Kept for good": "nothing is",
    "memory: Answers with pruning": "no question asked for it",
    "memory: Shared ids": "all images come from one source",
}


@dataclass
class Watched:
    """A memory that a Prometheus watches."""

    memory: Running
    client: MemoryClient
    prometheus: PrometheusServer
    redis: RedisServer
    kafka: Path
    embedder: str
    dim: int

    def vector(self, seed: int) -> Vector:
        vector = np.random.default_rng(seed).normal(size=self.dim)
        found: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        return found

    def learn(self, number: int, label: str = "cat") -> None:
        self.client.ingest(
            self.vector(number), id=f"image-{number}", label=label, embedder=self.embedder
        ).position()

    @contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """A worker that hangs."""
        state = read_state(self.memory.folder)
        assert state is not None
        pid = state["children"][role]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def redis_away(self) -> Iterator[None]:
        self.redis.stop()
        try:
            yield
        finally:
            self.redis.start()


def live(watched: Watched) -> None:
    """A little of everything that a memory meets, each more than once.

    A rate needs two scrapes, and the second must have seen more than the first.
    """
    for number in range(ROUNDS):
        one_round(watched, number)
        time.sleep(1)
    with watched.redis_away():
        watched.client.ingest(watched.vector(0), id="away", label="dog", embedder=watched.embedder)
        time.sleep(4)
    watched.memory.wait_until_merged()


def one_round(watched: Watched, number: int) -> None:
    client, embedder = watched.client, watched.embedder
    for image in range(3 * number, 3 * number + 3):
        watched.learn(image, "cat" if image % 2 else "dog")
    client.ingest(png(), id=f"drawing-{number}", label="cat").position()
    client.ingest(b"no image", id="bad", label="cat").position()
    client.correct(f"image-{3 * number}", "lynx").position()
    client.correct(f"not-come-yet-{number}", "lynx").position()
    forgotten, vector = f"image-{3 * number + 1}", watched.vector(3 * number + 1)
    before = time.time_ns() // 1000
    client.receipt(client.forget(image=forgotten))
    client.ingest(vector, id=forgotten, label="cat", embedder=embedder, time=before).position()
    client.query(vector, embedder=embedder, k=1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with (
        KafkaServer(folder / "kafka", CACHE) as kafka,
        RedisServer(folder / "redis", CACHE, extra_config={"maxmemory": "1gb"}) as redis,
        running(
            folder / "workers",
            kafka=kafka.bootstrap,
            redis_url=redis.url,
            name=f"watched-{time.time_ns()}-",
            workers=dict.fromkeys((*ROLES, "erase", "monitor"), 1),
            environment={"VISUAL_MEMORY_METRIC_LABELS": "cat,dog"},
            signing_key=SIGNING_KEY,
            compaction_lag=3,
            answers_kept=4,
            erasure_pause=1,
            erasure_limit=LIMIT_SECONDS,
        ) as memory,
    ):
        prometheus = PrometheusServer(folder, memory.ports)
        with prometheus.process:
            index = memory.index()
            found = Watched(
                memory,
                memory.client(),
                prometheus,
                redis,
                folder / "kafka",
                index.embedder,
                index.dim,
            )
            assert _within(30, lambda: prometheus.up() == len(memory.ports))
            live(found)
            yield found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_a_panel_has_data(watched: Watched, panel: Panel) -> None:
    """Numbers, and others than zero, which a rate of something that never moves would give."""
    for expression in panel.expressions:
        numbers = [
            number for series in watched.prometheus.series(expression).values() for number in series
        ]
        assert numbers, expression
        assert any(numbers) or panel.name in MAY_BE_ZERO, expression


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


@contextmanager
def worker_hangs(watched: Watched) -> Iterator[None]:
    with watched.stopped("query"):
        yield


@contextmanager
def monitor_hangs(watched: Watched) -> Iterator[None]:
    with watched.stopped("monitor"):
        yield


@contextmanager
def eraser_hangs(watched: Watched) -> Iterator[None]:
    with watched.stopped("erase"):
        yield


@contextmanager
def a_copy_is_not_followed(watched: Watched) -> Iterator[None]:
    """As of a query worker that hangs: its report stands, and gets old."""
    index = watched.memory.index()
    client, key = watched.memory.stores[-1], index.names.copy("hangs")
    client.set(key, 1)
    watched.client.receipt(watched.client.forget(image="nobody"))
    try:
        yield
    finally:
        client.delete(key)


@contextmanager
def the_cleaner_comes_seldom(watched: Watched) -> Iterator[None]:
    with cleaner_backoff(watched, 600_000):
        yield


@contextmanager
def cleaner_backoff(watched: Watched, milliseconds: int) -> Iterator[None]:
    """A setting of the broker, which takes effect at once."""

    def alter(value: int) -> None:
        with kafka_cluster(watched.memory.settings).administration() as admin:
            told = {"log.cleaner.backoff.ms": str(value)}
            admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", told)])

    alter(milliseconds)
    try:
        yield
    finally:
        alter(5000)


@contextmanager
def role_hangs(watched: Watched) -> Iterator[None]:
    with watched.stopped("correct"):
        yield


@contextmanager
def lag_grows(watched: Watched) -> Iterator[None]:
    with watched.stopped("ingest"):
        for number in range(1_500):
            watched.client.ingest(
                watched.vector(number), id=f"many-{number}", label="dog", embedder=watched.embedder
            )
        watched.client.flush()
        yield


@contextmanager
def events_come_late(watched: Watched) -> Iterator[None]:
    minute_ago = time.time_ns() // 1000 - 60_000_000
    for number in range(20):
        watched.client.ingest(
            watched.vector(number),
            id=f"late-{number}",
            label="dog",
            embedder=watched.embedder,
            time=minute_ago,
        )
        watched.client.flush()
    yield


@contextmanager
def questions_wait(watched: Watched) -> Iterator[None]:
    written = watched.client.correct("image-3", "lynx").position()
    never = msgspec.structs.replace(written, offset=written.offset + 1_000_000)
    answer = watched.client.query(
        watched.vector(3), embedder=watched.embedder, after=[never], timeout=3
    )
    assert answer.status == "stale"
    yield


@contextmanager
def rubbish_comes(watched: Watched) -> Iterator[None]:
    for number in range(20):
        watched.client.ingest(b"no image", id=f"rubbish-{number}", label="cat")
        watched.client.flush()
    yield


@contextmanager
def forgetting_stops_half_way(watched: Watched) -> Iterator[None]:
    """As a worker leaves it that ends between the fence and the receipt, long ago."""
    index = watched.memory.index()
    index.open_request(RequestKey("half-done"), time.time_ns() // 1000 - 1_000_000_000)
    yield
    index.close_request(RequestKey("half-done"), time.time_ns() // 1000)


@contextmanager
def nothing_can_be_measured(watched: Watched) -> Iterator[None]:
    with watched.redis_away():
        yield


@contextmanager
def store_fills(watched: Watched) -> Iterator[None]:
    store = connect(watched.redis.url)
    used = watched.memory.index().stats().bytes
    store.config_set("maxmemory", round(used / 0.95))
    try:
        yield
    finally:
        store.config_set("maxmemory", "1gb")
        store.close()


@contextmanager
def redis_is_away(watched: Watched) -> Iterator[None]:
    with watched.redis_away():
        watched.client.correct("image-4", "lynx").position()
        yield


@contextmanager
def a_batch_is_broken(watched: Watched) -> Iterator[None]:
    """And whole again, as when somebody has restored it."""
    with watched.stopped("ingest"):
        image = watched.client.ingest(
            watched.vector(1), id=MARKED, label="dog", embedder=watched.embedder
        )
        image.position()
        damage(watched.kafka, MARKED.encode())
    yield
    damage(watched.kafka, MARKED.encode())


@contextmanager
def a_log_is_cut(watched: Watched) -> Iterator[None]:
    """As a worker notes it that finds a cut."""
    written = watched.client.correct("image-3", "lynx").position()
    watched.memory.wait_until_merged()
    place = written.log_partition
    offset = watched.memory.index().positions()[place]
    watched.memory.index().rewind(place, Cut(offset, time.time_ns() // 1000))
    yield


TROUBLE: dict[str, tuple[Callable[[Watched], AbstractContextManager[None]], str | None]] = {
    "VisualMemoryWorkerDown": (worker_hangs, "query"),
    "VisualMemoryMonitorDown": (monitor_hangs, None),
    "VisualMemoryMonitorStale": (nothing_can_be_measured, None),
    "VisualMemoryStoreAlmostFull": (store_fills, None),
    "VisualMemoryRoleWithoutPartitions": (role_hangs, "correct"),
    "VisualMemoryLagGrows": (lag_grows, "image-ingest"),
    "VisualMemoryFreshnessHigh": (events_come_late, "ingest"),
    "VisualMemoryQueriesSlow": (questions_wait, None),
    "VisualMemoryRejectedHigh": (rubbish_comes, "ingest"),
    "VisualMemoryForgetWaits": (forgetting_stops_half_way, None),
    "VisualMemoryEraserDown": (eraser_hangs, None),
    "VisualMemoryErasureOverdue": (a_copy_is_not_followed, None),
    "VisualMemoryErasureUnbounded": (the_cleaner_comes_seldom, None),
    "VisualMemoryRetries": (redis_is_away, "correct"),
    "VisualMemoryBatchUnreadable": (a_batch_is_broken, "image-ingest"),
    "VisualMemoryLogCut": (a_log_is_cut, "label-correction"),
}


@pytest.mark.parametrize("name", alerts())
def test_an_alert_fires_in_its_trouble_and_clears_after_it(watched: Watched, name: str) -> None:
    trouble, where = TROUBLE[name]

    def fires() -> bool:
        return any(
            alert == name and (where is None or any(v.endswith(where) for v in values))
            for alert, *values in watched.prometheus.firing()
        )

    assert _within(PATIENCE, lambda: not fires())
    with trouble(watched):
        assert _within(PATIENCE, fires)
    assert _within(PATIENCE, lambda: not fires())


def test_every_rule_can_be_evaluated(watched: Watched) -> None:
    assert _within(10, lambda: not watched.prometheus.unhealthy_rules())
    assert watched.prometheus.unhealthy_rules() == []
