"""The worst case that the formula says, against what a real broker takes; configurations are generated."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from streams.config.settings import CACHE
from streams.contract.topics import Topic, declare
from streams.erasure.audit import read_configuration
from streams.erasure.bound import Bound, worst_case
from streams.erasure.log import ANSWERING, NAMING, ErasureLog
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster
from streams.local.kafka_server import KafkaServer
from tests.integration.searching import read_files
from tests.streams.test_topics import alter

pytestmark = pytest.mark.servers

SEED = 20261128
CONFIGURATIONS = 8


@dataclass
class Trial:
    """One configuration of the topics, in whose files a record was seen, and of which it is gone."""

    cluster: KafkaCluster
    log: ErasureLog
    marker: bytes
    beat: float
    bound: Bound
    received: dict[Topic, float] = field(default_factory=dict)
    seen: set[Topic] = field(default_factory=set)
    gone: set[Topic] = field(default_factory=set)
    next_beat: float = 0.0

    def begin(self) -> None:
        """Records that are to go; of those of a compacted topic the tombstone follows at once."""
        with closing(self.cluster.producer()) as producer:
            for topic in (*NAMING, *ANSWERING):
                producer.send(self.cluster.full_name(topic), self.marker, b"forgotten").get(30)
                self.received[topic] = time.monotonic()
            for topic in NAMING:
                producer.send(self.cluster.full_name(topic), None, b"forgotten").get(30)
                self.received[topic] = time.monotonic()

    def beat_now(self) -> None:
        if time.monotonic() >= self.next_beat:
            self.log.beat()
            self.next_beat = time.monotonic() + self.beat

    def look(self, folder: Path) -> bool:
        """Whether no file holds it any more. Fails where one does that should not.

        When it went between two looks nobody knows, and on a busy machine they are seconds apart.
        """
        for topic in self.received.keys() - self.gone:
            part = "log" if topic in NAMING else "answers"
            since = time.monotonic() - self.received[topic]
            held = read_files(folder, f"**/{self.cluster.full_name(topic)}-*/*")
            if any(self.marker in data for _, data in held):
                assert since <= self.bound.parts[part], f"{topic} holds it for {since} s"
                self.seen.add(topic)
            else:
                self.gone.add(topic)
        return self.gone == self.received.keys()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kafka"


@pytest.fixture
def broker(folder: Path) -> Iterator[KafkaServer]:
    numbers = random.Random(SEED)
    server = KafkaServer(
        folder,
        CACHE,
        extra_config={
            "log.cleaner.backoff.ms": str(numbers.randrange(200, 2000)),
            "log.retention.check.interval.ms": str(numbers.randrange(200, 2000)),
            "log.initial.task.delay.ms": "500",
            "log.segment.delete.delay.ms": "500",
        },
    )
    server.start()
    yield server
    server.stop()


def _configure(cluster: KafkaCluster, numbers: random.Random) -> None:
    admin.create(cluster, declare(cluster.prefix, partitions=1))
    for topic in NAMING:
        lag = numbers.randrange(500, 8000)
        alter(
            cluster.bootstrap,
            cluster.full_name(topic),
            max_compaction_lag_ms=str(lag),
            min_compaction_lag_ms=str(numbers.choice([0, numbers.randrange(lag)])),
            segment_ms=str(numbers.randrange(1000, 12_000)),
            file_delete_delay_ms=str(numbers.randrange(100, 5000)),
        )
    for topic in ANSWERING:
        alter(
            cluster.bootstrap,
            cluster.full_name(topic),
            retention_ms=str(numbers.randrange(500, 8000)),
            segment_ms=str(numbers.randrange(500, 8000)),
            file_delete_delay_ms=str(numbers.randrange(100, 5000)),
        )


def test_no_record_stays_longer_than_the_formula_says(
    broker: KafkaServer, folder: Path, redis_client: redis.Redis
) -> None:
    numbers = random.Random(SEED)
    with ExitStack() as stack:
        trials = []
        for n in range(CONFIGURATIONS):
            cluster = KafkaCluster(broker.bootstrap, f"bound-{n}-")
            _configure(cluster, numbers)
            ids = admin.topic_ids(cluster, [cluster.full_name(topic) for topic in Topic])
            log = stack.enter_context(closing(ErasureLog(cluster, ids, "vm")))
            beat = numbers.uniform(0.3, 3.0)
            read = read_configuration(cluster, redis_client, "none", pause=0.0, beat=beat)
            trials.append(Trial(cluster, log, secrets.token_bytes(64), beat, worst_case(read)))
        longest = max(trial.bound.seconds for trial in trials)
        assert longest < 90, "what is generated is to be waited for"
        for trial in trials:
            trial.begin()
            trial.look(folder)
            assert trial.seen >= {*NAMING}, "it is in the files first"
        waiting = trials
        while waiting := [trial for trial in waiting if not trial.look(folder)]:
            for trial in trials:
                trial.beat_now()
            time.sleep(0.1)
