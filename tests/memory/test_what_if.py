"""Questions that suppose: without what, with which weights, composed of what; and why."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from memory.embedders import VectorsOnly
from memory.errors import Reason, Rejected
from memory.exact.index import ExactIndex
from memory.model.answers import Prediction
from memory.model.events import Correction, Forget, Ingest, Selector, SelectorKind, VectorPayload
from memory.model.questions import (
    MAX_COMPOSED,
    MAX_K,
    MAX_NAMED,
    MAX_REMOVED,
    Factors,
    ItemRef,
    Query,
    Rule,
    WhatIf,
)
from memory.model.times import make_stamp
from memory.service import VisualMemory

DIM = 16
FORGOTTEN_AT = 1000


def vector(seed: int) -> VectorPayload:
    return VectorPayload(np.random.default_rng(seed).normal(size=DIM).astype(np.float32), "test")


def filled(seed: int = 0, count: int = 120) -> VisualMemory:
    """Items of four labels, two sources and some subjects; some corrected, some sent twice."""
    choose = random.Random(seed)
    memory = VisualMemory(ExactIndex(embedder="test", dim=DIM), VectorsOnly("test", DIM))
    events = [
        Ingest(
            stamp=make_stamp(choose.randrange(1, 900), f"{seed} {n}"),
            image_id=f"i{n % count}",
            label=choose.choice("abcd"),
            source=choose.choice(("camera", "scanner")),
            payload=vector(choose.randrange(80)),
            payload_digest="",
            subjects=tuple(choose.sample(["ann", "bob", "eve"], choose.randrange(3))),
        )
        for n in range(2 * count)
    ]
    memory.remember(events)
    memory.correct(
        [
            Correction(make_stamp(n + 1, f"{seed} c"), f"i{choose.randrange(count)}", "e")
            for n in range(9)
        ]
    )
    return memory


def answered(memory: VisualMemory, query: Query) -> Prediction:
    (found,) = memory.recall([query])
    assert isinstance(found, Prediction), found
    return found


def refused(memory: VisualMemory, query: Query) -> Rejected:
    (found,) = memory.recall([query])
    assert isinstance(found, Rejected)
    return found


def without(*selectors: tuple[str, str], **more: Any) -> WhatIf:
    return WhatIf(tuple(Selector(SelectorKind(kind), name) for kind, name in selectors), **more)


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("seed", range(4))
def test_an_exclusion_equals_a_memory_that_forgot(seed: int, rule: Rule) -> None:
    """Neighbour by neighbour, with weights: also what an image bore once, and the corrected label."""
    selectors = [
        *(
            ("image", hit.image_id)
            for hit in answered(filled(seed), Query(vector(1), k=5)).vote.neighbors
        ),
        ("subject", "ann"),
        ("source", "scanner"),
        ("label", "e"),
        ("label", "b"),
    ]
    for number in range(1, len(selectors)):
        some = random.Random(number).sample(selectors, number)
        asked = [vector(n) for n in range(100, 104)]
        kept = filled(seed)
        supposed = [
            answered(kept, Query(v, k=10, rule=rule, what_if=without(*some))) for v in asked
        ]
        # Labels first, as they count now: without an image its label may be nobody's any more.
        for kind, name in sorted(some, key=lambda one: one[0] != "label"):
            kept.forget(Forget(f"{kind} {name}", Selector(SelectorKind(kind), name), FORGOTTEN_AT))
        forgotten = [answered(kept, Query(v, k=10, rule=rule)) for v in asked]
        assert [one.vote for one in supposed] == [one.vote for one in forgotten]
        assert all(one.supposed for one in supposed)


def test_the_memory_is_as_it_was() -> None:
    memory = filled()
    before = memory.index.digests()
    plain = Query(vector(100))
    first = answered(memory, plain)
    answered(
        memory, Query(vector(100), what_if=without(("label", "a"), weights=Factors({"i1": 9})))
    )
    assert answered(memory, plain).vote == first.vote
    assert memory.index.digests() == before
    assert not first.supposed


def test_asking_again_without_the_cited_neighbours_equals_the_what_if() -> None:
    memory = filled()
    plain = answered(memory, Query(vector(100), k=5))
    cited = [neighbor.image_id for neighbor in plain.vote.neighbors]
    supposed = answered(
        memory, Query(vector(100), k=5, what_if=without(*(("image", i) for i in cited)))
    )
    everything = answered(memory, Query(vector(100), k=100)).vote.neighbors
    assert [n.image_id for n in supposed.vote.neighbors] == [n.image_id for n in everything[5:10]]
    assert [n.rank for n in supposed.vote.neighbors] == list(range(5))


@pytest.mark.parametrize("rule", list(Rule))
def test_the_flip_set_flips_the_answer_that_is_asked_for_without_it(rule: Rule) -> None:
    memory = filled()
    for seed in range(100, 130):
        plain = answered(memory, Query(vector(seed), k=7, rule=rule, why=True))
        assert plain.why is not None
        assert plain.why.flip is not None
        images = plain.why.flip.images
        again = answered(
            memory,
            Query(vector(seed), k=7, rule=rule, what_if=without(*(("image", i) for i in images))),
        )
        assert again.vote.label == plain.why.flip.label != plain.vote.label


def test_why_looks_behind_the_neighbours_that_vote_and_leaves_the_vote_as_it_is() -> None:
    memory = filled()
    plain, why = (answered(memory, Query(vector(100), k=10, why=asked)) for asked in (False, True))
    assert plain.why is None
    assert why.vote == plain.vote
    assert why.why is not None
    assert len(why.why.contributions) == 10 + MAX_REMOVED


def test_an_empty_memory_has_no_reason() -> None:
    memory = VisualMemory(ExactIndex(embedder="test", dim=DIM), VectorsOnly("test", DIM))
    assert answered(memory, Query(vector(1), why=True)).why is None


def test_weights_of_images_and_labels_decide() -> None:
    memory = filled()
    plain = answered(memory, Query(vector(100), k=10))
    other = next(n for n in plain.vote.neighbors if n.label != plain.vote.label)
    heavy = Factors({other.image_id: 100})
    assert (
        answered(memory, Query(vector(100), what_if=WhatIf(weights=heavy))).vote.label
        == other.label
    )
    light = Factors(labels={str(plain.vote.label): 0})
    found = answered(memory, Query(vector(100), what_if=WhatIf(weights=light)))
    assert found.vote.label != plain.vote.label
    assert found.vote.shares[str(plain.vote.label)] == 0


def test_vectors_of_items_are_added_and_subtracted() -> None:
    memory = filled()
    rows = [v for v in memory.index.vectors_of(["i1", "i2", "i3"]) if v is not None]
    wide = [row / np.linalg.norm(row) for row in (r.astype(np.float64) for r in rows)]
    total = (wide[0] + wide[1] - wide[2]).astype(np.float32)
    composed = answered(memory, Query(ItemRef("i1"), what_if=WhatIf(plus=("i2",), minus=("i3",))))
    by_hand = answered(
        memory, Query(VectorPayload(total, "test"), what_if=without(("image", "i1")))
    )
    assert [n.image_id for n in composed.vote.neighbors] == [
        n.image_id for n in by_hand.vote.neighbors
    ]
    assert composed.vote.shares == pytest.approx(by_hand.vote.shares)
    image = answered(memory, Query(vector(100), what_if=WhatIf(plus=("i2",))))
    assert image.vote.neighbors[0].image_id


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (Query(vector(1), what_if=without(("image", "nobody"))), Reason.UNKNOWN_EXCLUSION),
        (
            Query(vector(1), what_if=without(("image", "i1"), ("image", "x"))),
            Reason.UNKNOWN_EXCLUSION,
        ),
        (Query(vector(1), what_if=without(("subject", "nobody"))), Reason.UNKNOWN_EXCLUSION),
        (Query(vector(1), what_if=without(("source", "nobody"))), Reason.UNKNOWN_EXCLUSION),
        (Query(vector(1), what_if=without(("label", "nobody"))), Reason.UNKNOWN_EXCLUSION),
        (
            Query(vector(1), what_if=without(("source", "camera"), ("source", "scanner"))),
            Reason.NOTHING_LEFT,
        ),
        (
            Query(vector(1), what_if=WhatIf(weights=Factors(labels=dict.fromkeys("abcde", 0.0)))),
            Reason.NOTHING_LEFT,
        ),
        (Query(vector(1), what_if=WhatIf(plus=("nobody",))), Reason.UNKNOWN_ITEM),
        (Query(ItemRef("i1"), what_if=WhatIf(minus=("nobody",))), Reason.UNKNOWN_ITEM),
        (Query(ItemRef("nobody"), what_if=WhatIf(minus=("i1",))), Reason.UNKNOWN_ITEM),
        (Query(ItemRef("i1"), what_if=WhatIf(minus=("i1",))), Reason.ZERO_VECTOR),
    ],
    ids=str,
)
def test_what_cannot_be_supposed_is_refused_alone(query: Query, reason: Reason) -> None:
    memory = filled()
    good = Query(vector(100))
    first, middle, last = memory.recall([good, query, good])
    assert isinstance(middle, Rejected)
    assert middle.reason is reason
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    assert first.vote == last.vote == answered(memory, good).vote


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Factors({"i1": -0.1}), Reason.INVALID_WEIGHT),
        (lambda: Factors(labels={"a": float("nan")}), Reason.INVALID_WEIGHT),
        (lambda: Factors(labels={"a": float("inf")}), Reason.INVALID_WEIGHT),
        (lambda: Factors({f"i{n}": 1.0 for n in range(MAX_NAMED + 1)}), Reason.INVALID_WEIGHT),
        (lambda: without(*[("image", "i")] * (MAX_NAMED + 1)), Reason.INVALID_EXCLUSION),
        (lambda: WhatIf(plus=("i",) * MAX_COMPOSED, minus=("i",)), Reason.INVALID_ID),
        (lambda: WhatIf(plus=("",)), Reason.INVALID_ID),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_said(make: Any, reason: Reason) -> None:
    with pytest.raises(Rejected) as why:
        make()
    assert why.value.reason is reason


def test_what_is_composed_is_named_in_the_one_spelling() -> None:
    assert WhatIf(plus=("e\u0301",), minus=("a\u3000b",)) == WhatIf(plus=("é",), minus=("a b",))


def test_as_many_items_as_are_allowed_are_composed() -> None:
    memory = filled()
    assert answered(memory, Query(vector(1), what_if=WhatIf(plus=("i1",) * MAX_COMPOSED))).vote


def test_as_much_as_is_allowed_is_answered() -> None:
    memory = filled(count=2 * MAX_NAMED)
    shown = [f"i{n}" for n in range(2 * MAX_NAMED)]
    known: Sequence[str] = [
        i for i, held in zip(shown, memory.index.holds(shown), strict=True) if held
    ]
    named = without(*(("image", i) for i in known[:MAX_NAMED]))
    found = answered(memory, Query(vector(1), k=MAX_K, what_if=named, why=True))
    assert not {n.image_id for n in found.vote.neighbors} & set(known[:MAX_NAMED])
