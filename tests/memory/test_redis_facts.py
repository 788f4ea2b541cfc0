"""Whether a fact of forgetting is in a memory in Redis is found by reading alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from memory.embedders import VectorsOnly
from memory.model.events import Selector, SelectorKind
from memory.model.state import Put
from memory.model.times import FOREVER
from memory.ports import FenceFact
from memory.redis.index import RedisIndex
from memory.service import VisualMemory

IMAGES = ("photo-1", "photo-2")
SELECTORS = (Selector(SelectorKind.SUBJECT, "ann"), Selector(SelectorKind.SOURCE, "app"))
UNTIL = 1_700_000_000_000_000


@pytest.fixture
def index(redis_client: redis.Redis, unique: Callable[[str], str]) -> RedisIndex:
    return RedisIndex.open(
        redis_client,
        namespace=unique("facts"),
        hmac_key=bytes(32),
        embedder=VectorsOnly("test", 8),
    )


def facts_of(index: RedisIndex, until: int = UNTIL) -> list[FenceFact]:
    """One of each kind for each image, selector and a request."""
    images = [index.image_key(image) for image in IMAGES]
    selectors = [index.selector_key(selector) for selector in SELECTORS]
    return [
        *(FenceFact("fence", selector=selector, until=until) for selector in selectors),
        *(FenceFact("barrier", image=image, until=until) for image in images),
        *(FenceFact("posting", selector=s, image=i) for s in selectors for i in images),
        FenceFact("request", request=index.request_key("request"), until=until),
    ]


def test_a_new_memory_has_taken_none(index: RedisIndex) -> None:
    facts = facts_of(index)
    assert index.untaken(facts) == facts


def test_what_is_applied_is_taken_and_nothing_else(index: RedisIndex) -> None:
    facts, memory = facts_of(index), VisualMemory(index, None)
    for applied in range(len(facts)):
        memory.apply([facts[applied]])
        assert index.untaken(facts) == facts[applied + 1 :]


def test_an_earlier_barrier_is_not_a_later_one(index: RedisIndex) -> None:
    VisualMemory(index, None).apply(facts_of(index))
    later, forever = facts_of(index, UNTIL + 1), facts_of(index, FOREVER)
    assert [fact.kind for fact in index.untaken(later)] == ["fence"] * 2 + ["barrier"] * 2
    VisualMemory(index, None).apply(forever)
    assert index.untaken(later) == []


def test_an_image_listed_under_a_selector_that_it_does_not_bear_is_untaken(
    index: RedisIndex,
) -> None:
    """As after a worker that ended between the two writes."""
    posting = facts_of(index)[4]
    index.enlist([((posting.selector,), posting.image)])
    assert index.untaken([posting]) == [posting]
    index.put([Put(image=posting.image, selectors=(posting.selector,))])
    assert index.untaken([posting]) == []


def test_looking_changes_nothing(index: RedisIndex) -> None:
    before = index.digests()
    index.untaken(facts_of(index))
    assert index.digests() == before


def test_a_kind_that_is_unknown_is_no_fact(index: RedisIndex) -> None:
    with pytest.raises(ValueError, match="unknown fact"):
        index.untaken([FenceFact("whatever", image="0" * 32, selector="subject:x")])
