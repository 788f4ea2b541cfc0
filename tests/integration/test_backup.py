"""A Redis restored from a copy, or lost altogether: the log brings the memory back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from memory.model.state import Digests
from streams import bootstrap
from streams.client import MemoryClient
from streams.config.settings import CACHE, load
from streams.local.redis_server import RedisServer
from tests.integration.events import EMBEDDER, unit
from tests.integration.guide import run_blocks
from tests.integration.running import KEY, Running, running

ROLES = {"ingest": 1, "correct": 1, "forget": 1, "query": 1}
IMAGES = 40


@dataclass(frozen=True)
class Lost:
    """A memory whose Redis is gone: what it was at the end, and the copy taken before."""

    kafka: str
    name: str
    digests: Digests
    items: int
    backup: Path


@contextlib.contextmanager
def memory_on(
    store: RedisServer, kafka: str, name: str, folder: Path, workers: Mapping[str, int] = ROLES
) -> Iterator[Running]:
    with running(
        folder, kafka=kafka, redis_url=store.url, name=name, workers=workers, embedder=EMBEDDER
    ) as memory:
        yield memory


def teach(client: MemoryClient, prefix: str, first: int) -> None:
    for n in range(IMAGES):
        client.ingest(
            unit(first + n),
            id=f"{prefix}-{n}",
            label=f"label-{n % 4}",
            subjects=[f"subject-{n % 8}"],
            embedder="test",
        )


def nearest(client: MemoryClient, seed: int) -> str:
    """The id of the item nearest to a vector."""
    answer = client.query(unit(seed), embedder="test", k=1)
    assert answer.status == "answered"
    return answer.neighbors[0].image_id


@pytest.fixture(scope="module")
def lost(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """Learn and forget, copy Redis as the guide says, learn and forget on, lose Redis."""
    folder = tmp_path_factory.mktemp("lost")
    name, backup = f"backup-{os.getpid()}-", folder / "backup"
    with RedisServer(folder / "redis", CACHE) as store:
        with memory_on(store, kafka_bootstrap, name, folder / "workers") as memory:
            client = memory.client()
            teach(client, "early", 0)
            client.correct("early-1", "corrected")
            memory.wait_until_merged()
            client.receipt(client.forget(subject="subject-3"), "erased")
            teach(client, "meanwhile", 200)  # and not waited for: a copy is taken of what runs
            run_blocks(
                "Copying Redis",
                {
                    "VISUAL_MEMORY_REDIS": store.url,
                    "REDIS_DATA": str(folder / "redis" / "data"),
                    "BACKUP": str(backup),
                },
                folder,
            )
            teach(client, "late", 100)
            client.correct("early-4", "corrected")
            memory.wait_until_merged()
            for request in (
                client.forget(subject="subject-5"),
                client.forget(image="early-8"),
                client.forget(label="label-2"),
            ):
                client.receipt(request, "erased")
            index = memory.index()
            digests, items = index.digests(), index.stats().items
        store.kill()
    return Lost(kafka_bootstrap, name, digests, items, backup)


def assert_is_as_before(memory: Running, lost: Lost) -> None:
    memory.wait_until_merged()
    index = memory.index()
    assert index.stats().items == lost.items
    assert index.digests().visible == lost.digests.visible
    assert index.digests().full == lost.digests.full
    client = memory.client()
    assert nearest(client, 100) == "late-0", "learnt after the copy"
    assert nearest(client, 8) != "early-8", "forgotten after the copy"


@pytest.fixture
def restored(lost: Lost, tmp_path: Path) -> Iterator[RedisServer]:
    """A new Redis with the copy, as the guide says; no worker has met it."""
    places = {"REDIS_DATA": str(tmp_path / "redis" / "data"), "BACKUP": str(lost.backup)}
    run_blocks("Restoring Redis", places, tmp_path)
    with RedisServer(tmp_path / "redis", CACHE) as store:
        yield store


def test_a_redis_restored_from_a_copy_comes_to_what_it_was_when_it_was_lost(
    lost: Lost, restored: RedisServer, tmp_path: Path
) -> None:
    with memory_on(restored, lost.kafka, lost.name, tmp_path / "workers") as memory:
        assert_is_as_before(memory, lost)


def test_what_was_forgotten_after_the_copy_is_in_no_answer_even_before_the_log_is_read_again(
    lost: Lost, restored: RedisServer, tmp_path: Path
) -> None:
    settings = load(redis=restored.url, namespace=lost.name, hmac_key=KEY)
    store = bootstrap.redis_client(settings)
    index = bootstrap.open_index(settings, store)
    assert index.item(index.image_key("early-8")) is not None, "the copy is older"
    assert index.item(index.image_key("late-0")) is None, "the copy is older"
    assert index.digests().visible != lost.digests.visible
    store.close()
    asking_only = {"query": 1}
    with memory_on(restored, lost.kafka, lost.name, tmp_path / "workers", asking_only) as memory:
        client = memory.client()
        answers = [nearest(client, seed) for seed in (0, 8, 5, 2)]
    # An image, a subject's and a label's, which the forget role has not read again.
    assert answers[0] == "early-0"
    assert not {"early-8", "early-5", "early-2"} & set(answers)


def test_a_memory_whose_redis_is_lost_is_rebuilt_from_the_topics(
    lost: Lost, tmp_path: Path
) -> None:
    with (
        RedisServer(tmp_path / "redis", CACHE) as store,
        memory_on(store, lost.kafka, lost.name, tmp_path / "workers") as memory,
    ):
        assert_is_as_before(memory, lost)
