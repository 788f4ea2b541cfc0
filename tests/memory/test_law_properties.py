"""The memory is a function of the set of admitted events: generated histories, real Redis.

Every property is also run against seeded mistakes, to see that it can fail.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from inspect import getsource

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.embedders import VectorsOnly
from memory.errors import Rejected
from memory.exact import index as exact_index
from memory.exact.index import ExactIndex
from memory.model import merge
from memory.model.events import Forget, Ingest, Selector, SelectorKind
from memory.model.keys import ImageKey, RequestKey, SelectorKey
from memory.model.state import Put, PutResult
from memory.model.times import FOREVER
from memory.ports import MemoryIndex
from memory.redis.connection import connect
from memory.redis.index import RedisIndex
from tests.memory import oracle
from tests.memory.histories import (
    DIM,
    EMBEDDER,
    IMAGES,
    KEY,
    KEYS,
    LAST,
    SUBJECTS,
    WRONG_STEPS,
    Admitting,
    History,
    Steps,
    carry,
    described,
    exact,
    histories,
    property_of,
    rebuilt,
    schedules,
    with_prunings,
)
from tests.memory.histories import digests as digests_of

CONNECTIONS = 3
OpenIndexes = Callable[[], Sequence[RedisIndex]]


def opened(client: redis.Redis, namespace: str) -> RedisIndex:
    return RedisIndex.open(
        client, namespace=namespace, hmac_key=KEY, embedder=VectorsOnly(EMBEDDER, DIM)
    )


@pytest.fixture
def open_redis(redis_url: str, unique: Callable[[str], str]) -> Iterator[OpenIndexes]:
    """Connections to one memory in Redis, empty at each call."""
    namespace = unique("law")
    clients = [connect(redis_url) for _ in range(CONNECTIONS)]
    indexes = [opened(client, namespace) for client in clients]

    def empty() -> Sequence[RedisIndex]:
        if keys := list(clients[0].scan_iter(f"{namespace}:1:*", count=10_000)):
            clients[0].delete(*keys)
        return indexes

    yield empty
    for client in clients:
        client.close()


STORES = ["exact", pytest.param("redis", marks=pytest.mark.servers)]


def open_exact() -> Sequence[MemoryIndex]:
    return [exact()]


def test_in_any_order_the_pure_law_ends_in_the_batch_rebuild() -> None:
    property_of(open_exact, examples=1200)()


def test_prunings_are_a_register_like_the_others() -> None:
    property_of(open_exact, examples=1200, drawn=with_prunings)()


def test_prunings_in_redis_end_in_the_batch_rebuild(open_redis: OpenIndexes) -> None:
    property_of(open_redis, examples=500, drawn=with_prunings)()


def test_in_any_order_over_several_connections_redis_ends_in_the_batch_rebuild(
    open_redis: OpenIndexes,
) -> None:
    property_of(open_redis, examples=300)()


@pytest.mark.parametrize("store", STORES)
def test_images_that_are_listed_and_put_in_one_step_end_in_the_batch_rebuild(
    store: str, request: pytest.FixtureRequest
) -> None:
    open_indexes = open_exact if store == "exact" else request.getfixturevalue("open_redis")
    property_of(open_indexes, examples=600 if store == "exact" else 200, steps=Admitting())()


class Both(ExactIndex):
    """The pure law that asks Redis the same at each step and compares what it says and holds."""

    def __init__(self, other: RedisIndex) -> None:
        super().__init__(embedder=EMBEDDER, dim=DIM, hmac_key=KEY)
        self.other = other

    def _same_items(self) -> None:
        for image in map(KEYS.image, IMAGES):
            assert described(self.other.item(image)) == described(self.item(image))

    def enlist(
        self, listings: Sequence[tuple[Sequence[SelectorKey], ImageKey]]
    ) -> list[int | Rejected]:
        barriers = super().enlist(listings)
        assert self.other.enlist(listings) == barriers
        return barriers

    def admit(self, puts: Sequence[Put]) -> list[PutResult | Rejected]:
        results = super().admit(puts)
        assert self.other.admit(puts) == results
        self._compare(puts)
        return results

    def put(self, puts: Sequence[Put], request: RequestKey | None = None) -> list[PutResult]:
        results = super().put(puts, request)
        assert self.other.put(puts, request) == results
        self._compare(puts)
        return results

    def _compare(self, puts: Sequence[Put]) -> None:
        self._same_items()
        touched = [put.image for put in puts]
        facts = self.untold(touched)
        assert self.other.untold(touched) == facts
        if len(facts) % 2:
            self.note_told(facts)
            self.other.note_told(facts)

    def fence(self, selector: SelectorKey, until: int) -> None:
        super().fence(selector, until)
        self.other.fence(selector, until)

    def images_with_selector(self, selector: SelectorKey) -> Iterator[Sequence[ImageKey]]:
        pages = list(super().images_with_selector(selector))
        found = {image for page in self.other.images_with_selector(selector) for image in page}
        assert found == {image for page in pages for image in page}
        yield from pages


@pytest.mark.parametrize("steps", [Steps, Admitting])
def test_redis_and_the_pure_law_agree_step_by_step(
    open_redis: OpenIndexes, steps: type[Steps]
) -> None:
    @settings(max_examples=150, derandomize=True, database=None)
    @given(histories, schedules)
    def agree(history: History, schedule: bytes) -> None:
        both = Both(open_redis()[0])
        carry(history, schedule, [both], steps())
        assert both.other.digests() == both.digests()

    agree()


@settings(derandomize=True, database=None, max_examples=300)
@given(histories)
def test_the_order_of_a_batch_rebuild_is_no_matter(history: History) -> None:
    assert digests_of(rebuilt(history)) == digests_of(rebuilt(history[::-1]))


@pytest.mark.parametrize("store", STORES)
def test_what_was_forgotten_of_a_subject_might_never_have_been_seen(
    store: str, request: pytest.FixtureRequest
) -> None:
    open_indexes = open_exact if store == "exact" else request.getfixturevalue("open_redis")

    @settings(
        max_examples=1000 if store == "exact" else 120,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(histories, schedules, st.sampled_from(SUBJECTS), st.sampled_from([LAST, FOREVER]))
    def never_saw_it(history: History, schedule: bytes, who: str, until: int) -> None:
        request = Forget("r", Selector(SelectorKind.SUBJECT, who), LAST)
        indexes = open_indexes()
        carry([*history, oracle.Admitted(request, until)], schedule, indexes, Steps())
        shown = {
            admitted.event.image_id
            for admitted in history
            if isinstance(admitted.event, Ingest) and who in admitted.event.subjects
        }
        unseen = [
            admitted
            for admitted in history
            if isinstance(admitted.event, Forget) or admitted.event.image_id not in shown
        ]
        assert indexes[0].digests().visible == digests_of(rebuilt(unseen)).visible

    never_saw_it()


# Seeded mistakes: (what is wrong, right text, wrong text).

WRONG_IN_PYTHON = [
    ("the barrier is not kept", "replace(item, barrier=barrier,", "replace(item, "),
    ("a trace at the barrier lives", "merged.trace_stamp, barrier", "merged.trace_stamp, -1"),
    (
        "a trace of the barrier's own time lives",
        "merged.trace_stamp, barrier",
        "merged.trace_stamp, barrier - 1",
    ),
    (
        "a correction of the barrier's own time lives",
        "merged.corrected_stamp, barrier",
        "merged.corrected_stamp, barrier - 1",
    ),
    ("the last trace to arrive wins", " if item.trace_stamp < stamp:", ":"),
    ("the last correction to arrive wins", " if item.corrected_stamp < stamp:", ":"),
    (
        "a later image overwrites a correction",
        "trace_stamp=stamp, trace=trace)",
        'trace_stamp=stamp, trace=trace, corrected_stamp="", corrected=None)',
    ),
    (
        "a withdrawal is no correction",
        " if item.corrected_stamp < stamp:",
        " if label and item.corrected_stamp < stamp:",
    ),
    (
        "selectors of an event that loses are not kept",
        "item.selectors | set(put.selectors)",
        "item.selectors | set(put.selectors if put.write and put.write.stamp > item.trace_stamp else ())",
    ),
    ("dead addresses are lost", "outbox=merged.outbox | dead", "outbox=merged.outbox"),
    (
        "the last fence to arrive stands",
        "max(state.fences.get(selector, NEVER), until)",
        "until",
    ),
    ("enlisting does not tell the fence", "return state.fences.get(selector, NEVER)", "return -1"),
]

WRONG_IN_LUA = [
    ("the barrier is not kept", "assign('b', barrier)", "assign('b', old_barrier)"),
    ("what has the barrier's own time lives", "1, 16) <= barrier\nend", "1, 16) < barrier\nend"),
    ("the last trace to arrive wins", "register == 't' and stamp > ts and", "register == 't' and"),
    (
        "the last correction to arrive wins",
        "register == 'c' and stamp > cs and",
        "register == 'c' and",
    ),
    (
        "a later image overwrites a correction",
        "ts = stamp; asserted = args[8] end",
        "ts = stamp; asserted = args[8]; cs = ''; drop[1] = 'cs'; drop[2] = 'corrected' end",
    ),
    (
        "the label that counts forgets its correction",
        "assign('label', corrected ~= '' and corrected or asserted)",
        "assign('label', asserted); drop[#drop + 1] = 'corrected'",
    ),
    (
        "selectors of an event that loses are not kept",
        "if more_selectors then",
        "if more_selectors and stamp > ts then",
    ),
    ("dead addresses are lost", "call_with_all('SADD', outbox, sent)", ""),
    (
        "the last fence to arrive stands",
        "greater(args[1], redis.call('GET', keys[1]))",
        "args[1]",
    ),
    (
        "a correction is lost when its image comes",
        "moved = redis.call('HGETALL', wait)",
        "moved = {}",
    ),
    (
        "who is listed and put in one step meets no fence",
        "given[1] = greater(given[1], redis.call('GET', keys[i + 1]))",
        "",
    ),
    ("who is put in one step is not listed", "redis.call('SADD', keys[i], args[1])", ""),
]


def wrong(source: str, right_text: str, wrong_text: str) -> str:
    assert source.count(right_text) == 1
    return source.replace(right_text, wrong_text)


@pytest.mark.parametrize(
    ("right_text", "wrong_text"),
    [m[1:] for m in WRONG_IN_PYTHON],
    ids=[m[0] for m in WRONG_IN_PYTHON],
)
def test_a_mistake_in_the_pure_law_is_caught(
    right_text: str, wrong_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(merge.__name__)
    exec(wrong(getsource(merge), right_text, wrong_text), module.__dict__)
    monkeypatch.setattr(exact_index, "merge", module)
    with pytest.raises(AssertionError):
        property_of(open_exact, examples=2000, search_only=True)()


@pytest.mark.parametrize(
    ("right_text", "wrong_text"), [m[1:] for m in WRONG_IN_LUA], ids=[m[0] for m in WRONG_IN_LUA]
)
def test_a_mistake_in_the_functions_is_caught(
    right_text: str, wrong_text: str, open_redis: OpenIndexes, redis_client: redis.Redis
) -> None:
    source = files("memory.redis").joinpath("law.lua").read_text("utf-8")
    redis_client.function_load(wrong(source, right_text, wrong_text), replace=True)
    try:
        with pytest.raises(AssertionError):
            property_of(open_redis, examples=1000, steps=Admitting(), search_only=True)()
    finally:
        redis_client.function_load(source, replace=True)


@pytest.mark.parametrize("steps", WRONG_STEPS)
@pytest.mark.parametrize("store", STORES)
def test_a_mistake_in_the_order_of_steps_is_caught(
    steps: type[Steps], store: str, request: pytest.FixtureRequest
) -> None:
    open_indexes = open_exact if store == "exact" else request.getfixturevalue("open_redis")
    with pytest.raises(AssertionError):
        property_of(open_indexes, examples=2000, steps=steps(), search_only=True)()
