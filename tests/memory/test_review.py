"""Looking a memory through, abstaining, and counting who was used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from memory.embedders import VectorsOnly
from memory.errors import Reason, Rejected
from memory.exact.index import ExactIndex
from memory.model.answers import (
    Effect,
    Findings,
    Influence,
    LabelEffect,
    Prediction,
    Suspect,
)
from memory.model.events import Forget, Ingest, Selector, SelectorKind, VectorPayload
from memory.model.questions import MAX_LISTED, About, ItemRef, Query, Review, Rule, WhatIf
from memory.model.reliability import WrongCounts
from memory.model.times import make_stamp
from memory.service import VisualMemory

FOUR = VectorPayload(np.array([1.0, 0.0], np.float32), "test")
SUSPECTS = [Suspect(f"i{n}", "a", "b", 0.9, 0.1, 7) for n in range(5)]
EFFECT = Effect(("i0", "i1", "i2"), {"a": LabelEffect(3, 4, 2, 3)})


class Counting(ExactIndex):
    """An index that has wrong counts."""

    def wrong_counts(self) -> WrongCounts:
        return WrongCounts({}, {}, frozenset(), 2.5)

    def suspects(self) -> Sequence[Suspect]:
        return SUSPECTS

    def effect_of_pruning(self, least: int) -> Effect | None:
        return EFFECT if least == 9 else None


def memory(labels: str, index: type[ExactIndex] = ExactIndex, least: float = 0.0) -> VisualMemory:
    """Items i0, i1, ... of these labels, each farther from (1, 0)."""
    found = VisualMemory(index(embedder="test", dim=2), VectorsOnly("test", 2), min_share=least)
    found.remember(
        [
            Ingest(
                make_stamp(1, str(n)),
                f"i{n}",
                label,
                "camera",
                VectorPayload(np.array([1.0, 0.1 * n], np.float32), "test"),
                "",
            )
            for n, label in enumerate(labels)
        ]
    )
    return found


def ask(held: VisualMemory, query: Query) -> Prediction:
    (found,) = held.recall([query])
    assert isinstance(found, Prediction)
    return found


def test_it_abstains_below_the_share_that_is_asked_for() -> None:
    held = memory("aabb")
    plain = Query(FOUR, 4, Rule.PLURALITY)
    assert not ask(held, plain).abstained
    for least, abstained in ((0.5, False), (0.5001, True), (1.0, True), (0.0, False)):
        found = ask(held, Query(FOUR, 4, Rule.PLURALITY, min_share=least))
        assert found.abstained is abstained
        assert found.vote.shares == {"a": 0.5, "b": 0.5}


def test_a_question_overrules_the_share_of_the_memory() -> None:
    held = memory("aab", least=0.9)
    assert ask(held, Query(FOUR, 3, Rule.PLURALITY)).abstained
    assert not ask(held, Query(FOUR, 3, Rule.PLURALITY, min_share=0.6)).abstained


def test_an_empty_memory_does_not_abstain() -> None:
    found = ask(memory(""), Query(FOUR, min_share=1.0))
    assert (found.empty, found.abstained) == (True, False)


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_is_from_0_to_1(least: float) -> None:
    with pytest.raises(Rejected) as why:
        Query(FOUR, min_share=least)
    assert why.value.reason is Reason.INVALID_THRESHOLD


def test_where_nothing_was_asked_yet_nothing_had_influence() -> None:
    held = memory("ab")
    assert held.review(Review(About.INFLUENCE)) == Findings("influence", 0)
    assert isinstance(held.review(Review(About.INFLUENCE, image_id="nobody")), Rejected)


def test_who_voted_and_who_decided_is_counted_once_written_down() -> None:
    held = memory("abba")
    asked = Query(FOUR, 3, Rule.PLURALITY)  # a, b, b: without either b the other a moves up
    ask(held, asked)
    assert held.index.influence(10) == (0, [])
    held.write_influence()
    expected = [Influence("i1", 1, 1), Influence("i2", 1, 1), Influence("i0", 1, 0)]
    assert held.review(Review(About.INFLUENCE)) == Findings(
        "influence", 3, influence=tuple(expected)
    )
    held.write_influence()
    assert held.index.influence(1) == (3, expected[:1])
    one = held.review(Review(About.INFLUENCE, image_id="i0"))
    assert one == Findings("influence", 3, influence=(expected[2],))


def test_who_has_one_of_its_own_behind_it_decides_nothing() -> None:
    held = memory("aa")
    ask(held, Query(FOUR, 1))
    held.write_influence()
    assert held.index.influence(10) == (1, [Influence("i0", 1, 0)])


def test_what_is_only_supposed_is_not_counted() -> None:
    held = memory("abba")
    without = WhatIf((Selector(SelectorKind.IMAGE, "i0"),))
    ask(held, Query(FOUR, 3, what_if=without))
    held.write_influence()
    assert held.index.influence(10) == (0, [])


def test_the_forgotten_has_no_influence_though_it_is_written_down_late() -> None:
    held = memory("abba")
    ask(held, Query(FOUR, 3))
    held.forget(Forget("r", Selector(SelectorKind.IMAGE, "i1"), 10))
    held.write_influence()
    assert held.index.influence(10)[0] == 2
    unknown = held.review(Review(About.INFLUENCE, image_id="i1"))
    assert isinstance(unknown, Rejected)
    assert unknown.reason is Reason.UNKNOWN_ITEM


def test_suspects_and_what_pruning_would_change_are_told_with_the_age_of_the_counts() -> None:
    held = memory("ab", Counting)
    suspects = held.review(Review(About.SUSPECTS, count=2))
    assert suspects == Findings("suspects", 5, 2.5, suspects=tuple(SUSPECTS[:2]))
    effect = held.review(Review(About.PRUNING, count=2, least=9))
    assert effect == Findings("pruning", 3, 2.5, images=("i0", "i1"), labels=EFFECT.labels)


@pytest.mark.parametrize("about", [About.SUSPECTS, About.PRUNING])
def test_where_nothing_is_counted_that_is_said(about: About) -> None:
    found = memory("ab").review(Review(about))
    assert isinstance(found, Rejected)
    assert found.reason is Reason.NOT_COUNTED


def test_counts_that_go_meanwhile_are_not_taken_for_none() -> None:
    found = memory("ab", Counting).review(Review(About.PRUNING, least=8))
    assert isinstance(found, Rejected)
    assert found.reason is Reason.NOT_COUNTED


@pytest.mark.parametrize(
    ("count", "least", "image_id", "reason"),
    [
        (0, 1, None, Reason.INVALID_K),
        (MAX_LISTED + 1, 1, None, Reason.INVALID_K),
        (1, 0, None, Reason.INVALID_THRESHOLD),
        (1, 10_000, None, Reason.INVALID_THRESHOLD),
        (1, 1, "", Reason.INVALID_ID),
    ],
)
def test_a_review_out_of_range_is_refused(
    count: int, least: int, image_id: str | None, reason: Reason
) -> None:
    with pytest.raises(Rejected) as why:
        Review(About.PRUNING, count, least, image_id)
    assert why.value.reason is reason


def test_an_item_that_asks_for_itself_leaves_itself_out_of_the_counts() -> None:
    held = memory("aab")
    ask(held, Query(ItemRef("i0"), 3))
    held.write_influence()
    assert [one.image_id for one in held.index.influence(10)[1]] == ["i1", "i2"]
