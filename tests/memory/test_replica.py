"""A replica follows its memory in Redis: never behind an answer, and gone where it cannot be sure."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import redis

from memory.embedders import VectorsOnly
from memory.errors import Moved, Unavailable
from memory.exact.index import ExactIndex
from memory.model.answers import SearchResult
from memory.model.keys import SelectorKey
from memory.model.questions import Exclusion, Probe
from memory.model.reliability import HARD_NEIGHBORS, SOFT_NEIGHBORS
from memory.model.state import CorrectionWrite, Put, Trace, TraceWrite
from memory.model.times import make_stamp
from memory.model.vectors import Vector
from memory.redis.generations import Generations
from memory.redis.index import RedisIndex
from memory.redis.search import VectorSearch
from memory.replica import index as module
from memory.replica.index import BUSY_SECONDS, BUSY_SHARE, ReplicaState, ReplicatedIndex, Unobserved
from memory.replica.reliability import Reliability
from memory.replica.rows import Rows
from tests.waiting import until

DIM = 24
KEY = bytes(range(32))
pytestmark = pytest.mark.servers


class Seen(Unobserved):
    """What was searched, in order."""

    def __init__(self) -> None:
        self.by: list[str] = []
        self.states: list[ReplicaState] = []

    def count_searches(self, by: str, count: int) -> None:
        self.by += [by] * count

    def note_state(self, state: ReplicaState) -> None:
        self.states.append(state)


Opened = Callable[[], RedisIndex]


@pytest.fixture
def opened(redis_client: redis.Redis, unique: Callable[[str], str]) -> Opened:
    """Another index of the same memory."""
    namespace = unique("replica")

    def open_index(kind: type[RedisIndex] = RedisIndex) -> RedisIndex:
        embedder = VectorsOnly("test", DIM)
        return kind.open(redis_client, namespace=namespace, hmac_key=KEY, embedder=embedder)

    return open_index


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def writer(opened: Opened) -> RedisIndex:
    return opened()


@pytest.fixture
def index(opened: Callable[..., ReplicatedIndex], seen: Seen) -> Iterator[ReplicatedIndex]:
    found = opened(ReplicatedIndex)
    found.start(1 << 30, seen)
    loaded(found)
    yield found
    found.stop()


def loaded(index: ReplicatedIndex) -> None:
    until(lambda: index.state().age is not None, what=index.state)


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=DIM)
    found: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return found


def shown(
    index: RedisIndex | ExactIndex,
    name: str,
    label: str,
    seed: int,
    time: int,
    selectors: tuple[SelectorKey, ...] = (),
) -> Put:
    trace = Trace(name, "0" * 64, label, "test", (), {}, "test", unit(seed))
    stamp = make_stamp(time, "test", f"{name}{label}{seed}")
    return Put(index.image_key(name), selectors=selectors, write=TraceWrite(stamp, trace))


def corrected(index: RedisIndex | ExactIndex, name: str, label: str | None, time: int) -> Put:
    stamp = make_stamp(time, "test", f"{name}{label}")
    return Put(index.image_key(name), write=CorrectionWrite(stamp, label))


def erased(index: RedisIndex | ExactIndex, name: str, time: int) -> Put:
    return Put(index.image_key(name), barrier=time)


def answers(index: RedisIndex | ExactIndex, seeds: Sequence[int], k: int = 5) -> list[SearchResult]:
    return index.search([Probe(unit(seed), k) for seed in seeds])


def ids(result: SearchResult) -> list[tuple[str, str]]:
    return [(hit.image_id, hit.label) for hit in result.hits]


def test_answers_equal_the_oracles_over_ten_thousand_events_with_questions_between(
    index: ReplicatedIndex, writer: RedisIndex, seen: Seen
) -> None:
    choose = random.Random(5)
    oracle = ExactIndex(embedder="test", dim=DIM, hmac_key=KEY)
    for batch in range(500):
        puts: list[Callable[[RedisIndex | ExactIndex], Put]] = []
        for n in range(20):
            name, label = f"i{choose.randrange(400)}", f"l{choose.randrange(5)}"
            # Few vectors, so that many are equal; times in no order.
            seed, time = choose.randrange(150), choose.randrange(1, 20_000 + 40 * batch)
            match choose.randrange(8):
                case 0:
                    puts.append(lambda i, name=name, time=time: erased(i, name, time))  # type: ignore[misc]
                case 1 | 2:
                    said = label if n % 3 else None
                    puts.append(
                        lambda i, name=name, said=said, time=time: corrected(i, name, said, time)  # type: ignore[misc]
                    )
                case _:
                    bears = (SelectorKey(f"subject:{choose.randrange(20)}"),)
                    puts.append(
                        lambda i, name=name, label=label, seed=seed, time=time, bears=bears: shown(  # type: ignore[misc]  # bound by default
                            i, name, label, seed, time, bears
                        )
                    )
        writer.put([put(writer) for put in puts])
        oracle.put([put(oracle) for put in puts])
        asked = [choose.randrange(200) for _ in range(4)]
        k = choose.choice([1, 3, 10, 100])
        # The digests of an image's id are the same in both; some are of images that are not there.
        without = Exclusion(
            frozenset(index.image_key(f"i{choose.randrange(400)}") for _ in range(30)),
            frozenset(SelectorKey(f"subject:{choose.randrange(20)}") for _ in range(batch % 3)),
            frozenset(f"l{choose.randrange(5)}" for _ in range(batch % 2)),
        )
        probes = [Probe(unit(seed), k, without) for seed in asked[::2]]
        probes += [Probe(unit(seed), k) for seed in asked]
        for found, wanted in zip(index.search(probes), oracle.search(probes), strict=True):
            assert ids(found) == ids(wanted)
            assert found.exact
            np.testing.assert_allclose(
                [hit.distance for hit in found.hits],
                [hit.distance for hit in wanted.hits],
                atol=1e-12,
            )
    assert set(seen.by) == {"replica"}
    assert index.state().items > 50


def test_what_comes_while_a_search_goes_on_is_in_its_answer(
    index: ReplicatedIndex, writer: RedisIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what goes then is not: Redis is asked what changed after the rows are scanned."""
    writer.put([shown(writer, f"i{n}", "old", n + 10, time=1) for n in range(20)])
    until(lambda: index.state().items == 20, what=index.state)
    nearest = answers(index, [1], k=1)[0].hits[0].image_id
    scan = Rows.scan

    def overtaken(rows: Rows, probes: Sequence[Probe]) -> Any:
        begun = scan(rows, probes)
        writer.put([erased(writer, nearest, 5), shown(writer, "new", "new", 1, time=1)])
        return begun

    monkeypatch.setattr(Rows, "scan", overtaken)
    (found,) = answers(index, [1])
    assert found.hits[0].image_id == "new"
    assert nearest not in [hit.image_id for hit in found.hits]


def test_redis_answers_until_the_replica_is_loaded(
    opened: Callable[..., ReplicatedIndex], writer: RedisIndex, seen: Seen
) -> None:
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(30)])
    index = opened(ReplicatedIndex)
    assert ids(answers(index, [3])[0])[0] == ("i3", "cat")
    assert index.state() == ReplicaState(0, 0, None)
    index.start(1 << 30, seen)
    loaded(index)
    assert index.state().items == 30
    assert ids(answers(index, [3])[0])[0] == ("i3", "cat")
    index.stop()
    assert ids(answers(index, [3])[0])[0] == ("i3", "cat")
    assert seen.by == ["replica", "redis"]
    assert seen.states[-1].items == 30


def test_what_is_forgotten_is_overwritten_though_nobody_asks(
    index: ReplicatedIndex, writer: RedisIndex
) -> None:
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(9)])
    until(lambda: index.state().items == 9)
    replica = index._replica
    assert replica is not None
    stored = writer.schema.quantise(unit(4)).tobytes()
    assert stored in replica.rows.vectors.tobytes()
    writer.put([erased(writer, "i4", 5)])
    until(lambda: index.state().items == 8)
    assert stored not in replica.rows.vectors.tobytes()


def test_a_replica_that_is_given_up_is_overwritten(
    writer: RedisIndex, index: ReplicatedIndex
) -> None:
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(3)])
    answers(index, [0])
    replica = index._replica
    assert replica is not None
    held = replica.rows._arrays()
    assert replica.rows.vectors.any()
    index.stop()
    assert not any(array.any() for array in held)


def test_a_memory_over_the_budget_is_searched_in_redis(
    opened: Callable[..., ReplicatedIndex], writer: RedisIndex, seen: Seen
) -> None:
    index = opened(ReplicatedIndex)
    index.start(Rows(DIM, writer.schema.element, 0).nbytes, seen)
    loaded(index)
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(4000)])
    assert ids(answers(index, [3])[0])[0] == ("i3", "cat")
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(4000, 4100)])
    assert ids(answers(index, [4050])[0])[0] == ("i4050", "cat")
    assert seen.by == ["replica", "redis"]
    assert index.state() == ReplicaState(0, 0, None)
    index.stop()


def test_a_memory_too_large_at_the_start_is_searched_in_redis(
    opened: Callable[..., ReplicatedIndex],
    writer: RedisIndex,
    seen: Seen,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(4100)])
    index = opened(ReplicatedIndex)
    index.start(Rows(DIM, writer.schema.element, 0).nbytes, seen)
    until(lambda: "too large for a replica" in caplog.text)
    assert ids(answers(index, [4050])[0])[0] == ("i4050", "cat")
    assert seen.by == ["redis"]
    index.stop()


def test_a_reader_that_fell_behind_the_stream_reads_all_anew(
    index: ReplicatedIndex, writer: RedisIndex, redis_client: redis.Redis, seen: Seen
) -> None:
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(5)])
    until(lambda: index.state().items == 5)
    with index._lock:  # as one that hangs
        writer.put([shown(writer, f"i{n}", "dog", n, 2) for n in range(5)])
        redis_client.xtrim(writer.names.changes, maxlen=1, approximate=False)
    assert ids(answers(index, [3])[0])[0] == ("i3", "dog")
    assert seen.by[-1] == "redis"
    loaded(index)
    assert ids(answers(index, [3])[0])[0] == ("i3", "dog")
    assert seen.by[-1] == "replica"


def test_an_older_copy_of_redis_is_read_anew(
    index: ReplicatedIndex, writer: RedisIndex, redis_client: redis.Redis, seen: Seen
) -> None:
    """Whose stream ends before what was read last, and goes on after it."""
    writer.put([shown(writer, "kept", "cat", 1, 1)])
    copied = redis_client.dump(writer.names.changes)
    writer.put([shown(writer, "lost", "cat", 2, 1)])
    until(lambda: index.state().items == 2)
    with index._lock:
        redis_client.delete(writer.names.item(writer.image_key("lost"))[0])
        assert isinstance(copied, bytes)
        redis_client.restore(writer.names.changes, 0, copied, replace=True)
    assert ids(answers(index, [2])[0]) == [("kept", "cat")]
    assert seen.by[-1] == "redis"
    loaded(index)
    writer.put([shown(writer, "new", "cat", 3, 1)])
    assert sorted(ids(answers(index, [2])[0])) == [("kept", "cat"), ("new", "cat")]
    assert seen.by[-1] == "replica"


def test_a_stream_whose_beginning_was_never_read_is_not_trusted(
    index: ReplicatedIndex, writer: RedisIndex, redis_client: redis.Redis, seen: Seen
) -> None:
    with index._lock:
        writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(5)])
        redis_client.xtrim(writer.names.changes, maxlen=2, approximate=False)
    assert len(answers(index, [1], k=9)[0].hits) == 5
    assert seen.by == ["redis"]


def test_a_rebuilt_memory_is_read_anew(
    index: ReplicatedIndex, writer: RedisIndex, redis_client: redis.Redis, seen: Seen
) -> None:
    writer.put([shown(writer, "old", "cat", 1, 1)])
    until(lambda: index.state().items == 1)
    namespace = writer.names.prefix.rpartition(":")[0]
    generations = Generations(redis_client, namespace, writer)
    with generations.lease.hold():
        following = generations.begin(VectorsOnly("test", DIM), "FLAT", "FLOAT16")
        following.put([shown(writer, "new", "dog", 1, 1)])
        assert generations.switch(following, [], "fences") == []
    with pytest.raises(Moved):
        answers(index, [1])
    index.follow()
    assert ids(answers(index, [1])[0]) == [("new", "dog")]
    loaded(index)
    assert ids(answers(index, [1])[0]) == [("new", "dog")]
    assert seen.by[-1] == "replica"


def test_a_question_waits_for_a_redis_that_is_away(index: ReplicatedIndex) -> None:
    """An answer from the replica alone might rest on what is forgotten by now."""
    with (
        patch.object(index._client, "fcall_ro", side_effect=redis.ConnectionError),
        pytest.raises(Unavailable),
    ):
        answers(index, [1])


def test_what_could_not_be_fetched_is_fetched_the_next_time(
    index: ReplicatedIndex, writer: RedisIndex, seen: Seen
) -> None:
    with index._lock:
        writer.put([shown(writer, "i1", "cat", 1, 1)])
        replica = index._replica
        assert replica is not None
        with (
            patch.object(replica, "_take", side_effect=Unavailable("Redis: away")),
            pytest.raises(Unavailable),
        ):
            replica.catch_up()
    assert ids(answers(index, [1])[0]) == [("i1", "cat")]
    assert seen.by == ["replica"]


def test_a_user_that_may_not_read_the_stream_has_redis_searched(
    opened: Callable[..., ReplicatedIndex], writer: RedisIndex, seen: Seen
) -> None:
    writer.put([shown(writer, "i1", "cat", 1, 1)])
    index = opened(ReplicatedIndex)
    denied = redis.exceptions.NoPermissionError("no permissions to run the 'xrevrange' command")
    with patch.object(redis.Redis, "xrevrange", side_effect=denied):
        index.start(1 << 30, seen)
        until(lambda: seen.states)
        assert ids(answers(index, [1])[0]) == [("i1", "cat")]
    assert seen.by == ["redis"]
    index.stop()


def test_what_nobody_expects_leaves_the_answers_to_redis(
    index: ReplicatedIndex, writer: RedisIndex, seen: Seen
) -> None:
    writer.put([shown(writer, "i1", "cat", 1, 1)])
    replica = index._replica
    assert replica is not None
    with patch.object(replica, "catch_up", side_effect=ValueError):
        until(lambda: index.state().age is None)
    assert ids(answers(index, [1])[0]) == [("i1", "cat")]
    assert seen.by == ["redis"]
    assert len(replica.rows) == 0


def test_each_change_of_what_is_shown_is_announced_once_by_its_digest(
    writer: RedisIndex, redis_client: redis.Redis
) -> None:
    writer.put([shown(writer, "i1", "cat", 1, 1), shown(writer, "i1", "cat", 1, 1)])
    writer.put([corrected(writer, "i1", "dog", 2), corrected(writer, "unknown", "dog", 2)])
    writer.put(
        [shown(writer, "i1", "late", 7, 0), erased(writer, "i1", 9), erased(writer, "i1", 9)]
    )
    raw: Any = redis_client
    entries = raw.xrange(writer.names.changes)
    digest = writer.image_key("i1").encode()
    assert [fields for _, fields in entries] == [{b"image": digest}] * 3


def test_what_was_announced_long_ago_is_gone(writer: RedisIndex, redis_client: redis.Redis) -> None:
    raw: Any = redis_client
    minute_ago = 1000 * (int(raw.time()[0]) - 62)
    for n in range(300):
        raw.xadd(writer.names.changes, {"image": "x"}, id=f"{minute_ago}-{n}")
    for n in range(3):
        writer.put([shown(writer, f"i{n}", "cat", n, 1)])
    assert raw.xlen(writer.names.changes) < 150, "whole nodes of a hundred go"


def test_search_of_the_replica_needs_no_search_of_redis(
    index: ReplicatedIndex, writer: RedisIndex
) -> None:
    writer.put([shown(writer, "i1", "cat", 1, 1)])
    with patch.object(VectorSearch, "nearest", side_effect=AssertionError):
        assert ids(answers(index, [1])[0]) == [("i1", "cat")]
        (found,) = index.search([Probe(unit(1), 3, Exclusion(frozenset([index.image_key("i1")])))])
    assert found.hits == ()


def recounted(oracle: ExactIndex, k: int) -> dict[str, int]:
    """Wrong counts by asking for each item's neighbours, without itself."""
    shown = {
        item.trace.image_id: (str(item.label), item.trace.vector)
        for item in oracle.state.items.values()
        if item.trace
    }
    wrong: Counter[str] = Counter()
    for name, (label, vector) in shown.items():
        without = Exclusion(frozenset([oracle.image_key(name)]))
        (found,) = oracle.search([Probe(vector.astype(np.float16).astype(np.float32), k, without)])
        wrong.update(hit.image_id for hit in found.hits if hit.label != label)
    return dict(wrong)


def test_wrong_counts_follow_redis_and_equal_the_recount(
    opened: Callable[..., ReplicatedIndex], writer: RedisIndex, seen: Seen
) -> None:
    choose = random.Random(6)
    oracle = ExactIndex(embedder="test", dim=DIM, hmac_key=KEY)
    index = opened(ReplicatedIndex)
    index.start(1 << 30, seen, counts_wrong=True)
    try:
        for _ in range(3):
            for _ in range(150):
                name, time = f"i{choose.randrange(150)}", choose.randrange(1, 900)
                label, seed = f"l{choose.randrange(3)}", choose.randrange(10_000)
                said = choose.choice([label, None])
                kind = choose.randrange(6)
                for to in (writer, oracle):
                    put = (
                        erased(to, name, time)
                        if kind == 0
                        else corrected(to, name, said, time)
                        if kind == 1
                        else shown(to, name, label, seed, time)
                    )
                    to.put([put])

            def is_recounted() -> bool:
                counts = index.wrong_counts()
                return counts is not None and (counts.soft, counts.hard) == (
                    recounted(oracle, SOFT_NEIGHBORS),
                    recounted(oracle, HARD_NEIGHBORS),
                )

            until(is_recounted)
        state = seen.states[-1]
        assert state.counts is not None
        assert state.counts.age < 5
        assert state.suspects == len(index.suspects()) > 0
    finally:
        index.stop()
    assert (index.wrong_counts(), index.suspects()) == (None, ())


def test_wrong_counts_take_a_small_share_of_the_time_while_questions_come(
    opened: Callable[..., ReplicatedIndex],
    writer: RedisIndex,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long the least is that can be done at a time; by a clock of the test's own."""
    now, spent = [time.monotonic() + 60], [0.0]

    def work(*_: object) -> bool:
        now[0] += 0.02
        spent[0] += 0.02
        return False

    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(5)])
    index = opened(ReplicatedIndex)
    index.start(1 << 30, seen, counts_wrong=True)
    loaded(index)
    index.stop()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    index._load()
    monkeypatch.setattr(index._reliability, "work", work)

    def share_of_time(*, asked: bool) -> float:
        began, before = now[0], spent[0]
        while now[0] < began + 20:
            if asked:
                answers(index, [3])
            index._count_wrong()
            now[0] += 0.01
        return (spent[0] - before) / (now[0] - began)

    assert BUSY_SHARE / 2 < share_of_time(asked=True) < 1.5 * BUSY_SHARE
    now[0] += BUSY_SECONDS
    assert share_of_time(asked=False) > 0.5


def test_counts_that_fail_leave_the_search_to_the_replica(
    opened: Callable[..., ReplicatedIndex], writer: RedisIndex, seen: Seen
) -> None:
    writer.put([shown(writer, f"i{n}", "cat", n, 1) for n in range(5)])
    index = opened(ReplicatedIndex)
    with patch.object(Reliability, "work", side_effect=ZeroDivisionError) as work:
        index.start(1 << 30, seen, counts_wrong=True)
        loaded(index)
        until(lambda: work.called)
        until(lambda: index.wrong_counts() is None)
    assert ids(answers(index, [3])[0])[0] == ("i3", "cat")
    assert seen.by == ["replica"]
    index.stop()
