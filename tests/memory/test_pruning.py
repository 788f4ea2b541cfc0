"""Unreliable items weigh less or are left out, where it is asked for and there are counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from memory.embedders import VectorsOnly
from memory.errors import Reason, Rejected
from memory.exact.index import ExactIndex
from memory.model.answers import Prediction
from memory.model.events import Ingest, Selector, VectorPayload
from memory.model.questions import Factors, Query, Rule, WhatIf
from memory.model.reliability import Pruning, WrongCounts
from memory.model.times import make_stamp
from memory.service import VisualMemory

DIM = 4


@dataclass
class Counting(ExactIndex):
    """An exact index whose wrong counts are given."""

    counts: WrongCounts | None = field(default=None)

    def __init__(self) -> None:
        super().__init__(embedder="test", dim=DIM)
        self.counts = None

    def wrong_counts(self) -> WrongCounts | None:
        return self.counts


def vector(angle: float) -> VectorPayload:
    return VectorPayload(np.array([np.cos(angle), np.sin(angle), 0, 0], np.float32), "test")


def remembering(labels: str, pruning: Pruning = Pruning.NONE) -> tuple[VisualMemory, Counting]:
    """Items i0, i1, ... of these labels, each farther from the question than the one before."""
    index = Counting()
    memory = VisualMemory(index, VectorsOnly("test", DIM), pruning=pruning)
    memory.remember(
        [
            Ingest(make_stamp(1, f"i{n}"), f"i{n}", label, "test", vector(0.1 * (n + 1)), "")
            for n, label in enumerate(labels)
        ]
    )
    return memory, index


def counts(index: ExactIndex, soft: dict[str, int], pruned: tuple[str, ...] = ()) -> WrongCounts:
    return WrongCounts(soft, {}, frozenset(map(index.image_key, pruned)), 3.0)


def answered(memory: VisualMemory, query: Query) -> Prediction:
    (found,) = memory.recall([query])
    assert isinstance(found, Prediction), found
    return found


def asked(
    pruning: Pruning | None, k: int = 3, rule: Rule = Rule.RANK, *, why: bool = False
) -> Query:
    return Query(vector(0), k=k, rule=rule, pruning=pruning, why=why)


@pytest.mark.parametrize("rule", list(Rule))
def test_soft_pruning_multiplies_weights_as_the_paper_says(rule: Rule) -> None:
    memory, index = remembering("abc")
    index.counts = counts(index, {"i0": 1, "i2": 6})
    plain = answered(memory, asked(Pruning.NONE, rule=rule)).vote.neighbors
    soft = answered(memory, asked(Pruning.SOFT, rule=rule)).vote.neighbors
    factors = [after.weight / before.weight for before, after in zip(plain, soft, strict=True)]
    assert factors == pytest.approx([1.75 / 2, 1, 1.75 / 7])


def test_soft_pruning_decides_and_is_explained_with_its_weights() -> None:
    memory, index = remembering("ab")
    index.counts = counts(index, {"i0": 9})
    assert answered(memory, asked(Pruning.NONE)).vote.label == "a"
    soft = answered(memory, asked(Pruning.SOFT, why=True))
    assert (soft.vote.label, soft.pruning, soft.reliability_age) == ("b", Pruning.SOFT, 3.0)
    assert soft.why is not None
    assert sum(c.value for c in soft.why.contributions) == pytest.approx(soft.vote.shares["b"])
    assert soft.why.flip is not None
    assert soft.why.flip.images == ("i1",)


def test_soft_pruning_and_weights_that_are_supposed_multiply() -> None:
    memory, index = remembering("ab")
    index.counts = counts(index, {"i0": 6})
    what_if = WhatIf(weights=Factors({"i0": 4.0}))
    query = Query(vector(0), k=2, rule=Rule.PLURALITY, what_if=what_if, pruning=Pruning.SOFT)
    assert answered(memory, query).vote.neighbors[0].weight == pytest.approx(4 * 1.75 / 7)


def test_hard_pruning_leaves_out_and_the_next_move_up() -> None:
    memory, index = remembering("abcd")
    index.counts = counts(index, {}, ("i0", "i2"))
    hard = answered(memory, asked(Pruning.HARD, k=2))
    assert [(n.image_id, n.rank) for n in hard.vote.neighbors] == [("i1", 0), ("i3", 1)]
    assert hard.pruning is Pruning.HARD
    what_if = WhatIf((Selector.of(image="i1"),))
    both = Query(vector(0), k=2, what_if=what_if, pruning=Pruning.HARD)
    assert [n.image_id for n in answered(memory, both).vote.neighbors] == ["i3"]


def test_a_question_decides_before_the_memory_does() -> None:
    memory, index = remembering("ab", Pruning.HARD)
    index.counts = counts(index, {}, ("i0",))
    assert answered(memory, asked(None)).vote.label == "b"
    assert answered(memory, asked(Pruning.NONE)).vote.label == "a"
    assert answered(memory, asked(Pruning.SOFT)).pruning is Pruning.SOFT


def test_without_counts_what_is_asked_for_is_refused_and_the_memorys_way_is_put_off() -> None:
    memory, _ = remembering("ab", Pruning.HARD)
    first, refused = memory.recall([asked(None), asked(Pruning.SOFT)])
    assert isinstance(first, Prediction)
    assert (first.pruning, first.reliability_age) == (Pruning.NONE, None)
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.NOT_COUNTED
