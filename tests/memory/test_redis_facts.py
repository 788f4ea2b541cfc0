"""Whether a fact of forgetting is in a memory in Redis is found by reading alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from memory.embedders import VectorsOnly
from memory.model.events import Selector, SelectorKind
from memory.model.forgetting import Barrier, ClosedRequest, Fence, FenceFact, Posting
from memory.model.state import Put
from memory.model.times import FOREVER
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
        *(Fence(selector, until) for selector in selectors),
        *(Barrier(image, until) for image in images),
        *(Posting(s, i) for s in selectors for i in images),
        ClosedRequest(index.request_key("request"), until),
    ]


def test_a_new_memory_has_taken_none(index: RedisIndex) -> None:
    facts = facts_of(index)
    assert index.missing_facts(facts) == facts


def test_what_is_applied_is_taken_and_nothing_else(index: RedisIndex) -> None:
    facts, memory = facts_of(index), VisualMemory(index, None)
    for applied in range(len(facts)):
        memory.apply([facts[applied]])
        assert index.missing_facts(facts) == facts[applied + 1 :]


def test_an_earlier_barrier_is_not_a_later_one(index: RedisIndex) -> None:
    VisualMemory(index, None).apply(facts_of(index))
    later, forever = facts_of(index, UNTIL + 1), facts_of(index, FOREVER)
    assert [type(fact) for fact in index.missing_facts(later)] == [Fence] * 2 + [Barrier] * 2
    VisualMemory(index, None).apply(forever)
    assert index.missing_facts(later) == []


def test_an_image_listed_under_a_selector_that_it_does_not_bear_is_untaken(
    index: RedisIndex,
) -> None:
    """As after a worker that ended between the two writes."""
    (posting, *_) = [fact for fact in facts_of(index) if isinstance(fact, Posting)]
    index.enlist([((posting.selector,), posting.image)])
    assert index.missing_facts([posting]) == [posting]
    index.put([Put(image=posting.image, selectors=(posting.selector,))])
    assert index.missing_facts([posting]) == []


def test_looking_changes_nothing(index: RedisIndex) -> None:
    before = index.digests()
    index.missing_facts(facts_of(index))
    assert index.digests() == before
