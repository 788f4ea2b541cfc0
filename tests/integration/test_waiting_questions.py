"""Questions that wait for what never comes keep no other question waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest

from memory.errors import Unavailable
from memory.model.answers import Position
from streams.config.connections import kafka_cluster
from streams.contract.topics import Topic
from tests.integration.events import EMBEDDER, unit
from tests.integration.running import Running, running

pytestmark = pytest.mark.servers

AT_ONCE = 4


@pytest.fixture(scope="module")
def memory(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("waiting"),
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=f"waiting-{time.time_ns()}-",
        workers={"ingest": 1, "query": 1},
        embedder=EMBEDDER,
        partitions=1,
        questions_in_flight=AT_ONCE,
    ) as found:
        yield found


def ahead(memory: Running, topic_id: str | None = None) -> Position:
    name = kafka_cluster(memory.settings).full_name(Topic.IMAGE_INGEST)
    return Position(name, topic_id or memory.topic_ids()[name], 0, 1_000_000)


def test_others_are_answered_while_many_wait(memory: Running) -> None:
    client = memory.client()
    waiting = [
        client.ask(unit(1), embedder="test", after=[ahead(memory)], timeout=20)
        for _ in range(5 * AT_ONCE)
    ]
    client.flush()
    started = time.monotonic()
    assert client.query(unit(1), embedder="test", timeout=15).status == "empty"
    assert time.monotonic() - started < 10
    assert not any(future.done() for future in waiting)
    assert {future.result(60).status for future in waiting} == {"stale"}


def test_a_position_in_a_log_of_another_time_is_stale_at_once(memory: Running) -> None:
    client = memory.client()
    answer = client.query(
        unit(1), embedder="test", after=[ahead(memory, "another-topic-id")], timeout=60
    )
    assert answer.status == "stale"
    assert "does not read" in (answer.detail or "")


def test_a_position_in_a_partition_that_is_not_there_is_stale_at_once(memory: Running) -> None:
    client = memory.client()
    nowhere = msgspec.structs.replace(ahead(memory), partition=7)
    answer = client.query(unit(1), embedder="test", after=[nowhere], timeout=60)
    assert answer.status == "stale"
    assert "does not read" in (answer.detail or "")


def test_an_item_is_asked_for_without_a_value(memory: Running) -> None:
    """As clients write "no value"; the topic is not compacted, so it is no tombstone."""
    from kafka import KafkaProducer

    from memory.model.questions import ItemRef, Query
    from streams.contract.encoding import encode_query

    client = memory.client()
    written = client.ingest(unit(5), id="five", label="cat", embedder="test").position()
    assert client.query(item="five", after=[written]).status == "empty"
    partition, answer = client._replies.expect("no-value", 20)
    record = encode_query(
        source="test",
        event_id="no-value",
        time=time.time_ns() // 1000,
        query=Query(ItemRef("five")),
        reply_partition=partition,
        after=[],
        timeout=10,
    )
    producer = KafkaProducer(bootstrap_servers=memory.settings.kafka)
    topic = kafka_cluster(memory.settings).full_name(Topic.QUERY)
    producer.send(topic, None, record.key, list(record.headers)).get(10)
    producer.close()
    try:
        assert answer.result(30).status == "empty"
    except TimeoutError:
        raise Unavailable("no answer") from None
