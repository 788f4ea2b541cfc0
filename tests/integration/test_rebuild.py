"""A memory made anew while it is used: complete, resumable, and forgetful in every generation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from memory.model.questions import Probe
from memory.redis.generations import Generations
from memory.redis.index import RedisIndex
from streams import bootstrap
from streams.config.connections import kafka_cluster
from streams.config.settings import Settings, worker_environment
from streams.contract.topics import Topic
from tests.integration.events import EMBEDDER, read_all, rebuilt_digests, rejected, unit
from tests.integration.running import ROOT, Running, running

ROLES = {"ingest": 1, "correct": 1, "forget": 1, "query": 1}
IMAGES = 120


@pytest.fixture(scope="module")
def memory(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A memory with something in each register, and something forgotten."""
    with running(
        tmp_path_factory.mktemp("rebuild"),
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        name=f"rebuild-{os.getpid()}-",
        workers=ROLES,
        embedder=EMBEDDER,
        partitions=2,
        batch=20,
    ) as found:
        client = found.client()
        for n in range(IMAGES):
            teach(found, f"i{n}", n)
        for n in range(0, 40, 3):
            client.correct(f"i{n}", "corrected")
        client.correct("not-here-yet", "waiting")
        found.wait_until_merged()
        client.receipt(client.forget(subject="s2"), "erased")
        client.receipt(client.forget(label="l1"), "erased")
        client.receipt(client.forget(image="i9", permanent=True), "erased")
        yield found


def teach(memory: Running, image_id: str, n: int) -> None:
    memory.clients[0].ingest(
        unit(n),
        id=image_id,
        label=f"l{n % 4}",
        subjects=[f"s{n % 7}", f"t{n % 3}"],
        embedder="test",
    )


def environment(memory: Running, **changed: object) -> dict[str, str]:
    values = memory.settings.model_dump(exclude_unset=True) | {
        "redis": memory.settings.redis.get_secret_value(),
        "hmac_key": memory.settings.secret_key().hex(),
    }
    return worker_environment(**(values | changed))


def command(
    memory: Running, *arguments: str, **changed: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment(memory, **changed),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )


def rebuild(
    memory: Running, *arguments: str, **changed: object
) -> subprocess.CompletedProcess[str]:
    return command(memory, "streams.cli", "rebuild", *arguments, **changed)


def killed(memory: Running, at: str, times: int, when: str) -> None:
    done = command(memory, "tests.integration.killed_rebuild", at, str(times), when)
    assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)


def generation(memory: Running) -> int:
    return int(memory.index().schema.generation)


def keys_of(memory: Running, number: int) -> list[bytes]:
    memory.index()
    return [*memory.stores[-1].scan_iter(f"{memory.settings.namespace}:{number}:*", count=5000)]


def unfinished(memory: Running) -> RedisIndex:
    """The generation that a killed rebuild has left."""
    index = memory.index()
    following = Generations(memory.stores[-1], memory.settings.namespace, index).following()
    assert following is not None
    return index.at(following)


class Use:
    """Somebody who teaches and asks all the time, and reads what was written."""

    def __init__(self, memory: Running, prefix: str) -> None:
        self._memory = memory
        self._prefix = prefix
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failures: list[str] = []
        self.asked = 0
        self.slowest = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        client = self._memory.client(self._prefix)
        while not self._ended.is_set():
            name, vector = f"{self._prefix}-{self.asked}", unit(10_000 + self.asked)
            sent = client.ingest(vector, id=name, label="flows", embedder="test")
            started = time.monotonic()
            answer = client.query(
                vector, embedder="test", k=1, after=[sent.position(30)], timeout=30
            )
            self.slowest = max(self.slowest, time.monotonic() - started)
            if answer.status != "answered" or answer.neighbors[0].image_id != name:
                self.failures.append(f"{name}: {answer.status}")
            self.asked += 1


def test_events_and_questions_flow_while_the_memory_is_made_anew(memory: Running) -> None:
    """And what was written is read, on both sides of the switch."""
    before, receipts = generation(memory), len(read_all(memory, Topic.FORGET_RECEIPT))
    refused = len(rejected(memory))
    with Use(memory, "flow") as use:
        done = rebuild(memory)
        assert done.returncode == 0, done.stderr
        corrections = len(read_all(memory, Topic.LABEL_CORRECTION))
        assert f"label-correction: {corrections} of {corrections} records" in done.stderr
        asked = use.asked
        deadline = time.monotonic() + 20
        while use.asked < asked + 5 and time.monotonic() < deadline:
            time.sleep(0.05)
    print(f"{use.asked} questions, the slowest took {use.slowest:.2f} s")
    assert use.failures == []
    assert use.asked >= asked + 5
    memory.wait_until_merged()
    assert generation(memory) == before + 1
    assert memory.index().digests() == rebuilt_digests(memory)
    assert keys_of(memory, before) == []
    assert len(read_all(memory, Topic.FORGET_RECEIPT)) == receipts
    assert len(rejected(memory)) == refused
    assert {role: memory.restarts(role) for role in ROLES} == dict.fromkeys(ROLES, 0)


KILLS = [
    ("Generations.begin", 0, "after"),
    ("RedisIndex.put", 4, "before"),
    ("Generations.switch", 0, "before"),
    ("Generations.switch", 0, "after"),
    ("Generations.drop_keys", 0, "after"),
]


@pytest.mark.parametrize(("at", "times", "when"), KILLS)
def test_a_rebuild_that_is_killed_is_taken_up(
    memory: Running, at: str, times: int, when: str
) -> None:
    before = generation(memory)
    digests = memory.index().digests()
    killed(memory, at, times, when)
    assert memory.index().digests() == digests
    done = rebuild(memory)
    assert done.returncode == 0, done.stderr
    assert generation(memory) == before + 1
    assert memory.index().digests() == digests == rebuilt_digests(memory)
    assert keys_of(memory, before) == []


def test_a_batch_that_is_under_way_at_the_switch_is_done_again(memory: Running) -> None:
    """Its events are in the generation that is left only."""
    memory.wait_until_merged()
    killed(memory, "Generations.switch", 0, "before")
    following, held = unfinished(memory), memory.index()
    ids = memory.topic_ids()
    fences, *anew = (
        ids[kafka_cluster(memory.settings).full_name(topic)]
        for topic in (Topic.FENCES, Topic.IMAGE_INGEST, Topic.LABEL_CORRECTION)
    )
    generations = Generations(memory.stores[-1], memory.settings.namespace, held)
    with generations.lease.hold():
        generations.seal(anew)
        teach(memory, "under-way", 800)
        image = held.image_key("under-way")
        deadline = time.monotonic() + 4
        while held.item(image) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.item(image) is not None
        assert following.item(image) is None
        assert generations.switch(following, anew, fences) == []
        memory.wait_until_merged()
        assert following.item(image) is not None
        assert following.digests() == rebuilt_digests(memory)
    assert rebuild(memory).returncode == 0


def test_what_is_forgotten_during_a_rebuild_is_erased_from_both_generations(
    memory: Running,
) -> None:
    """Before its receipt, and also while no rebuild is running."""
    client = memory.clients[0]
    for n in range(4):
        teach(memory, f"doomed-{n}", 500 + n)
        client.ingest(
            unit(600 + n), id=f"gone-{n}", label="doomed", subjects=["gone"], embedder="test"
        )
    memory.wait_until_merged()
    killed(memory, "Generations.switch", 0, "before")
    following, held = unfinished(memory), memory.index()
    names = ["doomed-0", *(f"gone-{n}" for n in range(4))]
    images = [held.image_key(name) for name in names]
    assert all((item := following.item(image)) and item.trace for image in images)
    client.receipt(client.forget(image="doomed-0"), "erased")
    client.receipt(client.forget(subject="gone"), "erased")
    for index in (held, following):
        for image in images:
            item = index.item(image)
            assert item is not None
            assert item.trace is None
            assert item.barrier > 0
    done = rebuild(memory)
    assert done.returncode == 0, done.stderr
    assert memory.index().digests() == rebuilt_digests(memory)


def test_what_is_forgotten_leaves_a_generation_that_is_being_dropped(memory: Running) -> None:
    client = memory.clients[0]
    teach(memory, "dropped", 700)
    memory.wait_until_merged()
    before = generation(memory)
    killed(memory, "Generations.drop", 1, "before")  # the first call finds nothing to drop
    assert generation(memory) == before + 1
    key = f"{memory.settings.namespace}:{before}:item:{{{memory.index().image_key('dropped')}}}"
    assert memory.stores[-1].exists(key)
    client.receipt(client.forget(image="dropped"), "erased")
    assert not memory.stores[-1].exists(key)
    done = rebuild(memory)
    assert done.returncode == 0, done.stderr
    assert generation(memory) == before + 1
    assert keys_of(memory, before) == []


def test_events_that_cannot_be_embedded_anew_are_listed_and_keep_the_old_memory(
    memory: Running,
) -> None:
    """Their vectors were made by another model; nothing else of them is there."""
    before, digests = generation(memory), memory.index().digests()
    items = memory.index().stats().items
    done = rebuild(memory, "--json", embedder="vectors:another:24")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert not said["switched"]
    assert len(said["losses"]) == items
    assert {loss["reason"] for loss in said["losses"]} == {"other-embedder"}
    assert set(said["losses"][0]) == {"topic", "partition", "offset", "reason"}
    assert said["gone"] == 0
    assert "--drop-unembeddable" in done.stderr
    assert (generation(memory), memory.index().digests()) == (before, digests)
    again = rebuild(memory)
    assert again.returncode == 2
    assert "a rebuild is unfinished that makes the memory with embedder" in again.stderr
    left = int(unfinished(memory).schema.generation)
    planned = rebuild(memory, "--dry-run", "--json")
    assert json.loads(planned.stdout)["unembeddable"] == items
    assert rebuild(memory, "--abandon").returncode == 0
    assert keys_of(memory, left) == []
    assert memory.index().digests() == digests


def test_a_worker_that_would_make_another_memory_waits_for_none_and_says_so(
    memory: Running,
) -> None:
    """After a switch to another index type, workers want its settings."""
    digests = memory.index().digests()
    done = rebuild(memory, index_algorithm="HNSW", index_dtype="FLOAT32")
    assert done.returncode == 0, done.stderr
    changed = memory.settings.model_copy(
        update={"index_algorithm": "HNSW", "index_dtype": "FLOAT32"}
    )
    refused = command(memory, "streams.cli", "worker", "ingest")
    assert refused.returncode == 2
    assert "this memory was made with algorithm = HNSW" in refused.stderr
    store = bootstrap.redis_client(changed)
    memory.stores.append(store)
    index = bootstrap.open_index(changed, store, bootstrap.embedder(changed))
    assert index.schema.dtype == "FLOAT32"
    assert index.digests() == digests
    assert index.search([Probe(unit(0), 1)])[0].hits[0].image_id == "i0"


def test_a_loss_is_taken_only_where_somebody_says_so(memory: Running) -> None:
    """Everything else is in the new memory: corrections that wait, and what is forgotten."""
    changed = memory.settings.model_copy(update={"embedder": "vectors:another:24"})
    waiting = memory_of(memory, memory.settings).stats().barriers
    done = rebuild(memory, "--drop-unembeddable", embedder="vectors:another:24")
    assert done.returncode == 0, done.stderr
    assert "other-embedder" in done.stdout
    stats = memory_of(memory, changed).stats()
    assert (stats.items, stats.barriers) == (0, waiting)
    assert stats.waiting_corrections > 1


def memory_of(memory: Running, settings: Settings) -> RedisIndex:
    store = bootstrap.redis_client(settings)
    memory.stores.append(store)
    return bootstrap.open_index(settings, store)
