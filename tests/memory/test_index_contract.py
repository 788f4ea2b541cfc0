"""What every MemoryIndex promises: one suite, every adapter, no exemptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import redis

from memory.embedders import VectorsOnly
from memory.errors import Misconfigured, Reason, Rejected
from memory.exact.index import ExactIndex
from memory.model import merge
from memory.model.answers import Influence, SearchResult
from memory.model.events import MAX_SELECTORS, LogAddress, LogPartition, Selector, SelectorKind
from memory.model.forgetting import Barrier, Posting, RequestCounts
from memory.model.keys import ImageKey, SelectorKey
from memory.model.logs import Cut, Witness
from memory.model.questions import Exclusion, Probe
from memory.model.state import (
    CorrectionWrite,
    OpenedRequest,
    PruningWrite,
    Put,
    PutResult,
    Trace,
    TraceWrite,
)
from memory.model.times import FOREVER, NEVER, make_stamp
from memory.model.vectors import Vector, cosine_distances
from memory.ports import MemoryIndex
from memory.redis.index import RedisIndex
from memory.redis.search import VectorSearch
from memory.replica.index import ReplicatedIndex
from memory.replica.rows import Rows
from tests.waiting import until

DIM = 48
KEY = bytes(range(32))
IN_REDIS = ["FLAT-FLOAT16", "FLAT-FLOAT32", "HNSW-FLOAT16", "HNSW-FLOAT32"]
REPLICATED = ["replica-FLAT-FLOAT16", "replica-HNSW-FLOAT32"]
ADAPTERS = [
    "exact",
    *(pytest.param(name, marks=pytest.mark.servers) for name in IN_REDIS + REPLICATED),
]


@pytest.fixture(params=ADAPTERS)
def index(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[MemoryIndex]:
    if request.param == "exact":
        yield ExactIndex(embedder="test", dim=DIM, hmac_key=KEY)
        return
    client: redis.Redis = request.getfixturevalue("redis_client")
    *replicated, algorithm, dtype = request.param.split("-")
    opened = (ReplicatedIndex if replicated else RedisIndex).open(
        client,
        namespace=unique("contract"),
        hmac_key=KEY,
        embedder=VectorsOnly("test", DIM),
        algorithm=algorithm,
        dtype=dtype,
    )
    if not isinstance(opened, ReplicatedIndex):
        yield opened
        return
    opened.start(1 << 30)
    until(lambda: opened.state().age is not None)
    with patch.object(VectorSearch, "nearest", side_effect=AssertionError("Redis was searched")):
        yield opened
    opened.stop()


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=DIM)
    found: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return found


def trace(image_id: str, label: str = "cat", vector: Vector | None = None) -> Trace:
    return Trace(
        image_id=image_id,
        image_digest="0" * 64,
        label=label,
        source="test",
        subjects=(),
        attributes={},
        embedder="test",
        vector=unit(hash_of(image_id)) if vector is None else vector,
    )


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[-6:], "big")


def remember(
    index: MemoryIndex, image_id: str, label: str = "cat", time: int = 1, **more: object
) -> Put:
    put = Put(
        image=index.image_key(image_id),
        write=TraceWrite(
            make_stamp(time, image_id, label),
            trace(image_id, label, more.pop("vector", None)),  # type: ignore[arg-type]  # a vector
        ),
        **more,  # type: ignore[arg-type]  # fields of Put
    )
    index.put([put])
    return put


def test_search_returns_exactly_k_sorted_hits_with_the_cosine_distance(index: MemoryIndex) -> None:
    stored = {f"i{n}": unit(n) for n in range(60)}
    index.put(
        [
            Put(index.image_key(i), write=TraceWrite(make_stamp(1, i), trace(i, vector=v)))
            for i, v in stored.items()
        ]
    )
    query = unit(1000)
    (result,) = index.search([Probe(query, 25)])
    assert len(result.hits) == 25
    distances = [hit.distance for hit in result.hits]
    assert distances == sorted(distances)
    # 2e-3: the stored vectors may be in half precision.
    best = min(1 - float(query @ v) for v in stored.values())
    assert abs(distances[0] - best) < 2e-3


def test_distances_are_those_of_the_stored_vectors_in_double_precision(index: MemoryIndex) -> None:
    ids = [f"i{n}" for n in range(40)]
    for image_id in ids:
        remember(index, image_id)
    stored = {i: v for i, v in zip(ids, index.vectors_of(ids), strict=True) if v is not None}
    query = unit(1000)
    (result,) = index.search([Probe(query, 10)])
    exact = {
        i: 1 - np.dot(v.astype(float), query.astype(float)) / np.linalg.norm(v.astype(float))
        for i, v in stored.items()
    }
    assert [hit.image_id for hit in result.hits] == sorted(exact, key=exact.__getitem__)[:10]
    assert all(abs(hit.distance - exact[hit.image_id]) < 1e-6 for hit in result.hits)


def test_many_questions_at_once_are_answered_each_with_its_own_k(index: MemoryIndex) -> None:
    for n in range(12):
        remember(index, f"i{n}")
    results = index.search([Probe(unit(1), 1), Probe(unit(2), 5), Probe(unit(3), 100)])
    assert [len(result.hits) for result in results] == [1, 5, 12]


def test_equal_vectors_are_ordered_by_id_whatever_order_they_came_in(index: MemoryIndex) -> None:
    same = unit(7)
    for n in np.random.default_rng(0).permutation(300):
        remember(index, f"i{n:03}", vector=same)
    (result,) = index.search([Probe(same, 10)])
    assert [hit.image_id for hit in result.hits] == [f"i{n:03}" for n in range(10)]


def test_an_empty_memory_finds_nothing(index: MemoryIndex) -> None:
    (result,) = index.search([Probe(unit(1), 10)])
    assert result.hits == ()


def test_an_excluded_item_leaves_its_place_to_the_next(index: MemoryIndex) -> None:
    for n in range(5):
        remember(index, f"i{n}")
    (everything,) = index.search([Probe(unit(1), 5)])
    nearest = everything.hits[0].image_id
    without = Exclusion(frozenset([index.image_key(nearest)]))
    (result,) = index.search([Probe(unit(1), 4, without)])
    assert result.hits == everything.hits[1:]


def test_exclusions_by_image_label_and_by_what_was_ever_borne(index: MemoryIndex) -> None:
    ann, bob = SelectorKey("subject:" + "a" * 32), SelectorKey("subject:" + "b" * 32)
    for n in range(40):
        remember(index, f"i{n}", "ab"[n % 2], selectors=(ann,) if n % 5 == 0 else ())
    remember(index, "i0", "b", time=2)  # again, of nobody: what it bore stays
    remember(index, "i1", "late", time=0, selectors=(bob,))  # an event that loses
    (everything,) = index.search([Probe(unit(1), 40)])
    gone = Exclusion(
        frozenset([index.image_key("i3"), index.image_key("unknown")]),
        frozenset([ann, bob]),
        frozenset(["b"]),
    )
    left = [
        hit
        for hit in everything.hits
        if hit.label != "b" and hit.image_id not in ("i1", "i3") and int(hit.image_id[1:]) % 5
    ]
    for k in (1, 5, 40):
        plain, (result, nothing) = (
            index.search([Probe(unit(1), k)]),
            index.search(
                [Probe(unit(1), k, gone), Probe(unit(1), k, Exclusion(labels=frozenset("ab")))]
            ),
        )
        assert plain[0].hits == everything.hits[:k]
        assert result.hits == tuple(left[:k])
        assert nothing.hits == ()


def prune(index: MemoryIndex, image_id: str, *, pruned: bool = True, time: int = 5) -> None:
    write = PruningWrite(make_stamp(time, "operator", image_id, str(pruned)), pruned)
    index.put([Put(index.image_key(image_id), write=write)])


def found(index: MemoryIndex) -> list[str]:
    (result,) = index.search([Probe(unit(1), 100)])
    return sorted(hit.image_id for hit in result.hits)


def test_what_is_pruned_is_in_no_answer_until_it_is_taken_back(index: MemoryIndex) -> None:
    for name in ("i0", "i1", "i2"):
        remember(index, name)
    prune(index, "i1")
    assert found(index) == ["i0", "i2"]
    assert index.holds(["i0", "i1"]) == [True, False]
    assert index.vectors_of(["i1"]) == [None]
    assert index.stats().items == 2
    assert index.label_counts() == {"cat": 2}
    assert index.stats().waiting_corrections == index.stats().barriers == 0
    remember(index, "i1", "dog", time=7)  # comes anew, and is pruned all the same
    assert found(index) == ["i0", "i2"]
    prune(index, "i1", pruned=False, time=6)
    assert found(index) == ["i0", "i1", "i2"]
    assert index.label_counts() == {"cat": 2, "dog": 1}


def test_an_image_may_be_pruned_before_it_comes(index: MemoryIndex) -> None:
    prune(index, "i0")
    assert index.stats().items == 0
    remember(index, "i0")
    assert found(index) == []
    assert not index.put([Put(index.image_key("i0"))])[0].visible


def test_a_pruning_that_is_forgotten_lets_what_came_later_be_seen(index: MemoryIndex) -> None:
    remember(index, "i0", time=9)
    prune(index, "i0", time=5)
    assert found(index) == []
    (result,) = index.put([Put(index.image_key("i0"), barrier=6)])
    assert (result.erased, result.visible) == (True, True)
    assert found(index) == ["i0"]


def test_what_is_pruned_waits_for_nothing(index: MemoryIndex) -> None:
    correct = CorrectionWrite(make_stamp(9, "reviewer", "i0"), "lynx")
    index.put([Put(index.image_key("i0"), barrier=3, write=correct)])
    assert (index.stats().waiting_corrections, index.stats().barriers) == (1, 1)
    remember(index, "i0", time=7)
    prune(index, "i0", time=8)
    assert (index.stats().waiting_corrections, index.stats().barriers) == (0, 0)


def test_a_label_finds_what_is_pruned_too(index: MemoryIndex) -> None:
    """Who forgets a label means all that have it."""
    for name in ("i0", "i1", "i2"):
        remember(index, name)
    prune(index, "i1")
    correct = CorrectionWrite(make_stamp(9, "reviewer", "i2"), "lynx")
    index.put([Put(index.image_key("i2"), write=correct)])
    prune(index, "i2")

    def of(label: str) -> set[ImageKey]:
        return {image for page in index.images_with_label(label) for image in page}

    assert of("cat") == {index.image_key("i0"), index.image_key("i1")}
    assert of("lynx") == {index.image_key("i2")}
    correct = CorrectionWrite(make_stamp(10, "reviewer", "i2"), None)
    index.put([Put(index.image_key("i2"), write=correct)])
    assert of("lynx") == set()
    assert index.image_key("i2") in of("cat")


def test_what_is_pruned_is_erased_like_the_rest(index: MemoryIndex) -> None:
    remember(index, "i0")
    prune(index, "i0")
    (erased,) = index.put([Put(index.image_key("i0"), barrier=20)])
    assert (erased.erased, erased.visible) == (True, False)
    item = index.item(index.image_key("i0"))
    assert item is not None
    assert (item.trace, item.pruned_stamp, item.pruned) == (None, "", False)
    assert not any(index.images_with_label("cat"))
    remember(index, "i0", "dog", time=30)
    assert found(index) == ["i0"]


def test_the_event_with_the_greatest_stamp_stands_whatever_comes_last(index: MemoryIndex) -> None:
    remember(index, "i", "new", time=2)
    remember(index, "i", "old", time=1)
    (result,) = index.search([Probe(unit(1), 1)])
    assert result.hits[0].label == "new"


def test_how_many_sources_sent_an_id_is_told_and_counted(index: MemoryIndex) -> None:
    image, other = index.image_key("i"), index.image_key("other")
    names = [(SelectorKind.SUBJECT, "ada"), (SelectorKind.SOURCE, "a"), (SelectorKind.SOURCE, "b")]
    ada, a, b = (index.selector_key(Selector(kind, value)) for kind, value in names)

    def put(image: ImageKey, *selectors: SelectorKey, barrier: int = NEVER) -> int:
        image_id = "i" if image == index.image_key("i") else "other"
        write = TraceWrite(make_stamp(2, image_id), trace(image_id))
        (result,) = index.put([Put(image, barrier, selectors=selectors, write=write)])
        return result.sources

    assert (put(image, ada, a), put(image, a), put(other, a)) == (1, 1, 1)
    assert index.digests().shared_ids == 0
    assert put(image, b) == 2
    assert index.digests().shared_ids == 1
    assert put(image, a, barrier=9) == 2
    assert index.digests().shared_ids == 0, "what is forgotten is no item"


def test_a_correction_outranks_a_later_image_and_can_be_withdrawn(index: MemoryIndex) -> None:
    image = index.image_key("i")
    index.put([Put(image, write=CorrectionWrite(make_stamp(1, "c"), "dog"))])
    assert index.stats().waiting_corrections == 1
    remember(index, "i", "cat", time=5)
    assert index.label_counts() == {"dog": 1}
    assert index.stats().waiting_corrections == 0
    index.put([Put(image, write=CorrectionWrite(make_stamp(2, "c"), None))])
    assert index.label_counts() == {"cat": 1}


def test_what_is_forgotten_is_in_no_search_and_does_not_come_back(index: MemoryIndex) -> None:
    put = remember(index, "i", time=10)
    (erased,) = index.put([Put(put.image, barrier=10)])
    assert erased.erased
    assert not erased.visible
    assert index.search([Probe(unit(1), 1)])[0].hits == ()
    (again,) = index.put([put])
    assert not again.visible
    assert again.barrier == 10
    assert index.stats().items == 0
    remember(index, "i", time=11)
    assert index.stats().items == 1


def test_a_permanent_barrier_admits_nothing(index: MemoryIndex) -> None:
    index.put([Put(index.image_key("i"), barrier=FOREVER)])
    remember(index, "i", time=FOREVER - 1)
    assert index.stats().items == 0


def test_dead_addresses_move_to_the_outbox_and_live_ones_stay(index: MemoryIndex) -> None:
    start = 1_790_000_000_000_000
    old, new = LogAddress(start + 5, "t", 0, "a"), LogAddress(start + 15, "t", 0, "b")
    image = index.image_key("i")
    remember(index, "i", time=start + 15, address=new)
    remember(index, "i", time=start + 5, address=old)
    index.put([Put(image, barrier=start + 10)])
    item = index.item(image)
    assert item is not None
    assert item.log == {new}
    assert item.outbox == {old}
    late = LogAddress(start + 7, "t", 1, "c")
    index.put([Put(image, address=late)])
    item = index.item(image)
    assert item is not None
    assert item.outbox == {old, late}


def test_the_put_that_hides_an_item_keeps_its_own_newer_address(index: MemoryIndex) -> None:
    """As of an image whose new picture is rejected while a fence erases the old one."""
    old, new = LogAddress(5, "t", 0, "a"), LogAddress(15, "t", 0, "b")
    image = index.image_key("i")
    remember(index, "i", time=5, address=old)
    (hidden,) = index.put([Put(image, barrier=10, address=new)])
    assert (hidden.erased, hidden.visible) == (True, False)
    item = index.item(image)
    assert item is not None
    assert item.log == {new}
    assert item.outbox == {old}


def test_an_item_keeps_all_that_its_event_said(index: MemoryIndex) -> None:
    said = replace(
        trace("i", "猫"),
        source="camera 7",
        subjects=("ada", "bob"),
        attributes={"lens": "f/2", "": "é"},
    )
    image = index.image_key("i")
    index.put([Put(image, write=TraceWrite(make_stamp(1, "i"), said))])
    index.put([Put(image, write=CorrectionWrite(make_stamp(2, "c"), "dog"))])
    item = index.item(image)
    assert item is not None
    assert item.trace is not None
    for name in (
        "image_id",
        "image_digest",
        "label",
        "source",
        "subjects",
        "attributes",
        "embedder",
    ):
        assert getattr(item.trace, name) == getattr(said, name), name
    assert item.corrected == "dog"


def test_fences_are_told_to_those_who_enlist(index: MemoryIndex) -> None:
    subject = index.selector_key(Selector(SelectorKind.SUBJECT, "ada"))
    source = index.selector_key(Selector(SelectorKind.SOURCE, "camera"))
    image = index.image_key("i")
    assert index.enlist([((subject, source), image)]) == [NEVER]
    index.fence(source, 7)
    index.fence(source, 3)
    assert index.enlist([((subject, source), image), ((subject,), image)]) == [7, NEVER]
    assert [list(page) for page in index.images_with_selector(subject)] == [[image]]
    index.put([Put(image, barrier=9)])
    assert index.enlist([((subject,), image)]) == [9]


def test_what_is_listed_and_put_in_one_step_is_as_in_two(index: MemoryIndex) -> None:
    subject, other, source = (
        index.selector_key(Selector(kind, name))
        for kind, name in (
            (SelectorKind.SUBJECT, "ada"),
            (SelectorKind.SUBJECT, "bob"),
            (SelectorKind.SOURCE, "camera"),
        )
    )
    one, two = index.image_key("one"), index.image_key("two")
    index.fence(subject, 7)
    index.fence(other, 9)
    before, after, both = (
        Put(image, 3, selectors=selectors, write=TraceWrite(make_stamp(time, image), trace(name)))
        for image, name, time, selectors in (
            (one, "one", 7, (source, subject)),
            (one, "one", 8, (source, subject)),
            (two, "two", 8, (subject, other)),
        )
    )
    refused, taken, fenced = index.admit([before, after, both])
    assert refused == PutResult(7, won=False, erased=False, visible=False, outbox=0, sources=1)
    assert taken == PutResult(7, won=True, erased=False, visible=True, outbox=0, sources=1)
    assert fenced == PutResult(9, won=False, erased=False, visible=False, outbox=0, sources=0)
    listed = {
        image
        for selector in (subject, source)
        for page in index.images_with_selector(selector)
        for image in page
    }
    assert listed == {one, two}
    held = index.item(two)
    assert held is not None
    assert held.selectors == {subject, other}


def test_in_one_step_too_an_image_bears_no_more_than_it_may(index: MemoryIndex) -> None:
    image = index.image_key("i")
    many, new = (
        tuple(
            index.selector_key(Selector(SelectorKind.SUBJECT, f"{part}-{n}")) for n in range(size)
        )
        for part, size in (("many", MAX_SELECTORS), ("new", 1))
    )
    full, over, again = index.admit(
        [
            Put(image, selectors=many),
            Put(
                image,
                address=LogAddress(5, "topic", 0, "k"),
                selectors=new,
                write=TraceWrite(make_stamp(5, image), trace("i")),
            ),
            Put(image, selectors=many[:3]),
        ]
    )
    assert over == merge.NO_ROOM
    assert isinstance(full, PutResult)
    assert isinstance(again, PutResult)
    assert not again.visible
    assert list(index.images_with_selector(new[0])) == []
    held = index.item(image)
    assert held is not None
    assert held.selectors == set(many)
    assert held.log == {LogAddress(5, "topic", 0, "k")}


def test_an_image_bears_no_more_selectors_than_it_may(index: MemoryIndex) -> None:
    image = index.image_key("i")
    first, second, third, fourth = (
        [index.selector_key(Selector(SelectorKind.SUBJECT, f"{part}-{n}")) for n in range(size)]
        for part, size in enumerate([MAX_SELECTORS - 10, 5, 5, 1])
    )
    assert index.enlist([(first, image)]) == [NEVER]
    index.put([Put(image, selectors=tuple(first))])
    together = [(part, image) for part in (second, second, third, fourth, first)]
    assert index.enlist(together) == [NEVER, NEVER, NEVER, merge.NO_ROOM, NEVER]
    index.put([Put(image, selectors=(*second, *third))])
    assert index.enlist([(fourth, image), ((), image)]) == [merge.NO_ROOM, NEVER]
    assert list(index.images_with_selector(fourth[0])) == []
    assert index.enlist([((*first, *second, *third), image)]) == [NEVER]
    index.put([Put(image, barrier=7)])
    assert index.enlist([(third, image), (fourth, index.image_key("other"))]) == [7, NEVER]


def test_a_batch_may_name_any_number_of_selectors_of_one_image(index: MemoryIndex) -> None:
    """256 images of one id, each of 64 subjects of its own: more than Lua passes as arguments."""
    image = index.image_key("i")
    events = [
        [index.selector_key(Selector(SelectorKind.SUBJECT, f"{event}-{n}")) for n in range(64)]
        for event in range(256)
    ]
    with_room = MAX_SELECTORS // 64
    barriers = index.enlist([(named, image) for named in events])
    assert barriers == [NEVER] * with_room + [merge.NO_ROOM] * (256 - with_room)


def test_facts_of_an_image_are_untold_until_they_are_told(index: MemoryIndex) -> None:
    image = index.image_key("i")
    ada, bob, eve = (
        index.selector_key(Selector(SelectorKind.SUBJECT, name)) for name in ("ada", "bob", "eve")
    )
    assert index.untold([image]) == []
    remember(index, "i", time=5, selectors=(eve, bob))
    assert index.untold([image]) == [Posting(s, image) for s in sorted((bob, eve))]
    index.put([Put(image, barrier=7, selectors=(eve,))])
    before = index.untold([image])
    assert before == [Barrier(image, 7), *(Posting(s, image) for s in sorted((bob, eve)))]
    index.put([Put(image, barrier=9, selectors=(ada, eve))])
    index.note_told(before)
    remember(index, "i", time=10)  # it is seen again
    assert index.untold([image]) == [Barrier(image, 9), Posting(ada, image)]
    now = index.untold([image])
    index.note_told(now)
    index.note_told(before)  # who comes late sets nothing back
    index.put([Put(image, barrier=9)])
    assert index.untold([image]) == []
    index.put([Put(image, barrier=20)])  # hidden again
    assert index.untold([image]) == [Barrier(image, 20)]
    assert index.untold([index.image_key("never seen")]) == []


def test_a_large_source_lists_all_its_images(index: MemoryIndex) -> None:
    source = index.selector_key(Selector(SelectorKind.SOURCE, "camera"))
    images = {index.image_key(str(n)) for n in range(2500)}
    index.enlist([((source,), image) for image in images])
    assert {image for page in index.images_with_selector(source) for image in page} == images


AWKWARD = ["a,b", "A,B", "ä ö", "猫", "{x}|y", 'quo"te', "back\\slash", "$label", "-minus", "*"]


def test_awkward_labels_are_counted_and_found_apart(index: MemoryIndex) -> None:
    for n, label in enumerate(AWKWARD):
        remember(index, f"i{n}", label)
    assert index.label_counts() == dict.fromkeys(AWKWARD, 1)
    assert index.label_counts(AWKWARD) == dict.fromkeys(AWKWARD, 1)
    for n, label in enumerate(AWKWARD):
        pages = list(index.images_with_label(label))
        assert [list(page) for page in pages] == [[index.image_key(f"i{n}")]]


def test_no_label_is_taken_for_another_that_escapes_it(index: MemoryIndex) -> None:
    """What a search engine may read as an escape, a wildcard or a quote stands for itself."""
    printable = [chr(code) for code in range(33, 127)]
    shapes = ("{}", "\\{}", "\\\\{}", "a{}b", "a\\{}b", "a\\\\{}b", "{}\\")
    labels = list(dict.fromkeys(shape.format(sign) for shape in shapes for sign in printable))
    for n, label in enumerate(labels):
        remember(index, f"i{n}", label)
    assert index.label_counts(labels) == dict.fromkeys(labels, 1)
    for n, label in enumerate(labels):
        found = [image for page in index.images_with_label(label) for image in page]
        assert (label, found) == (label, [index.image_key(f"i{n}")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"embedder": "other"}, Reason.OTHER_EMBEDDER),
        ({"vector": np.ones(DIM + 1, np.float32)}, Reason.WRONG_DIMENSION),
        ({"vector": np.full(DIM, np.nan, np.float32)}, Reason.NOT_FINITE),
        ({"vector": np.zeros(DIM, np.float32)}, Reason.ZERO_VECTOR),
    ],
)
def test_vectors_that_do_not_belong_never_enter(
    index: MemoryIndex, change: dict[str, object], reason: Reason
) -> None:
    good = trace("i")
    fields = {name: getattr(good, name) for name in Trace.__slots__} | change
    put = Put(index.image_key("i"), write=TraceWrite(make_stamp(1, "i"), Trace(**fields)))
    with pytest.raises(Rejected) as caught:
        index.put([put])
    assert caught.value.reason is reason
    assert index.stats().items == 0


def test_positions_only_move_forward(index: MemoryIndex) -> None:
    index.advance({LogPartition("t", 0): 10, LogPartition("t", 1): 1})
    index.advance({LogPartition("t", 0): 4, LogPartition("t", 2): 9_007_199_254_740_993 - 2})
    assert index.positions() == {("t", 0): 10, ("t", 1): 1, ("t", 2): 9_007_199_254_740_991}


def test_positions_that_the_store_has_forgotten_do_not_move(index: MemoryIndex) -> None:
    here, there, time = LogPartition("t", 0), LogPartition("t", 1), 1_790_000_000_000_001
    assert index.advance({here: 5}, {here: time}, {here: 0})
    assert not index.advance({here: 9}, {here: time + 1}, {here: 6})
    assert not index.advance({here: 9, there: 3}, {here: time + 1}, {here: 5, there: 1})
    assert index.positions() == {here: 5}
    assert index.witnesses() == {here: [Witness(5, time)]}
    assert index.advance({here: 9, there: 3}, {here: time + 1}, {here: 5, there: 0})
    assert index.advance({here: 8}, {}, {here: 7}), "a zombie knows of less"
    assert index.positions() == {here: 9, there: 3}


def test_a_log_is_known_by_what_was_last_so_of_it(index: MemoryIndex) -> None:
    here, there = LogPartition("t", 0), LogPartition("t", 1)
    assert index.witnesses() == {}
    index.advance({}, {here: 1_790_000_000_000_001})
    assert index.witnesses() == {}, "a time without a position says nothing"
    index.advance({here: 5, there: 7})
    assert index.witnesses() == {here: [Witness(5, 1_790_000_000_000_001)]}
    here_noted, there_noted = Witness(5, 1_790_000_000_000_001), Witness(7, 3)
    index.note_witnesses({here: [here_noted], there: [there_noted]})
    index.advance({}, {here: 9})
    index.advance({}, {here: 1_790_000_000_000_008})
    index.advance({here: 8})
    index.note_witnesses({there: [Witness(6, 4)]})
    at_position = Witness(8, 1_790_000_000_000_008)
    assert index.witnesses() == {
        here: [at_position, here_noted],
        there: [there_noted, Witness(6, 4)],
    }
    index.note_witnesses({here: [at_position]}, {here: [at_position, here_noted]})
    index.note_witnesses({}, {there: [Witness(6, 4), Witness(9, 9)]})
    assert index.witnesses() == {here: [at_position, at_position], there: [there_noted]}


def test_a_cut_log_is_read_again_from_there_and_the_cut_is_kept(index: MemoryIndex) -> None:
    here = LogPartition("t", 0)
    index.advance({}, {here: 1_790_000_000_000_000})
    index.advance({here: 60, LogPartition("t", 1): 60})
    index.note_witnesses({here: [Witness(50, 1_790_000_000_000_000), Witness(7, 1)]})
    index.rewind(here, Cut(40, 1_790_000_000_001_999))
    assert index.positions() == {here: 40, LogPartition("t", 1): 60}
    assert index.witnesses() == {here: [Witness(40, 1_790_000_000_002_000)]}
    index.rewind(here, Cut(45, 1_790_000_000_003_999))
    assert index.positions()[here] == 40, "a position is never set forward"
    assert index.cuts() == {here: [Cut(40, 1_790_000_000_001_999), Cut(45, 1_790_000_000_003_999)]}
    index.advance({here: 41})
    assert index.positions()[here] == 41


def test_a_request_keeps_its_first_time_and_its_expansion_until_it_is_closed(
    index: MemoryIndex,
) -> None:
    request = index.request_key("r")
    assert index.open_request(request, 20) == OpenedRequest(20, closed=False, results=[])
    assert index.open_request(request, 10) == OpenedRequest(10, closed=False, results=[])
    assert index.open_request(request, 20) == OpenedRequest(10, closed=False, results=None)
    assert index.open_requests() == 1
    assert index.expansion(request, [ImageKey("a")]) == {"a"}
    assert index.expansion(request, [ImageKey("b")]) == {"a", "b"}
    index.close_request(request, 99)
    assert index.open_requests() == 0
    assert index.open_request(request, 30) == OpenedRequest(10, closed=True, results=None)
    assert index.open_requests() == 0
    assert index.expansion(request, ()) == frozenset()


def test_what_is_near_an_image_is_found_exactly_and_the_pruned_too(index: MemoryIndex) -> None:
    rng = np.random.default_rng(5)
    middle = rng.normal(size=DIM)
    vectors = [middle + spread * rng.normal(size=DIM) for spread in np.linspace(0.01, 3, 40)]
    for n, vector in enumerate(vectors):
        remember(index, f"i{n}", vector=(vector / np.linalg.norm(vector)).astype(np.float32))
    keys = [index.image_key(f"i{n}") for n in range(40)]
    index.put([Put(keys[7], write=PruningWrite(make_stamp(9, "p"), pruned=True))])
    held = [index.item(key) for key in keys]
    stored = np.array([item.trace.vector for item in held if item and item.trace])
    for given, distance in (([0], 0.3), ([0, 39], 0.25), ([7], 0.0), ([3], 0.999)):
        nearest = np.min([cosine_distances(stored[n], stored) for n in given], axis=0)
        near = {keys[n] for n in range(40) if nearest[n] <= distance} | {keys[n] for n in given}
        found = index.images_near([keys[n] for n in given], distance)
        assert {image for page in found for image in page} == near
    assert list(index.images_near([index.image_key("never")], 0.9)) == []


def test_a_request_counts_each_image_once_and_keeps_its_first_counts(index: MemoryIndex) -> None:
    request, other = index.request_key("r"), index.request_key("other")
    assert index.note_dying(request, ()) == 0
    assert index.note_dying(request, [ImageKey("a"), ImageKey("b")]) == 2
    assert index.note_dying(request, [ImageKey("b"), ImageKey("c")]) == 3
    assert index.note_dying(other, [ImageKey("a")]) == 1
    assert index.counts_of(request) is None
    assert index.note_counts(request, 4) == RequestCounts(3, 4)
    assert index.note_counts(request, 5) == RequestCounts(3, 5)
    for _ in range(2):
        index.close_request(request, 99)
        assert index.counts_of(request) == RequestCounts(3, 5)
    assert index.note_dying(request, ()) == 0
    index.close_request(other, 99)
    assert index.counts_of(other) is None, "what the log says has no counts"


def test_what_a_barrier_would_erase_is_told_before(index: MemoryIndex) -> None:
    """A trace, what people said of an image that is not there yet, and whether it is pruned."""
    remember(index, "shown", time=20)
    keys = [index.image_key(name) for name in ("shown", "corrected", "pruned", "never")]
    stamp = make_stamp(20, "said")
    index.put([Put(keys[1], write=CorrectionWrite(stamp, "dog"))])
    index.put([Put(keys[2], write=PruningWrite(stamp, pruned=True))])
    assert index.dying(keys, 19) == [False] * 4
    assert index.dying(keys, 20) == [True, True, True, False]
    assert [one.erased for one in index.put([Put(key, barrier=20) for key in keys])] == (
        [True, True, True, False]
    )
    assert index.dying(keys, 20) == [False] * 4


def test_what_dies_by_a_request_is_noted_as_it_dies(index: MemoryIndex) -> None:
    request = index.request_key("r")
    remember(index, "shown", time=20)
    remember(index, "late", time=21, selectors=(SelectorKey("s"),))
    keys = [index.image_key(name) for name in ("shown", "late", "never")]
    index.put([Put(key, barrier=20) for key in keys], request)
    assert index.note_dying(request, ()) == 1
    index.put([Put(key, barrier=20) for key in keys], request)
    assert index.note_dying(request, keys[:1]) == 1
    index.put([Put(key, barrier=21) for key in keys])
    assert index.note_dying(request, ()) == 1, "of nobody's request"


def test_what_a_new_request_names_is_erased_as_it_is_opened(index: MemoryIndex) -> None:
    names = [f"i{n}" for n in range(45)]
    keys = list(map(index.image_key, names))
    for name in names[1:]:
        remember(index, name, time=20)
    request = index.request_key("r")
    opened = index.open_request(request, 20, [Put(key, barrier=20) for key in keys])
    assert (opened.first_seen, opened.closed) == (20, False)
    assert opened.results is not None
    assert [one.erased for one in opened.results] == [False] + [True] * 44
    assert {one.barrier for one in opened.results} == {20}
    assert not any(index.holds(names))
    assert index.note_counts(request, 45) == RequestCounts(44, 45)


@pytest.mark.parametrize("before", ["seen earlier", "closed"])
def test_what_another_time_would_erase_is_not_put_as_a_request_is_opened(
    index: MemoryIndex, before: str
) -> None:
    request, image = index.request_key("r"), index.image_key("i")
    index.open_request(request, 10 if before == "seen earlier" else 20)
    if before == "closed":
        index.close_request(request, 20)
    remember(index, "i", time=15)
    assert index.open_request(request, 20, [Put(image, barrier=20)]).results is None
    assert index.holds(["i"]) == [True]
    assert index.note_dying(request, ()) == 0


def test_the_oldest_request_is_the_open_one_that_was_seen_first(index: MemoryIndex) -> None:
    assert index.oldest_request() is None
    older, old = index.request_key("older"), index.request_key("old")
    index.open_request(older, 10)
    index.open_request(old, 20)
    assert index.oldest_request() == 10
    index.close_request(older, 99)
    assert index.oldest_request() == 20
    index.close_request(old, 99)
    assert index.oldest_request() is None


def test_stored_vectors_come_back_in_the_index_element_type(index: MemoryIndex) -> None:
    remember(index, "i", vector=unit(3))
    known, unknown = index.vectors_of(["i", "j"])
    assert unknown is None
    assert known is not None
    assert np.abs(known - unit(3)).max() < 1e-3


def test_digests_agree_between_adapters(index: MemoryIndex) -> None:
    oracle = ExactIndex(embedder="test", dim=DIM, hmac_key=KEY)
    subject = oracle.selector_key(Selector(SelectorKind.SUBJECT, "ada"))
    for memory in (index, oracle):
        remember(memory, "a", "猫", selectors=(subject,))
        remember(memory, "b", time=3)
        memory.put([Put(memory.image_key("c"), write=CorrectionWrite(make_stamp(1, "c"), None))])
        memory.put([Put(memory.image_key("b"), barrier=4)])
        memory.fence(subject, 1)
    assert index.digests() == oracle.digests()


def test_digests_tell_whether_an_image_is_pruned(index: MemoryIndex) -> None:
    remember(index, "a")
    seen = [index.digests()]
    for time, pruned in ((8, True), (9, False)):
        stamp = make_stamp(time, "a")
        index.put([Put(index.image_key("a"), write=PruningWrite(stamp, pruned))])
        seen.append(index.digests())
    assert len({found.visible for found in seen}) == len({found.full for found in seen}) == 3


def test_a_memory_refuses_another_embedder_key_or_shape(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    namespace = unique("refuse")

    def opened(
        name: str = "test", dim: int = DIM, key: bytes = KEY, algorithm: str = "FLAT"
    ) -> RedisIndex:
        return RedisIndex.open(
            redis_client,
            namespace=namespace,
            hmac_key=key,
            embedder=VectorsOnly(name, dim),
            algorithm=algorithm,
        )

    with pytest.raises(Misconfigured, match="there is no memory"):
        RedisIndex.open(redis_client, namespace=namespace, hmac_key=KEY)
    opened()
    assert RedisIndex.open(redis_client, namespace=namespace, hmac_key=KEY).dim == DIM
    for wrong, what in (
        ({"name": "other"}, "embedder"),
        ({"dim": DIM + 1}, "dim"),
        ({"key": bytes(32)}, "hmac_key_id"),
        ({"algorithm": "HNSW"}, "algorithm"),
    ):
        with pytest.raises(Misconfigured, match=what):
            opened(**wrong)


def test_nothing_personal_stands_in_a_key(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    namespace = unique("keys")
    index = RedisIndex.open(
        redis_client, namespace=namespace, hmac_key=KEY, embedder=VectorsOnly("test", DIM)
    )
    subject = index.selector_key(Selector(SelectorKind.SUBJECT, "ada-lovelace"))
    index.enlist([((subject,), index.image_key("portrait-of-ada"))])
    remember(index, "portrait-of-ada", selectors=(subject,))
    keys = list(redis_client.scan_iter(f"{namespace}*"))
    assert keys
    assert not [key for key in keys if b"love" in key or b"portrait" in key]


def test_the_positions_of_a_search_are_of_before_it(index: MemoryIndex) -> None:
    place = LogPartition("topic", 0)
    index.advance({place: 7})
    searching = (Rows, "nearest") if isinstance(index, ReplicatedIndex) else (type(index), "search")

    def overtaken(*_: object) -> list[SearchResult]:
        index.advance({place: 8})
        return []

    with patch.object(*searching, side_effect=overtaken):
        positions, _ = index.search_as_of([Probe(unit(0), 1)])
    assert positions[place] == 7
    assert index.search_as_of([])[0][place] == 8


def test_the_influence_of_what_is_shown_is_counted_and_the_forgotten_has_none(
    index: MemoryIndex,
) -> None:
    for name in ("i0", "i1", "i2", "i3"):
        remember(index, name)
    assert index.influence(10) == (0, [])
    index.add_influence({"i0": (5, 0), "i1": (2, 1), "i2": (3, 1), "never": (9, 9)})
    index.add_influence({"i0": (1, 0)})
    ranked = [Influence("i2", 3, 1), Influence("i1", 2, 1), Influence("i0", 6, 0)]
    assert index.influence(10) == (3, ranked)
    assert index.influence(1) == (3, ranked[:1])
    assert index.influence(10, "i0") == (3, ranked[2:])
    assert index.influence(10, "i3") == (3, [Influence("i3", 0, 0)])
    assert index.influence(10, "never") == (3, [])
    prune(index, "i2")
    index.add_influence({"i2": (1, 1)})  # comes late
    assert index.influence(1) == (3, ranked[:1])
    index.put([Put(index.image_key("i1"), barrier=50), Put(index.image_key("i2"), barrier=50)])
    index.add_influence({"i1": (1, 1)})
    assert index.influence(10) == (1, ranked[2:])
    remember(index, "i1", time=60)  # given again: it begins anew
    assert index.influence(10, "i1") == (1, [Influence("i1", 0, 0)])


def test_what_comes_anew_at_once_with_the_end_of_the_old_begins_anew(index: MemoryIndex) -> None:
    remember(index, "i0")
    index.add_influence({"i0": (5, 1)})
    write = TraceWrite(make_stamp(60, "again"), trace("i0"))
    index.put([Put(index.image_key("i0"), barrier=50, write=write)])
    assert index.influence(10) == (0, [])
