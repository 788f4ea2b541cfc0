"""What a worker itself refuses to start on, before it takes any event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kafka.admin import NewPartitions

from memory.errors import Misconfigured
from memory.replica.index import ReplicatedIndex
from streams import bootstrap
from streams.config import memory_topics
from streams.config.connections import kafka_cluster
from streams.config.roles import ROLES
from streams.config.settings import Settings, load
from streams.contract.topics import Topic
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster
from tests.integration.events import EMBEDDER
from tests.integration.running import KEY
from tests.memory.test_redis_index import configured
from tests.streams.test_topics import alter
from tests.waiting import until

roles = pytest.mark.parametrize("role", ROLES)


@pytest.fixture
def settings(kafka_bootstrap: str, redis_url: str, unique: Callable[[str], str]) -> Settings:
    """Of a memory that any worker would start on."""
    name = unique("refusals")
    made = load(
        kafka=kafka_bootstrap,
        redis=redis_url,
        topic_prefix=name,
        namespace=name,
        hmac_key=KEY,
        embedder=EMBEDDER,
        partitions=2,
    )
    memory_topics.create_topics(made)
    bootstrap.worker(made, "ingest")
    return made


@pytest.fixture(autouse=True)
def _nothing_left_running(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker's process ends where it refuses to start, and its replica with it; this one goes on."""
    started: list[ReplicatedIndex] = []
    start = ReplicatedIndex.start

    def noted(index: ReplicatedIndex, *arguments: Any, **named: Any) -> None:
        started.append(index)
        start(index, *arguments, **named)

    monkeypatch.setattr(ReplicatedIndex, "start", noted)
    yield
    for index in started:
        index.stop()


def other(settings: Settings, **changes: object) -> Settings:
    return load(**{**settings.model_dump(exclude_unset=True), **changes})


def refused(settings: Settings, role: str, match: str) -> None:
    with pytest.raises(Misconfigured, match=match):
        bootstrap.worker(settings, role)


@roles
def test_a_redis_that_may_lose_what_it_confirmed(
    settings: Settings, redis_client: redis.Redis, role: str
) -> None:
    with configured(redis_client, "appendfsync", "everysec"):
        refused(settings, role, "appendfsync everysec")
    bootstrap.worker(settings, role)


@roles
def test_a_topic_that_breaks_a_promise(settings: Settings, role: str) -> None:
    """Whichever topic it is: one that its own role does not read, too."""
    name = kafka_cluster(settings).full_name(Topic.FORGET_RECEIPT)
    alter(settings.kafka, name, retention_ms="1000")
    refused(settings, role, rf"{name}: retention\.ms is 1000, wanted is -1")


@roles
def test_a_topic_of_fewer_partitions_than_the_setting_says(settings: Settings, role: str) -> None:
    refused(other(settings, partitions=3), role, "partitions are 2, wanted at least 3")


@roles
def test_answers_in_a_partition_that_it_does_not_know(settings: Settings, role: str) -> None:
    name = kafka_cluster(settings).full_name(Topic.PREDICTION)
    with KafkaCluster(settings.kafka).administration() as broker:
        broker.create_partitions({name: NewPartitions(3)})
    specs = memory_topics.topic_specs(settings)
    until(lambda: admin.check(KafkaCluster(settings.kafka), specs) != [])
    refused(settings, role, "set VISUAL_MEMORY_PARTITIONS to 3")


@roles
def test_a_memory_of_another_law(settings: Settings, redis_client: redis.Redis, role: str) -> None:
    redis_client.hset(f"{settings.namespace}:meta", "law", "2")
    refused(settings, role, "law = 2")


@roles
def test_another_key_than_the_memory_was_made_with(settings: Settings, role: str) -> None:
    refused(other(settings, hmac_key="ab" * 32), role, "hmac_key_id")


@pytest.mark.parametrize("role", ["ingest", "query"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"embedder": "vectors:other:24"}, "embedder = test"),
        ({"embedder": "vectors:test:25"}, "dim = 24"),
        ({"index_algorithm": "HNSW"}, "algorithm = FLAT"),
        ({"index_dtype": "FLOAT32"}, "dtype = FLOAT16"),
    ],
)
def test_another_embedder_or_index_than_the_memory_was_made_with(
    settings: Settings, role: str, changes: dict[str, str], named: str
) -> None:
    refused(other(settings, **changes), role, named)


@pytest.mark.parametrize("role", ["correct", "forget"])
def test_a_memory_that_is_not_there_yet_where_it_cannot_make_it(
    settings: Settings, role: str
) -> None:
    refused(other(settings, namespace=f"{settings.namespace}none"), role, "there is no memory")


@roles
def test_facts_of_forgetting_that_the_log_has_lost(
    settings: Settings, redis_client: redis.Redis, role: str
) -> None:
    """Its positions are ahead of the topic, as with a Kafka restored from an older copy."""
    topic = kafka_cluster(settings).full_name(Topic.FENCES)
    topic_id = memory_topics.known_topic_ids(settings)[topic]
    store: Any = redis_client
    store.hset(f"{settings.namespace}:1:pos", f"{topic_id}:0", 5)
    refused(settings, role, rf"{topic}\[0\] ends at 0, .*read up to 5: .*restore the topic")
