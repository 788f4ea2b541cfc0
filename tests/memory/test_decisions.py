"""What decides an answer: votes, values, the smallest flip, wrong labels survived; all against brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, permutations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.decision.explaining import explain
from memory.decision.flipping import smallest_flip, tolerance_of_wrong_labels
from memory.decision.influence import UseCounts, deciding
from memory.decision.values import shapley_values
from memory.decision.voting import WEIGHTS, tally, vote
from memory.model.answers import Hit
from memory.model.questions import MAX_REMOVED, Factors, Rule
from tests.memory.test_voting import hits

RULES = st.sampled_from(list(Rule))
DISTANCES = st.sampled_from([0.0, 0.1, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0])
"""Few, so that there are ties."""
FACTORS = st.sampled_from([1.0, 1.0, 1.0, 0.5, 2.0, 0.0])


@st.composite
def lists_of_hits(draw: st.DrawFn, most: int, labels: str = "abc") -> list[Hit]:
    size = draw(st.integers(1, most))
    named = draw(st.lists(st.sampled_from(labels), min_size=size, max_size=size))
    far = sorted(draw(st.lists(DISTANCES, min_size=size, max_size=size)))
    return [Hit(f"i{i:02}", label, d) for i, (label, d) in enumerate(zip(named, far, strict=True))]


@st.composite
def factors_of(draw: st.DrawFn) -> Factors:
    ids, labels = st.sampled_from(["i00", "i01", "i03"]), st.sampled_from("ab")
    return Factors(
        draw(st.dictionaries(ids, FACTORS, max_size=2)),
        draw(st.dictionaries(labels, FACTORS, max_size=1)),
    )


def slow_vote(
    found: Sequence[Hit], rule: Rule, k: int, factors: Factors
) -> tuple[str | None, dict[str, float]]:
    """By the definition, in fractions: rank weights exact, the others as their floats are."""
    sums: dict[str, Fraction] = {}
    winner = None
    for rank, hit in enumerate(found[:k]):
        weight = (
            Fraction(1, 2 + rank)
            if rule is Rule.RANK
            else Fraction(WEIGHTS[rule](rank, hit.distance))
        )
        for named, key in ((factors.images, hit.image_id), (factors.labels, hit.label)):
            weight *= Fraction(named.get(key, 1.0))
        sums[hit.label] = sums.get(hit.label, Fraction(0)) + weight
        if sums[hit.label] > sums.get(str(winner), Fraction(0)):
            winner = hit.label
    # Who passes the present winner is the first to reach the maximum: it is no winner by name.
    total = sum(sums.values())
    return winner, {
        label: float(reached / total) for label, reached in sums.items()
    } if total else {}


@given(lists_of_hits(12), RULES, st.integers(1, 8), factors_of())
def test_a_vote_is_what_its_definition_says(
    found: list[Hit], rule: Rule, k: int, factors: Factors
) -> None:
    decided = vote(found, rule, k=k, factor_of=factors.of)
    winner, shares = slow_vote(found, rule, k, factors)
    assert decided.label == winner
    assert decided.shares == pytest.approx(shares)
    assert not decided.shares or math.isclose(sum(decided.shares.values()), 1)
    for neighbor, hit in zip(decided.neighbors, found, strict=False):
        weight = WEIGHTS[rule](neighbor.rank, hit.distance)
        assert neighbor.weight == weight * factors.of(hit.image_id, hit.label)


def test_a_weight_of_nothing_for_all_leaves_no_winner() -> None:
    decided = vote(hits("aab"), Rule.RANK, k=3, factor_of=Factors(labels={"a": 0, "b": 0}).of)
    assert (decided.label, decided.shares) == (None, {})


@pytest.mark.parametrize("rule", list(Rule))
def test_three_neighbours_overturn_the_first_by_rank_and_two_do_not(rule: Rule) -> None:
    assert vote(hits("abb"), Rule.RANK, k=3).label == "b"  # 1/3 + 1/4 > 1/2
    assert vote(hits("abcb"), Rule.RANK, k=4).label == "b"  # 1/3 + 1/5 > 1/2
    assert vote(hits("acbb"), Rule.RANK, k=4).label == "a"  # 1/4 + 1/5 < 1/2
    alike = vote(hits("ab", [0.3, 0.3]), rule, k=2)
    assert alike.label == "a", "on a tie the first to reach the maximum"


# Values


def worth(found: Sequence[Hit], rule: Rule, k: int, factors: Factors, label: str) -> int:
    says = tally(found, rule, k=k, factor_of=factors.of)
    return sum(
        scale * rank
        for of, scale, rank in zip(says.labels, says.scales, says.ranks, strict=False)
        if of == label
    )


@given(lists_of_hits(6), RULES, st.integers(1, 4), factors_of())
def test_values_are_shapley_values_of_all_orders(
    found: list[Hit], rule: Rule, k: int, factors: Factors
) -> None:
    says = tally(found, rule, k=k, factor_of=factors.of)
    values = shapley_values(says, "a")
    unit = max(says.scales) * max(says.ranks) or 1
    added = [Fraction(0)] * len(found)
    for order in permutations(range(len(found))):
        before = 0
        for position, i in enumerate(order):
            there = [found[j] for j in sorted(order[: position + 1])]
            now = worth(there, rule, k, factors, "a")
            added[i] += now - before
            before = now
    expected = [float(each / math.factorial(len(found)) / unit) for each in added]
    assert [value / unit for value in values] == pytest.approx(expected, abs=1e-12)


@given(lists_of_hits(60), st.integers(1, 20))
def test_of_equal_weights_they_are_those_of_the_published_recursion(
    found: list[Hit], k: int
) -> None:
    """Jia et al., VLDB 2019, theorem 1: the utility is the share of k votes for the label."""
    n = len(found)
    right = [float(hit.label == "a") for hit in found]
    expected = [0.0] * n
    expected[-1] = right[-1] / max(n, k)  # of fewer items than vote, all do
    for i in reversed(range(n - 1)):
        among = min(k, i + 1) / (i + 1)
        expected[i] = expected[i + 1] + (right[i] - right[i + 1]) / k * among
    values = shapley_values(tally(found, Rule.PLURALITY, k=k), "a")
    assert [value / k for value in values] == pytest.approx(expected, abs=1e-12)


@given(lists_of_hits(150, "abcdefgh"), RULES, st.integers(1, 100))
def test_values_sum_to_the_share_that_they_explain(found: list[Hit], rule: Rule, k: int) -> None:
    decided = vote(found, rule, k=k)
    seen = found[: k + MAX_REMOVED]
    why = explain(tally(seen, rule, k=k), seen, str(decided.label))
    share = decided.shares[str(decided.label)]
    assert sum(c.value for c in why.contributions) == pytest.approx(share, abs=1e-9)
    assert sum(c.share for c in why.contributions) == pytest.approx(1)
    for label in decided.shares:
        of_label = [c for c in why.contributions if c.label == label]
        assert sum(c.of_label for c in of_label) == pytest.approx(1)
        assert sum(c.share for c in of_label) == pytest.approx(decided.shares[label])


# The smallest flip


def fewest_by_trying_all(
    found: Sequence[Hit], rule: Rule, k: int, factors: Factors, limit: int
) -> int | None:
    winner = vote(found, rule, k=k, factor_of=factors.of).label
    for number in range(1, limit + 1):
        for removed in combinations(range(len(found)), number):
            rest = [hit for i, hit in enumerate(found) if i not in removed]
            if vote(rest, rule, k=k, factor_of=factors.of).label not in (winner, None):
                return number
    return None


@settings(max_examples=400)
@given(lists_of_hits(10), RULES, st.integers(1, 6), st.integers(1, 4), factors_of())
def test_a_flip_flips_and_no_smaller_one_does(
    found: list[Hit], rule: Rule, k: int, limit: int, factors: Factors
) -> None:
    """Of a memory of no more items than are looked at, and of one that has more behind them."""
    decided = vote(found, rule, k=k, factor_of=factors.of)
    if decided.label is None:
        return
    seen = found[: k + limit]
    change = smallest_flip(tally(seen, rule, k=k, factor_of=factors.of), decided.label, limit)
    expected = fewest_by_trying_all(found, rule, k, factors, limit)
    assert (None if change is None else len(change.places)) == expected
    if change is not None:
        rest = [hit for i, hit in enumerate(seen) if i not in change.places]
        assert vote(rest, rule, k=k, factor_of=factors.of).label == change.label != decided.label


TWELVE = [0.1] * 4 + [0.2] * 4 + [0.3] * 4
"""Distances that make ties of every rule but rank, which has its own."""
SUBSETS = np.array([[bits >> i & 1 for i in range(12)] for bits in range(1 << 12)], np.bool_)
LABELLINGS = SUBSETS[~SUBSETS[:, 0]]
"""The others are these with the two names exchanged."""


@cache
def signs_of(rule: Rule) -> npt.NDArray[np.int8]:
    """Who is ahead by so many more voters, less four, at each of the three distances."""
    weights = [Fraction(WEIGHTS[rule](0, far)) for far in (0.1, 0.2, 0.3)]
    signs = np.zeros((9, 9, 9), np.int8)
    for place in product(range(9), repeat=3):
        sums = sum(w * (n - 4) for w, n in zip(weights, place, strict=True))
        signs[place] = (sums > 0) - (sums < 0)
    return signs


def leads(rule: Rule, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """Of each labelling of the kept of the twelve who wins: 1 for b, -1 for a, by its definition."""
    sides = np.where(LABELLINGS, 1, -1)[:, kept]
    if rule is Rule.RANK:
        ahead = np.sign(sides @ np.array([360360 // (2 + r) for r in range(kept.sum())]))
    else:
        groups = np.repeat(np.arange(3), 4)[kept]
        surplus = [sides[:, groups == g].sum(axis=1) + 4 for g in range(3)]
        ahead = signs_of(rule)[tuple(surplus)]
    # On a tie the label that came to its sum first wins: the one without the last voter.
    return np.where(ahead == 0, -sides[:, -1], ahead).astype(np.int8)


@pytest.mark.parametrize("rule", list(Rule))
def test_all_lists_of_twelve_neighbours_of_two_labels(rule: Rule) -> None:
    """k = 12 and nothing behind: every way to label them, every set of them taken away."""
    fewest = np.full(len(LABELLINGS), 12)
    winner = leads(rule, np.ones(12, np.bool_))
    for removed in SUBSETS[:-1]:  # where nobody is left nobody wins
        flipped = leads(rule, ~removed) != winner
        fewest[flipped] = np.minimum(fewest[flipped], removed.sum())
    for labelling, leader, expected in zip(LABELLINGS, winner, fewest, strict=True):
        found = hits("".join("ab"[int(label)] for label in labelling), TWELVE)
        says = tally(found, rule, k=12)
        assert says.result[1] == "a b"[leader + 1]
        change = smallest_flip(says, "a b"[leader + 1], 11)
        assert (12 if change is None else len(change.places)) == expected


# Who decided


@settings(max_examples=400)
@given(lists_of_hits(12), RULES, st.integers(1, 8), factors_of())
def test_who_decided_is_without_whom_another_would_win(
    found: list[Hit], rule: Rule, k: int, factors: Factors
) -> None:
    """Of one more than vote: what stands behind that cannot move in."""
    winner = vote(found, rule, k=k, factor_of=factors.of).label
    if winner is None:
        return
    expected = [
        place
        for place in range(min(k, len(found)))
        if vote(found[:place] + found[place + 1 :], rule, k=k, factor_of=factors.of).label != winner
    ]
    says = tally(found[: k + 1], rule, k=k, factor_of=factors.of)
    assert deciding(says, winner) == expected


def test_uses_are_counted_until_they_are_taken() -> None:
    uses = UseCounts()
    uses.add(["i0", "i1"], [1])
    uses.add(["i1"], [0])
    assert uses.take() == {"i0": (1, 0), "i1": (2, 2)}
    assert uses.take() == {}


def test_a_hundred_neighbours_of_a_hundred_labels() -> None:
    names = [f"l{n % 97}" for n in range(150)]
    found = [Hit(f"i{n:03}", name, 0.001 * n) for n, name in enumerate(names)]
    for rule in Rule:
        says = tally(found, rule, k=100)
        winner = str(vote(found, rule, k=100).label)
        change = smallest_flip(says, winner, MAX_REMOVED)
        assert change is not None
        assert len(change.places) == 1
        assert tolerance_of_wrong_labels(says, winner) == 0


def test_beyond_the_limit_it_says_more() -> None:
    found = hits("a" * 160 + "b")
    decided = vote(found, Rule.RANK, k=10)
    seen = found[: 10 + MAX_REMOVED]
    why = explain(tally(seen, Rule.RANK, k=10), seen, str(decided.label))
    assert (why.flip, why.more_than) == (None, MAX_REMOVED)


@settings(max_examples=300)
@given(lists_of_hits(6), RULES, st.integers(1, 5), factors_of())
def test_so_many_wrong_labels_are_survived_and_no_more(
    found: list[Hit], rule: Rule, k: int, factors: Factors
) -> None:
    winner = vote(found, rule, k=k, factor_of=Factors(factors.images).of).label
    if winner is None:
        return
    # A factor of a label goes with the label; the certificate is of memories without such.
    only_images = Factors(factors.images)
    survived = tolerance_of_wrong_labels(tally(found, rule, k=k, factor_of=only_images.of), winner)
    voters = min(k, len(found))
    fewest = voters + 1
    for labels in product("abcd", repeat=voters):
        changed = sum(label != hit.label for label, hit in zip(labels, found, strict=False))
        if changed < fewest:
            told = [
                Hit(hit.image_id, label, hit.distance)
                for label, hit in zip(labels, found, strict=False)
            ]
            if vote(told, rule, k=k, factor_of=only_images.of).label != winner:
                fewest = changed
    assert survived == fewest - 1


def test_the_weights_of_a_what_if_are_those_that_are_explained() -> None:
    found = hits("abb")
    heavy = Factors({"i0": 3}).of
    decided = vote(found, Rule.RANK, k=3, factor_of=heavy)
    assert decided.label == "a"
    why = explain(tally(found, Rule.RANK, k=3, factor_of=heavy), found, "a")
    assert why.contributions[0].share == pytest.approx(1.5 / (1.5 + 1 / 3 + 1 / 4))
    assert why.flip is not None
    assert (why.flip.images, why.flip.label) == (("i0",), "b")
