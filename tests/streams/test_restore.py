"""A memory from a backup: what was forgotten since is forgotten again, and that is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import redis

from memory.embedders import VectorsOnly
from memory.model.events import Forget, Ingest, Selector, SelectorKind, VectorPayload
from memory.model.times import make_stamp
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.contract.topics import declare
from streams.erasure.restore import RestoreCheck, forget_again
from streams.kafka import admin
from streams.kafka.cluster import KafkaCluster
from streams.kafka.fence_log import KafkaFenceLog


@pytest.fixture
def cluster(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaCluster:
    made = KafkaCluster(kafka_bootstrap, unique("restore"))
    admin.create(made, declare(made.prefix, partitions=1))
    return made


def memory_of(client: redis.Redis, namespace: str, log: KafkaFenceLog) -> VisualMemory:
    embedder = VectorsOnly("test", 2)
    index = RedisIndex.open(client, namespace=namespace, hmac_key=bytes(32), embedder=embedder)
    return VisualMemory(index, embedder, fence_log=log, clock_skew=0)


def teach(memory: VisualMemory, *, time: int = 5) -> None:
    memory.remember(
        [
            Ingest(
                make_stamp(time, f"i{n}"),
                f"i{n}",
                "dog" if n == 3 else "cat",
                "camera",
                VectorPayload(np.array([1, n], np.float32), "test"),
                "",
                subjects=(("ann", "bob", "cleo", "dan", "eve")[n],),
            )
            for n in range(5)
        ]
    )


def test_what_was_forgotten_after_the_backup_is_forgotten_again(
    cluster: KafkaCluster, redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    now, backup = unique("now"), unique("backup")
    with closing(KafkaFenceLog(cluster)) as log:
        memory, old = memory_of(redis_client, now, log), memory_of(redis_client, backup, log)
        teach(memory)
        teach(old)  # as it was when the backup was made
        for kind, name in (("image", "i0"), ("subject", "bob"), ("label", "dog")):
            memory.forget(Forget(f"{kind}", Selector(SelectorKind(kind), name), 10))
    index = old.index
    assert isinstance(index, RedisIndex)
    looked = forget_again(cluster, redis_client, index, apply=False)
    assert (looked.items, looked.revived) == (5, 3)
    assert 0 < looked.missing < looked.facts  # what each image bears it knows
    assert index.stats().items == 5
    done = forget_again(cluster, redis_client, index, apply=True)
    assert done == RestoreCheck(looked.facts, looked.missing, 2, 0)
    assert index.digests() == memory.index.digests()
    assert forget_again(cluster, redis_client, index, apply=True) == RestoreCheck(
        looked.facts, 0, 2, 0
    )
    teach(old, time=11)  # consent given again
    assert forget_again(cluster, redis_client, index, apply=False).revived == 0
    assert index.stats().items == 5
