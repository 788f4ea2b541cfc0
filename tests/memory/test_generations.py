"""Generations of a memory in Redis: begun, filled, put in place, dropped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis

from memory.embedders import VectorsOnly
from memory.errors import Misconfigured, Moved, Unavailable
from memory.facts import EveryGeneration, NoFenceLog, take
from memory.model.events import Forget, Ingest, LogPartition, Selector, SelectorKind, VectorPayload
from memory.model.keys import RequestKey, SelectorKey
from memory.model.logs import Witness
from memory.model.questions import Probe
from memory.model.state import Put
from memory.model.times import FOREVER, make_stamp
from memory.redis import generations as module
from memory.redis import lease
from memory.redis.generations import Generations, Held
from memory.redis.index import RedisIndex
from memory.service import VisualMemory
from tests.waiting import until

DIM = 16
KEY = bytes(range(32))
EMBEDDER = VectorsOnly("first", DIM)
SECOND = VectorsOnly("second", DIM)
IMAGES, CORRECTIONS, FENCES, QUESTIONS = "images-id", "corrections-id", "fences-id", "questions-id"


@pytest.fixture
def namespace(unique: Callable[[str], str]) -> str:
    return unique("generations")


def opened(client: redis.Redis, namespace: str, embedder: VectorsOnly = EMBEDDER) -> RedisIndex:
    return RedisIndex.open(client, namespace=namespace, hmac_key=KEY, embedder=embedder)


@pytest.fixture
def index(redis_client: redis.Redis, namespace: str) -> RedisIndex:
    return opened(redis_client, namespace)


@pytest.fixture
def generations(
    redis_client: redis.Redis, namespace: str, index: RedisIndex
) -> Iterator[Generations]:
    """Those of the memory, with the lease."""
    found = Generations(redis_client, namespace, index)
    with found.lease.hold():
        yield found


@pytest.mark.parametrize(
    ("change", "covers"),
    [
        ({}, True),
        ({"barrier": 9}, False),
        ({"selectors": frozenset()}, False),
        ({"selectors": frozenset([SelectorKey("a"), SelectorKey("b")])}, True),
        ({"trace_stamp": make_stamp(11, "x")}, False),
        ({"corrected_stamp": make_stamp(11, "x")}, False),
        ({"trace_stamp": make_stamp(13, "x")}, True),
        # What a barrier is about is not shown, up to its very time.
        ({"trace_stamp": "", "corrected_stamp": "", "barrier": 12}, True),
        ({"trace_stamp": "", "barrier": 11}, False),
        ({"corrected_stamp": "", "barrier": 11}, False),
    ],
)
def test_a_generation_lacks_nothing_whose_barrier_covers_what_it_does_not_hold(
    change: dict[str, Any], *, covers: bool
) -> None:
    stamp = make_stamp(12, "x")
    wanted = Held(stamp, stamp, 10, frozenset([SelectorKey("a")]))
    assert replace(wanted, **change).covers(wanted) is covers


def event(name: str, seed: int, embedder: str = "first", subject: str = "ada") -> Ingest:
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return Ingest(
        stamp=make_stamp(10, name),
        image_id=name,
        label="cat",
        source="camera",
        payload=VectorPayload(vector, embedder),
        payload_digest="digest",
        subjects=(subject,),
    )


def switched(generations: Generations, following: RedisIndex) -> list[str]:
    return generations.switch(following, [IMAGES, CORRECTIONS], FENCES)


def begun(generations: Generations) -> RedisIndex:
    return generations.begin(EMBEDDER, "FLAT", "FLOAT16")


def test_a_generation_that_was_filled_answers_after_the_switch(
    generations: Generations, index: RedisIndex
) -> None:
    VisualMemory(index, EMBEDDER).remember([event("a", 1)])
    following = begun(generations)
    VisualMemory(following, EMBEDDER).remember([event("a", 1), event("b", 2)])
    assert index.stats().items == 1
    assert switched(generations, following) == []
    index.follow()
    assert index.stats().items == 2
    assert index.schema.generation == "2"


def test_a_generation_that_is_behind_is_not_put_in_place(
    generations: Generations, index: RedisIndex
) -> None:
    """What a client was told is visible would not be."""
    index.advance({LogPartition(IMAGES, 0): 5, LogPartition(IMAGES, 1): 3})
    following = begun(generations)
    following.advance({LogPartition(IMAGES, 0): 4, LogPartition(IMAGES, 1): 3})
    assert switched(generations, following) == [f"{IMAGES}:0"]
    assert generations.current().generation == "1"
    following.advance({LogPartition(IMAGES, 0): 5})
    assert switched(generations, following) == []


def test_what_was_answered_and_forgotten_stays_so_and_fences_are_each_generations_own(
    generations: Generations, index: RedisIndex
) -> None:
    index.advance({LogPartition(QUESTIONS, 0): 7, LogPartition(FENCES, 0): 9})
    following = begun(generations)
    following.advance({LogPartition(FENCES, 0): 4})
    assert switched(generations, following) == []
    assert index.positions() == {(QUESTIONS, 0): 7, (FENCES, 0): 4}


def test_positions_are_those_of_the_generation_that_answers(
    generations: Generations, index: RedisIndex
) -> None:
    """Also for who has not followed, and when the former one is gone."""
    index.advance({LogPartition(IMAGES, 0): 5})
    following = begun(generations)
    following.advance({LogPartition(IMAGES, 0): 8})
    assert index.positions() == {(IMAGES, 0): 5}
    switched(generations, following)
    list(generations.drop())
    assert index.positions() == {(IMAGES, 0): 8}


def test_a_generation_that_was_left_takes_no_write_and_gives_no_answer(
    generations: Generations, index: RedisIndex, redis_client: redis.Redis
) -> None:
    memory = VisualMemory(index, EMBEDDER)
    memory.remember([event("a", 1)])
    request, image = RequestKey("request"), index.image_key("a")
    index.open_request(request, 5)
    switched(generations, begun(generations))
    vector = np.ones(DIM, np.float32)
    attempts: list[Callable[[], object]] = [
        lambda: memory.remember([event("b", 2)]),
        lambda: index.advance({LogPartition(IMAGES, 0): 1}),
        lambda: index.fence(SelectorKey("subject:x"), 5),
        lambda: index.open_request(request, 5, [Put(image, barrier=FOREVER)]),
        lambda: index.note_counts(request, 1),
        lambda: index.close_request(request, 5),
        lambda: index.search([Probe(vector, 1)]),
        lambda: index.vectors_of(["a"]),
        index.digests,
    ]
    for attempt in attempts:
        with pytest.raises(Moved):
            attempt()
    assert redis_client.exists(index.names.item(image)[0])
    list(generations.drop())
    for attempt in [*attempts, index.stats, lambda: list(index.images_with_label("cat"))]:
        with pytest.raises(Moved):
            attempt()
    assert [*redis_client.scan_iter(f"{index.names.prefix}:*", count=10_000)] == []


def test_who_follows_goes_on_in_the_new_generation(
    generations: Generations, index: RedisIndex
) -> None:
    memory = VisualMemory(index, EMBEDDER)
    switched(generations, begun(generations))
    index.follow()
    memory.remember([event("b", 2)])
    assert index.search([Probe(np.ones(DIM, np.float32), 1)])[0].hits[0].image_id == "b"


def test_who_has_another_embedder_is_told_so_when_it_follows(
    generations: Generations, index: RedisIndex, redis_client: redis.Redis, namespace: str
) -> None:
    following = generations.begin(SECOND, "HNSW", "FLOAT32")
    assert switched(generations, following) == []
    with pytest.raises(Misconfigured, match="made with embedder = second, the settings say first"):
        index.follow()
    with pytest.raises(Misconfigured, match="made with embedder = second"):
        opened(redis_client, namespace)


def test_positions_stand_still_while_they_are_sealed(
    generations: Generations, index: RedisIndex
) -> None:
    """Those of the topics that are read anew, in the generation that answers."""
    following = begun(generations)
    generations.seal([IMAGES])
    with pytest.raises(Unavailable):
        index.advance({LogPartition(IMAGES, 0): 1})
    index.advance({LogPartition(QUESTIONS, 0): 1})
    following.advance({LogPartition(IMAGES, 0): 1})
    generations.unseal()
    index.advance({LogPartition(IMAGES, 0): 1})


def test_where_a_position_is_refused_no_time_is_noted(
    generations: Generations, index: RedisIndex
) -> None:
    """They are one step: a position that stood without its time would be taken for a cut."""
    here = LogPartition(IMAGES, 0)
    begun(generations)
    generations.seal([IMAGES])
    with pytest.raises(Unavailable):
        index.advance({here: 1}, {here: 1_790_000_000_000_000})
    generations.unseal()
    index.advance({here: 1})
    assert index.witnesses() == {}
    index.advance({here: 2}, {here: 1_790_000_000_000_000})
    assert index.witnesses() == {here: [Witness(2, 1_790_000_000_000_000)]}


def test_a_seal_ends_by_itself(
    generations: Generations, index: RedisIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rebuild may be dead."""
    monkeypatch.setattr(module, "SEAL_SECONDS", 0.001)
    begun(generations)
    generations.seal([IMAGES])
    threading.Event().wait(0.01)
    index.advance({LogPartition(IMAGES, 0): 1})


def test_an_unfinished_generation_is_taken_up(generations: Generations) -> None:
    first = begun(generations)
    first.advance({LogPartition(IMAGES, 0): 1})
    assert begun(generations).positions() == {(IMAGES, 0): 1}


def test_an_unfinished_generation_of_another_make_is_not_taken_up(
    generations: Generations,
) -> None:
    begun(generations)
    with pytest.raises(Misconfigured, match=r"unfinished .* dtype = FLOAT16, .* --abandon"):
        generations.begin(EMBEDDER, "FLAT", "FLOAT32")


def test_a_number_is_never_used_again(generations: Generations) -> None:
    """What a rebuild that was given up still writes must not come into another's."""
    given_up = begun(generations)
    assert generations.abandon()
    list(generations.drop())
    following = begun(generations)
    assert (given_up.schema.generation, following.schema.generation) == ("2", "3")
    with pytest.raises(Moved):
        given_up.advance({LogPartition(IMAGES, 0): 1})
    assert not list(generations.drop())


def test_dropping_leaves_nothing_and_touches_nothing_else(
    generations: Generations, index: RedisIndex, redis_client: redis.Redis, namespace: str
) -> None:
    """Not even a memory whose namespace begins with this one's and the same number."""
    neighbour = opened(redis_client, f"{namespace}:1")
    for memory in (index, neighbour):
        VisualMemory(memory, EMBEDDER).remember([event("a", 1)])
    switched(generations, begun(generations))
    list(generations.drop())
    left = {key.decode() for key in redis_client.scan_iter(f"{namespace}:1:*", count=10_000)}
    assert left == {
        key.decode() for key in redis_client.scan_iter(f"{neighbour.names.prefix}:*", count=10_000)
    } | {f"{namespace}:1:meta"}
    assert neighbour.stats().items == 1
    assert generations.dropping() == ""


def test_redis_file_is_rewritten_once_a_generation_is_dropped(
    generations: Generations, index: RedisIndex, redis_client: redis.Redis
) -> None:
    """It holds all that was dropped until then."""

    def rewrites() -> int:
        return int(redis_client.info("persistence")["aof_rewrites"])

    VisualMemory(index, EMBEDDER).remember([event("a", 1)])
    switched(generations, begun(generations))
    until(lambda: not redis_client.info("persistence")["aof_rewrite_in_progress"])
    before = rewrites()
    list(generations.drop())
    until(lambda: rewrites() > before, 10)


def test_a_second_rebuild_is_refused_while_one_is_at_work(
    generations: Generations, redis_client: redis.Redis, namespace: str, index: RedisIndex
) -> None:
    second = Generations(redis_client, namespace, index)
    with pytest.raises(Misconfigured, match="at work already"), second.lease.hold():
        pass


def test_a_dead_rebuilds_lease_is_taken_over_and_it_changes_nothing_more(
    redis_client: redis.Redis,
    namespace: str,
    index: RedisIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    dead, heir = (Generations(redis_client, namespace, index) for _ in range(2))
    assert dead.lease.take()
    with heir.lease.hold():
        with pytest.raises(Misconfigured, match="taken over"):
            begun(dead)
        assert begun(heir).schema.generation == "2"


def test_a_lease_ends_with_who_holds_it(
    redis_client: redis.Redis, namespace: str, index: RedisIndex
) -> None:
    first, second = (Generations(redis_client, namespace, index) for _ in range(2))
    with first.lease.hold():
        assert not second.lease.take()
    assert second.lease.take()


def test_who_holds_a_lease_hears_that_another_has_taken_it_over(
    redis_client: redis.Redis,
    namespace: str,
    index: RedisIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when its process stood still for longer than it lasts."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)
    with Generations(redis_client, namespace, index).lease.hold() as check:
        time.sleep(0.4)
        check()
        # In one step: it is renewed all the time.
        ends = f"{1000 * time.time() + 60_000:.0f}"
        redis_client.hset(
            f"{namespace}:meta", mapping={"rebuilder": "another", "rebuilder_until": ends}
        )

        def is_lost() -> bool:
            with contextlib.suppress(Misconfigured):
                check()
                return False
            return True

        until(is_lost)


def test_facts_of_forgetting_reach_every_generation(
    generations: Generations, index: RedisIndex
) -> None:
    """Before a request is done: whichever answers next shows nothing of it."""
    following = begun(generations)
    for memory in (index, following):
        VisualMemory(memory, EMBEDDER).remember([event("a", 1), event("b", 2, subject="bob")])
    log = EveryGeneration(NoFenceLog(), generations.others)
    forgetting = VisualMemory(index, None, fence_log=log)
    forgetting.forget(Forget("r", Selector(SelectorKind.SUBJECT, "ada"), time=20))
    digests = index.digests()
    assert following.stats().items == 1
    late = VisualMemory(following, EMBEDDER).remember([event("c", 3)])
    assert type(late[0]).__name__ == "Refused"
    assert following.open_request(following.request_key("r"), 30).closed
    assert not switched(generations, following)
    assert following.digests().visible == digests.visible


def test_what_the_next_generation_lacks_is_found(
    generations: Generations, index: RedisIndex
) -> None:
    """A record that is gone, a fact of forgetting that is gone: nothing is lost silently."""
    following = begun(generations)
    memory = VisualMemory(index, EMBEDDER)
    memory.remember([event("a", 1), event("b", 2), event("c", 3, subject="bob")])
    VisualMemory(following, EMBEDDER).remember([event("b", 2), event("c", 3, subject="bob")])
    memory.forget(Forget("r", Selector(SelectorKind.SUBJECT, "bob"), time=20))
    lacking = list(generations.lacking(index, following))
    assert set(lacking) == {index.image_key("a"), index.image_key("c")}
    take(following, generations.forgotten(index, following, lacking))
    assert generations.still_lacking(index, following, lacking) == [index.image_key("a")]
    assert following.stats().items == 1
