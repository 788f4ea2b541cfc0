"""What the monitor measures: sizes of an index, lag and ages of a real log."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

import pytest
from kafka import TopicPartition
from prometheus_client import REGISTRY

from memory.errors import Misconfigured, Unavailable
from memory.exact.index import ExactIndex
from memory.model.events import LogPartition
from memory.model.logs import Cut
from memory.model.state import Stats
from streams.client import MemoryClient
from streams.contract import topics
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster, Security
from streams.kafka.log_times import PRECISION_MS, written_at
from streams.workers import monitor as monitor_module
from streams.workers.monitor import Lag, Monitor

PARTITIONS = 2
IMPATIENT: Security = MappingProxyType({"bootstrap_timeout_ms": 500})


class Index(ExactIndex):
    """An index in memory that can be away, and whose store may have a limit."""

    away = False
    limit = 0

    def __init__(self) -> None:
        super().__init__(embedder="test", dim=2, hmac_key=bytes(32))

    def stats(self) -> Stats:
        if self.away:
            raise Unavailable("Redis: ConnectionError")
        return Stats(items=5, waiting_corrections=2, barriers=1, bytes=900, bytes_limit=self.limit)


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def prefix(kafka_bootstrap: str, unique: Callable[[str], str]) -> str:
    prefix = unique("monitor")
    admin.create(KafkaCluster(kafka_bootstrap), topics.declare(prefix, partitions=PARTITIONS))
    return prefix


@pytest.fixture
def client(kafka_bootstrap: str, prefix: str) -> Iterator[MemoryClient]:
    with MemoryClient(kafka_bootstrap, source="tests", prefix=prefix) as client:
        yield client


def ids(bootstrap: str, prefix: str) -> dict[str, str]:
    names = [prefix + topic for topic in (Topic.LABEL_CORRECTION, Topic.FORGET_REQUEST)]
    return admin.topic_ids(KafkaCluster(bootstrap), names)


@pytest.fixture
def monitor(kafka_bootstrap: str, prefix: str, index: Index) -> Iterator[Monitor]:
    made = Monitor(
        index,
        KafkaCluster(kafka_bootstrap),
        ids(kafka_bootstrap, prefix),
        labels=["cat"],
        forgets=prefix + Topic.FORGET_REQUEST,
    )
    yield made
    made.close()


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"visual_memory_{name}", labels)


@pytest.mark.parametrize(
    ("position", "end", "records"), [(0, 0, 0), (0, 7, 7), (4, 7, 3), (7, 7, 0), (9, 7, 0)]
)
def test_lag_is_what_lies_between_the_position_and_the_end_and_never_below_zero(
    position: int, end: int, records: int
) -> None:
    """A log made anew ends before the position that an old one left."""
    assert Lag("topic", 0, position, end).records == records


def test_lag_falls_by_what_is_merged_partition_by_partition(
    kafka_bootstrap: str, prefix: str, client: MemoryClient, monitor: Monitor, index: Index
) -> None:
    name = prefix + Topic.LABEL_CORRECTION
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for n in range(10):
        ends[client.correct(f"i{n}", "cat").position().partition] += 1
    lags = {lag.partition: lag for lag in monitor.lag() if lag.topic == name}
    assert {p: lag.end for p, lag in lags.items()} == ends
    assert {p: lag.records for p, lag in lags.items()} == ends
    index.advance({LogPartition(ids(kafka_bootstrap, prefix)[name], 0): ends[0] - 1})
    lags = {lag.partition: lag for lag in monitor.lag() if lag.topic == name}
    assert (lags[0].position, lags[0].records) == (ends[0] - 1, 1)
    assert lags[1].records == ends[1]


def test_positions_in_a_topic_of_the_same_name_that_was_deleted_do_not_count(
    prefix: str, client: MemoryClient, monitor: Monitor, index: Index
) -> None:
    written = client.correct("i", "cat").position()
    index.advance({LogPartition("the-id-of-the-deleted-one", written.partition): 1})
    assert sum(lag.records for lag in monitor.lag()) == 1


def test_a_measurement_sets_every_gauge(monitor: Monitor, prefix: str, index: Index) -> None:
    index.limit = 1000
    before = time.time()
    monitor.measure()
    assert value("items") == 5
    assert value("waiting_corrections") == 2
    assert (value("bytes"), value("bytes_limit")) == (900, 1000)
    assert value("label_items", label="cat") == 0
    assert value("lag", topic=prefix + Topic.LABEL_CORRECTION, partition="1") == 0
    assert (value("open_forgets"), value("oldest_open_forget_seconds")) == (0, 0)
    for what in ("sizes", "lag", "forgets"):
        measured = value("measured_timestamp_seconds", what=what)
        assert measured is not None
        assert before <= measured <= time.time()


def test_cuts_of_a_log_are_counted_by_topic(
    kafka_bootstrap: str, prefix: str, monitor: Monitor, index: Index
) -> None:
    name = prefix + Topic.LABEL_CORRECTION
    topic_id = ids(kafka_bootstrap, prefix)[name]
    index.rewind(LogPartition(topic_id, 0), Cut(3, 5))
    index.rewind(LogPartition(topic_id, 1), Cut(4, 5))
    index.rewind(LogPartition("the-id-of-the-deleted-one", 0), Cut(3, 5))
    monitor.measure()
    assert value("log_cuts", topic=name) == 2
    assert value("log_cuts", topic=prefix + Topic.FORGET_REQUEST) == 0


def test_what_can_be_measured_stays_new_while_kafka_is_away(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor.measure()
    first = {w: value("measured_timestamp_seconds", what=w) for w in ("sizes", "lag", "forgets")}

    def away() -> list[Lag]:
        raise Unavailable("Kafka: KafkaTimeoutError")

    monkeypatch.setattr(monitor, "lag", away)
    with pytest.raises(Unavailable):
        monitor.measure()
    now = {w: value("measured_timestamp_seconds", what=w) for w in first}
    assert {w for w in first if now[w] != first[w]} == {"sizes"}


def test_a_server_that_hangs_makes_the_monitor_unready_until_it_answers_again(
    monitor: Monitor, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(monitor_module, "STALE_SECONDS", 0.3)
    hung = threading.Event()
    hung.set()
    stats = index.stats

    def hang() -> Stats:
        hung.wait(20)
        return stats()

    monkeypatch.setattr(index, "stats", hang)

    async def story() -> list[str]:
        with running(monitor):
            await becomes(monitor, lambda reasons: not reasons)
            began = time.monotonic()
            hung.clear()
            found = await becomes(monitor, bool)
            await asyncio.sleep(2)
            hung.set()
            hung_for = time.monotonic() - began
            await becomes(monitor, lambda reasons: not reasons)
            measured = value("measured_timestamp_seconds", what="forgets")
            async with asyncio.timeout(5 * hung_for):  # not twenty times
                while value("measured_timestamp_seconds", what="forgets") == measured:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            return found

    (reason,) = asyncio.run(story())
    assert "does not answer" in reason


def test_the_oldest_open_forget_is_as_old_as_the_request_that_was_taken_up_first(
    monitor: Monitor, index: Index
) -> None:
    now = time.time_ns() // 1000
    index.open_request(index.request_key("old"), now - 60_000_000)
    index.open_request(index.request_key("older"), now - 90_000_000)
    assert monitor.oldest_open_forget([]) == pytest.approx(90, abs=20)
    index.close_request(index.request_key("older"), now)
    assert monitor.oldest_open_forget([]) == pytest.approx(60, abs=20)


def test_a_request_from_a_clock_that_is_ahead_is_not_younger_than_new(
    monitor: Monitor, index: Index
) -> None:
    index.open_request(index.request_key("ahead"), time.time_ns() // 1000 + 60_000_000)
    assert monitor.oldest_open_forget([]) == 0


def test_a_forget_request_that_waits_in_the_log_is_open_until_it_is_merged(
    kafka_bootstrap: str, prefix: str, client: MemoryClient, monitor: Monitor, index: Index
) -> None:
    before = time.time()
    written = client.forget(image="i").position()
    time.sleep(1)
    client.forget(image="j").position()
    age = monitor.oldest_open_forget(monitor.lag())
    assert 0.9 <= age <= time.time() - before + 0.1
    for partition in range(PARTITIONS):
        index.advance({LogPartition(written.topic_id, partition): 2})
    assert monitor.oldest_open_forget(monitor.lag()) == 0


def test_the_time_of_a_record_is_found_without_reading_it(
    kafka_bootstrap: str, prefix: str, client: MemoryClient
) -> None:
    written: dict[tuple[TopicPartition, int], tuple[float, float]] = {}
    for n in range(6):
        before = 1000 * time.time()
        said = client.correct(f"i{n}", "cat").position()
        place = TopicPartition(said.topic, said.partition)
        written[place, said.offset] = (before, 1000 * time.time())
        time.sleep(0.3)
    empty = TopicPartition(prefix + Topic.FORGET_REQUEST, 0)
    asking = KafkaCluster(kafka_bootstrap).consumer()
    try:
        for (place, offset), (before, after) in written.items():
            found = written_at(asking, {place: offset, empty: 0})
            assert set(found) == {place}
            assert before - 2 <= found[place] <= after + PRECISION_MS
        assert written_at(asking, {}) == {}
    finally:
        asking.close()


def test_a_kafka_that_does_not_answer_is_told_as_such(index: Index) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        lost = Monitor(index, KafkaCluster(address, security=IMPATIENT), {"topic": "id"})
        with pytest.raises(Unavailable, match="Kafka"):
            lost.lag()
        lost.close()


@contextmanager
def running(monitor: Monitor) -> Iterator[asyncio.Task[None]]:
    task = asyncio.get_running_loop().create_task(monitor.run())
    try:
        yield task
    finally:
        task.cancel()


async def becomes(monitor: Monitor, wanted: Callable[[list[str]], Any]) -> list[str]:
    async with asyncio.timeout(20):
        while not wanted(found := await monitor.ready()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    return found


def test_a_monitor_is_not_ready_before_it_has_measured(monitor: Monitor) -> None:
    assert asyncio.run(monitor.ready()) == ["nothing is measured yet"]


def test_a_monitor_goes_on_after_a_server_was_away(
    monitor: Monitor, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "INTERVAL_SECONDS", 0.01)

    async def story() -> list[str]:
        with running(monitor):
            await becomes(monitor, lambda reasons: not reasons)
            index.away = True
            found = await becomes(monitor, bool)
            index.away = False
            await becomes(monitor, lambda reasons: not reasons)
            return found

    assert asyncio.run(story()) == ["Redis: ConnectionError"]


def test_after_a_long_wait_for_a_server_the_monitor_looks_again_soon(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's client waits for half a minute; twenty times that would be ten minutes."""
    pauses: list[float] = []

    def measure() -> Stats:
        time.sleep(0.2)
        raise Unavailable("Kafka: KafkaTimeoutError")

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(monitor, "measure", measure)
    monkeypatch.setattr(asyncio, "sleep", pause)
    with suppress(asyncio.CancelledError):
        asyncio.run(monitor.run())
    assert pauses == [monitor_module.INTERVAL_SECONDS]


def test_what_only_an_operator_can_mend_ends_the_monitor(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> Stats:
        raise Misconfigured("Redis refuses this user")

    monkeypatch.setattr(monitor, "measure", measure)
    with pytest.raises(Misconfigured):
        asyncio.run(monitor.run())
