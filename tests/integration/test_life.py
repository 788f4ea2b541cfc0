"""What a memory lives through: other memories, other servers' deaths, upgrades, growth."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions

from memory.errors import Misconfigured
from memory.redis.connection import connect
from memory.redis.schema import FUNCTIONS_VERSION
from streams import bootstrap
from streams.client import MemoryClient
from streams.config import memory_topics
from streams.config.connections import kafka_cluster
from streams.config.roles import ROLES
from streams.config.settings import CACHE
from streams.contract.topics import Topic
from streams.kafka.cluster import KafkaCluster
from streams.local.kafka_server import KafkaServer
from streams.local.process import Process
from streams.local.redis_server import RedisServer
from tests.integration.events import EMBEDDER, read_all, rebuilt_digests, rejected, unit
from tests.integration.running import Running, running
from tests.integration.test_readiness import reasons
from tests.waiting import until

WATCHFUL = (str(Path(__file__).parent / "watchful_worker.py"),)
ALL = dict.fromkeys(ROLES, 1)
IMAGES = 60


def teach(client: MemoryClient, first: int = 0, count: int = IMAGES) -> None:
    for n in range(first, first + count):
        client.ingest(
            unit(n), id=f"i{n}", label=f"l{n % 3}", subjects=[f"s{n % 5}"], embedder="test"
        )
        if n % 4 == 0:
            client.correct(f"i{n}", "corrected")


def test_two_memories_on_the_same_topics_are_the_same_and_each_sends_its_receipt(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """As the guide says of trying another beside the old: the second comes later."""
    name = unique("two")

    def memory_in(namespace: str) -> contextlib.AbstractContextManager[Running]:
        return running(
            tmp_path / namespace,
            kafka=kafka_bootstrap,
            redis_url=redis_url,
            name=name,
            workers=ALL,
            embedder=EMBEDDER,
            partitions=2,
            namespace=f"{name}{namespace}",
        )

    with memory_in("one") as one:
        client = one.client()
        teach(client)
        one.wait_until_merged()
        early = client.forget(subject="s1")
        client.receipt(early, "erased")
        with memory_in("two") as two:
            teach(client, IMAGES)
            late = client.forget(subject="s2")
            one.wait_until_merged()
            two.wait_until_merged()
            digests = one.index().digests()
            assert digests == two.index().digests() == rebuilt_digests(one)
            receipts = [str(r.value) for r in read_all(one, Topic.FORGET_RECEIPT)]
            for request in (early, late):
                assert sum(request.request_id in receipt for receipt in receipts) == 2
            with KafkaCluster(kafka_bootstrap).administration() as admin:
                groups = {group["group_id"] for group in admin.list_groups()}
            # In one group for both, members of a name would push each other out.
            assert {
                f"{name}{name}{each}-{role}" for each in ("one", "two") for role in ALL
            } <= groups


def test_partitions_grow_as_the_guide_says(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    name = unique("grow")

    def memory(partitions: int) -> contextlib.AbstractContextManager[Running]:
        return running(
            tmp_path / str(partitions),
            kafka=kafka_bootstrap,
            redis_url=redis_url,
            name=name,
            workers=ALL,
            embedder=EMBEDDER,
            partitions=partitions,
        )

    with memory(1) as small:
        teach(small.client())
        small.wait_until_merged()
    grown = [*(role.topic for role in ROLES.values()), Topic.PREDICTION]
    with KafkaCluster(kafka_bootstrap).administration() as admin:
        names = [kafka_cluster(small.settings).full_name(topic) for topic in grown]
        admin.create_partitions({topic: NewPartitions(4) for topic in names})
    with memory(4) as large:
        client = large.client()
        teach(client, IMAGES)
        client.receipt(client.forget(subject="s3"), "erased")
        large.wait_until_merged()
        used = {record.partition for record in read_all(large, Topic.IMAGE_INGEST)}
        assert used == {0, 1, 2, 3}
        assert large.index().digests() == rebuilt_digests(large)
        # Each asker awaits its answers in one partition, whichever it takes.
        askers = [client, *(large.client() for _ in range(6))]
        answers = [asker.query(unit(3), embedder="test", k=1) for asker in askers]
        assert {answer.status for answer in answers} == {"answered"}


@contextlib.contextmanager
def redis_not_durable(store: RedisServer, _: Running) -> Iterator[None]:
    with contextlib.closing(connect(store.url)) as client:
        client.config_set("appendfsync", "everysec")
        yield
        client.config_set("appendfsync", "always")


@contextlib.contextmanager
def topic_not_kept(_: RedisServer, memory: Running) -> Iterator[None]:
    cluster = kafka_cluster(memory.settings)
    name = cluster.full_name(Topic.LABEL_CORRECTION)
    with cluster.administration() as admin:

        def configure(policy: str) -> None:
            told = {"cleanup.policy": policy}
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, told)])

        configure("delete")
        yield
        configure("compact")


@pytest.mark.servers
def test_a_promise_that_is_broken_while_a_worker_runs_ends_it_until_it_is_kept_again(
    kafka_bootstrap: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    with (
        RedisServer(tmp_path / "redis", CACHE) as store,
        running(
            tmp_path,
            kafka=kafka_bootstrap,
            redis_url=store.url,
            name=unique("promise"),
            workers={"ingest": 1, "correct": 1},
            entry=WATCHFUL,
            embedder=EMBEDDER,
            partitions=1,
        ) as memory,
    ):
        client = memory.client()
        for breaks, why in (
            (redis_not_durable, "Redis has appendfsync everysec"),
            (topic_not_kept, "label-correction: cleanup.policy is delete"),
        ):
            client.correct("i0", "before").position()
            memory.wait_until_merged()
            before = memory.restarts("correct")
            with breaks(store, memory):
                until(lambda: memory.restarts("correct") >= before + 2, what=memory.logs)  # noqa: B023 - run here
            assert why in memory.logs()
            client.correct("i1", "after").position()
            memory.wait_until_merged()


def test_a_topic_that_is_made_anew_ends_its_workers_and_is_read_from_its_start(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("anew"),
        workers={"ingest": 1, "correct": 1},
        entry=WATCHFUL,
        embedder=EMBEDDER,
        partitions=1,
    ) as memory:
        client = memory.client()
        for n in range(5):
            client.correct(f"i{n}", "before")
        memory.wait_until_merged()
        topic = kafka_cluster(memory.settings).full_name(Topic.LABEL_CORRECTION)
        with KafkaCluster(kafka_bootstrap).administration() as admin:
            admin.delete_topics([topic])
        until(lambda: memory.restarts("correct") >= 1, what=memory.logs)
        assert f"topics are missing: {topic}" in memory.logs()
        memory_topics.create_topics(memory.settings)
        again = memory.client()
        again.correct("i9", "after").position()
        index = memory.index()
        until(lambda: index.stats().waiting_corrections == 6, what=memory.logs)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Mapping[str, KafkaServer | RedisServer]]:
    """Servers of this test alone, which may be killed."""
    with (
        KafkaServer(tmp_path / "kafka", CACHE) as kafka,
        RedisServer(tmp_path / "redis", CACHE) as store,
    ):
        yield {"kafka": kafka, "redis": store}


def killed_for(server: Process, seconds: float, unready: Callable[[], bool]) -> None:
    """A server that dies, is away until all have noticed, and for so long at least."""
    server.kill()
    time.sleep(seconds)
    try:
        until(unready, 40)
    finally:
        server.start()


@pytest.mark.servers
def test_servers_that_go_away_while_events_flow_lose_nothing_and_are_named_by_the_probes(
    servers: Mapping[str, Any], tmp_path: Path
) -> None:
    with running(
        tmp_path / "workers",
        kafka=servers["kafka"].bootstrap,
        redis_url=servers["redis"].url,
        name=f"away-{os.getpid()}-",
        workers=ALL,
        entry=WATCHFUL,
        embedder=EMBEDDER,
        partitions=2,
        clock_skew=0.2,
    ) as memory:
        client = memory.client()
        teach(client)
        for name, server in servers.items():
            said = f"{name.capitalize()} is away"
            killed_for(server, 1.0, lambda said=said: named_by_all(memory, said))  # type: ignore[misc]  # a default binds it
            teach(client, IMAGES)
        client.flush()
        until(lambda: all(reasons(port) == [] for port in memory.ports.values()), what=memory.logs)
        client.receipt(client.forget(subject="s4"), "erased")
        memory.wait_until_merged()
        assert memory.index().digests() == rebuilt_digests(memory)
        assert {str(why["reason"]) for why in rejected(memory)} <= {"forgotten"}
        assert client.query(unit(1), embedder="test", k=1).status == "answered"


def named_by_all(memory: Running, said: str) -> bool:
    with contextlib.suppress(OSError):
        return all(said in reasons(port) for port in memory.ports.values())
    return False


def test_old_workers_go_on_beside_new_ones_and_are_refused_when_they_start_anew(
    kafka_bootstrap: str,
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    """The first new worker puts newer functions into Redis."""
    ours = files("memory.redis").joinpath("law.lua").read_text("utf-8")
    version = f"local VERSION = {FUNCTIONS_VERSION}\n"
    assert version in ours
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("upgrade"),
        workers=ALL,
        embedder=EMBEDDER,
        partitions=2,
    ) as old:
        client, index, monitor = old.client(), old.index(), bootstrap.monitor(old.settings)
        teach(client)
        try:
            newer = ours.replace(version, f"local VERSION = {FUNCTIONS_VERSION + 1}\n")
            redis_client.function_load(newer, replace=True)
            teach(client, IMAGES)
            client.receipt(client.forget(subject="s1"), "erased")
            until(lambda: not any(lag.records for lag in monitor.lag()), what=old.logs)
            assert client.query(unit(2), embedder="test", k=1).status == "answered"
            assert [old.restarts(role) for role in ALL] == [0] * len(ALL)
            for role in ALL:
                with pytest.raises(Misconfigured, match="upgrade the program"):
                    bootstrap.worker(old.settings, role)
        finally:
            redis_client.function_load(ours, replace=True)
            monitor.close()
        assert index.digests() == rebuilt_digests(old)


def generations(log: Path) -> list[str]:
    """Of the consumer group, each time this worker joined it."""
    return re.findall(r"Joined group .*?\(generation (\d+)\)", log.read_text())


@pytest.mark.parametrize("named", [True, False])
def test_a_worker_that_comes_back_by_name_has_its_partitions_without_a_rebalance(
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
    unique: Callable[[str], str],
    *,
    named: bool,
) -> None:
    """At once, that is; where it is nameless, the dead one's session has to end first."""
    with running(
        tmp_path,
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=unique("named"),
        workers={"ingest": 1, "correct": 1},
        instances=named,
        embedder=EMBEDDER,
        partitions=2,
        backoff=(0.2, 1.0),
    ) as memory:
        client = memory.client()
        client.correct("i1", "before")
        memory.wait_until_merged()
        os.kill(memory.pid_of("correct"), signal.SIGKILL)
        until(lambda: memory.restarts("correct") == 1)
        client.correct("i2", "after").position()
        memory.wait_until_merged()
        joined = generations(memory.folder / "correct-0.log")
        assert len(joined) >= 2
        assert (len(set(joined)) == 1) is named
