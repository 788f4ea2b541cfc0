"""A Kafka restored from an older copy under a newer Redis: nothing is passed over in silence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from memory.errors import Misconfigured
from memory.model.answers import Position
from memory.model.forgetting import Barrier, ClosedRequest, FenceFact, Posting
from memory.redis import scan
from streams import bootstrap
from streams.client import MemoryClient
from streams.config.connections import kafka_cluster
from streams.config.settings import CACHE
from streams.contract.topics import Topic
from streams.kafka.fence_log import replay, retell
from streams.local.kafka_server import KafkaServer
from streams.local.redis_server import RedisServer
from tests.integration.events import EMBEDDER, unit
from tests.integration.running import Running, running
from tests.waiting import until

pytestmark = pytest.mark.servers


class Ground:
    """A Kafka whose folder can be set back to a copy of it, and a Redis that lives on."""

    def __init__(self, folder: Path, kafka: KafkaServer, store: RedisServer) -> None:
        self._folder = folder
        self._data, self._copy = folder / "kafka" / "data", folder / "copy"
        self.kafka = kafka
        self._store = store
        self._runs = 0

    def workers(self, **roles: int) -> AbstractContextManager[Running]:
        self._runs += 1
        return running(
            self._folder / f"workers-{self._runs}",
            kafka=self.kafka.bootstrap,
            redis_url=self._store.url,
            name="cut-",
            workers=roles,
            embedder=EMBEDDER,
            partitions=1,
        )

    def copy(self) -> None:
        self.kafka.stop()
        shutil.copytree(self._data, self._copy)
        self.kafka.start()

    def restore(self) -> None:
        self.kafka.stop()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        self.kafka.start()


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with (
        KafkaServer(tmp_path / "kafka", CACHE) as kafka,
        RedisServer(tmp_path / "redis", CACHE) as store,
    ):
        yield Ground(tmp_path, kafka, store)


def teach(client: MemoryClient, name: str, count: int) -> Position:
    """Write so many images; where the last of them is."""
    sent = [
        client.ingest(unit(n), id=f"{name}-{n}", label=name, embedder="test") for n in range(count)
    ]
    return [each.position() for each in sent][-1]


def teach_around_a_copy(ground: Ground, memory: Running) -> Position:
    """Twenty images before Kafka is copied, and twenty after; where the last of these is."""
    with closing(memory.client()) as client:
        teach(client, "kept", 20)
    memory.wait_until_merged()
    ground.copy()
    with closing(memory.client()) as client:
        lost = teach(client, "lost", 20)
    memory.wait_until_merged()
    return lost


def shown(memory: Running) -> dict[str, int]:
    return dict(memory.index().label_counts())


@pytest.mark.parametrize("grown", [60, 0], ids=["grown past", "shorter"])
def test_a_log_set_back_while_workers_are_away_is_read_again_from_the_cut(
    ground: Ground, grown: int
) -> None:
    with ground.workers(ingest=1) as memory:
        lost = teach_around_a_copy(ground, memory)
    ground.restore()
    with closing(bootstrap.client(memory.settings, "test")) as client:
        if grown:
            teach(client, "new", grown)
        with ground.workers(ingest=1, query=1) as memory:
            new = teach(client, "newer", 5)
            memory.wait_until_merged()
            assert shown(memory) == {"kept": 20, "lost": 20, "newer": 5} | (
                {"new": grown} if grown else {}
            )
            ((cut,),) = memory.index().cuts().values()
            assert cut.offset == 20
            assert "image-ingest[0] is not the log that was read up to 40" in memory.logs()
            assert client.query(unit(1), embedder="test", after=[new]).status == "answered"
            answer = client.query(unit(1), embedder="test", after=[lost])
            assert answer.status == "stale"
            assert "send again what was written there" in str(answer.detail)


def test_a_log_set_back_under_running_workers_is_read_again_from_the_cut(ground: Ground) -> None:
    with ground.workers(ingest=1) as memory:
        teach_around_a_copy(ground, memory)
        ground.restore()
        with closing(memory.client()) as client:
            teach(client, "new", 60)
        # Its lag may be nothing before it has found the cut.
        until(lambda: shown(memory) == {"kept": 20, "lost": 20, "new": 60}, 60, what=memory.logs)
        # What the log holds now may all be read before that, from its start.
        until(
            lambda: [cut.offset for (cut,) in memory.index().cuts().values()] == [20],
            60,
            what=memory.logs,
        )
        memory.wait_until_merged()


def test_facts_of_forgetting_that_the_log_has_lost_keep_workers_from_starting(
    ground: Ground,
) -> None:
    with ground.workers(ingest=1, forget=1) as memory:
        with closing(memory.client()) as client:
            teach(client, "kept", 3)
            client.receipt(client.forget(image="kept-0"))
            memory.wait_until_merged()
            ground.copy()
        with closing(memory.client()) as client:
            client.receipt(client.forget(image="kept-1"))
    ground.restore()
    topic_ids = memory.topic_ids()
    with closing(bootstrap.redis_client(memory.settings)) as store:
        index = bootstrap.open_index(memory.settings, store)
        opened = bootstrap.open_memory(memory.settings, index, None, topic_ids)
        refused = r"fences\[0\] .*was cut at \d+, and facts of forgetting are lost"
        with pytest.raises(Misconfigured, match=refused):
            bootstrap.catch_up_on_fences(memory.settings, opened, topic_ids)
        cluster = kafka_cluster(memory.settings)
        with closing(cluster.producer()) as producer:
            for n in range(20):  # it is longer now than what was read of it
                producer.send(cluster.full_name(Topic.FENCES), None, b"%d" % n).get(10)
        with pytest.raises(Misconfigured, match=refused):
            bootstrap.catch_up_on_fences(memory.settings, opened, topic_ids)
        # No copy of the topic is left: the memory tells it again what it knows.
        facts = scan.facts_of_forgetting(store, index.names.prefix)
        assert retell(cluster, topic_ids, index, facts) >= 6
        bootstrap.catch_up_on_fences(memory.settings, opened, topic_ids)
        assert retell(cluster, topic_ids, index, iter([])) == 0
        lacking: list[FenceFact] = []
        found = scan.facts_of_forgetting(store, index.names.prefix)
        known = {fact for page in found for fact in page if not isinstance(fact, ClosedRequest)}
        replay(cluster, lacking.extend)
        assert known - set(lacking) == set()
        assert {type(fact) for fact in lacking} == {Barrier, Posting, ClosedRequest}
