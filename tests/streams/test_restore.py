"""A memory from a backup: what was forgotten since is forgotten again, and that is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import redis
from click.testing import CliRunner

from memory.embedders import VectorsOnly
from memory.model.events import Forget, Ingest, Selector, SelectorKind, VectorPayload
from memory.model.times import make_stamp
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from streams.cli import cli
from streams.config.settings import ENVIRONMENT_PREFIX
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


@pytest.fixture
def memories(
    cluster: KafkaCluster, redis_client: redis.Redis, unique: Callable[[str], str]
) -> tuple[VisualMemory, VisualMemory, str]:
    """One that has forgotten three of five images, one as it was when the backup was made, and its namespace."""
    now, backup = unique("now"), unique("backup")
    with closing(KafkaFenceLog(cluster)) as log:
        memory, old = memory_of(redis_client, now, log), memory_of(redis_client, backup, log)
        teach(memory)
        teach(old)
        for kind, name in (("image", "i0"), ("subject", "bob"), ("label", "dog")):
            memory.forget(Forget(f"{kind}", Selector(SelectorKind(kind), name), 10))
    return memory, old, backup


def test_what_was_forgotten_after_the_backup_is_forgotten_again(
    cluster: KafkaCluster,
    redis_client: redis.Redis,
    memories: tuple[VisualMemory, VisualMemory, str],
) -> None:
    memory, old, _ = memories
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


def test_the_command_ends_with_1_as_long_as_something_forgotten_is_shown(
    cluster: KafkaCluster, redis_url: str, memories: tuple[VisualMemory, VisualMemory, str]
) -> None:
    memory, old, namespace = memories
    settings = {
        "kafka": cluster.bootstrap,
        "topic_prefix": cluster.prefix,
        "redis": redis_url,
        "namespace": namespace,
        "hmac_key": bytes(32).hex(),
        "embedder": "vectors:test:2",
    }
    environment = {f"{ENVIRONMENT_PREFIX}{name.upper()}": text for name, text in settings.items()}

    def restore(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["restore", *words], env=environment)
        return done.exit_code, done.output

    code, said = restore("--verify")
    assert code == 1
    assert re.search(r"of \d+ facts of forgetting the memory lacks \d+\n", said)
    assert "of 5 items 3 are forgotten: revived 3\n" in said
    assert old.index.stats().items == 5, "it only looked"
    code, said = restore()
    assert code == 0
    assert re.search(r"of \d+ facts of forgetting the memory lacked \d+\n", said)
    assert "of 2 items 0 are forgotten: revived 0\n" in said
    assert old.index.digests() == memory.index.digests()
    code, said = restore("--verify", "--json")
    assert code == 0
    told = json.loads(said)
    assert (told["missing"], told["items"], told["revived"]) == (0, 2, 0)
