"""The four rules of voting, and the faults of the published notebooks that are not here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory.decision.voting import vote
from memory.model.answers import Hit, Vote
from memory.model.questions import Rule


def hits(labels: str, distances: Sequence[float] | None = None) -> list[Hit]:
    """One hit for each letter, nearest first; ids are i0, i1, ..."""
    distances = distances or [i / 100 for i in range(len(labels))]
    return [
        Hit(f"i{i}", label, distance)
        for i, (label, distance) in enumerate(zip(labels, distances, strict=True))
    ]


def naive_weight(rule: Rule, rank: int, distance: float) -> Fraction:
    """The table of the paper, in exact arithmetic after the exponential."""
    match rule:
        case Rule.PLURALITY:
            return Fraction(1)
        case Rule.DISTANCE:
            return Fraction(math.exp(-distance))
        case Rule.SOFTMAX:
            return Fraction(math.exp((1 - distance) / 0.07))
        case Rule.RANK:
            return Fraction(1, 2 + rank)


def naive_winners(found: Sequence[Hit], rule: Rule) -> list[str]:
    """The classes whose exact sums are greatest, the one that got there first in front."""
    weights = [naive_weight(rule, rank, hit.distance) for rank, hit in enumerate(found)]
    labels = {hit.label for hit in found}
    total = {
        label: sum(w for w, hit in zip(weights, found, strict=True) if hit.label == label)
        for label in labels
    }
    best = [label for label in labels if total[label] == max(total.values())]
    last_vote = {hit.label: rank for rank, hit in enumerate(found)}
    return sorted(best, key=last_vote.__getitem__)


def naive_shares(found: Sequence[Hit], rule: Rule) -> dict[str, float]:
    weights = [naive_weight(rule, rank, hit.distance) for rank, hit in enumerate(found)]
    return {
        label: float(
            sum(w for w, hit in zip(weights, found, strict=True) if hit.label == label)
            / sum(weights)
        )
        for label in {hit.label for hit in found}
    }


neighbourhoods = st.lists(
    st.tuples(st.sampled_from("abcd"), st.floats(0, 2)), min_size=1, max_size=110
).map(
    lambda pairs: hits(
        "".join(label for label, _ in pairs), sorted(distance for _, distance in pairs)
    )
)


@given(neighbourhoods, st.sampled_from([Rule.PLURALITY, Rule.RANK]), st.integers(1, 100))
@example(hits("bccadddaaabd"), Rule.RANK, 12)
def test_the_winner_is_that_of_exact_arithmetic(found: list[Hit], rule: Rule, k: int) -> None:
    assert vote(found, rule, k=k).label == naive_winners(found[:k], rule)[0]


@given(neighbourhoods, st.sampled_from([Rule.DISTANCE, Rule.SOFTMAX]), st.integers(1, 100))
def test_weights_by_distance_choose_a_class_of_the_greatest_sum(
    found: list[Hit], rule: Rule, k: int
) -> None:
    label = vote(found, rule, k=k).label
    assert label is not None
    shares = naive_shares(found[:k], rule)
    assert shares[label] == pytest.approx(max(shares.values()), rel=1e-12)


@given(neighbourhoods, st.sampled_from(Rule), st.integers(1, 100))
def test_shares_are_the_parts_of_the_whole(found: list[Hit], rule: Rule, k: int) -> None:
    shares = vote(found, rule, k=k).shares
    assert shares == pytest.approx(naive_shares(found[:k], rule), rel=1e-12)
    assert sum(shares.values()) == pytest.approx(1, rel=1e-12)


@given(neighbourhoods, st.sampled_from(Rule), st.integers(1, 100), st.data())
def test_an_excluded_neighbour_might_as_well_not_be_there(
    found: list[Hit], rule: Rule, k: int, data: st.DataObject
) -> None:
    excluded = data.draw(st.sets(st.sampled_from([hit.image_id for hit in found])))
    rest = [hit for hit in found if hit.image_id not in excluded]
    assert vote(found, rule, k=k, excluded=excluded) == vote(rest or found, rule, k=k)


@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        (Rule.PLURALITY, [1, 1, 1]),
        (Rule.DISTANCE, [1, math.exp(-0.5), math.exp(-2)]),
        (Rule.SOFTMAX, [math.exp(1 / 0.07), math.exp(0.5 / 0.07), math.exp(-1 / 0.07)]),
        (Rule.RANK, [1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_each_rule_weighs_as_the_paper_says(rule: Rule, weights: list[float]) -> None:
    neighbors = vote(hits("abc", [0, 0.5, 2]), rule, k=3).neighbors
    assert [n.weight for n in neighbors] == pytest.approx(weights, rel=1e-12)
    assert [n.rank for n in neighbors] == [0, 1, 2]


def test_by_rank_two_neighbours_never_overturn_the_first() -> None:
    assert vote(hits("ab"), Rule.RANK, k=2).label == "a"
    assert vote(hits("abcb"), Rule.RANK, k=4).label == "b"
    assert vote(hits("acbb"), Rule.RANK, k=4).label == "a"


def test_by_rank_the_second_and_third_together_overturn_the_first() -> None:
    assert vote(hits("abb"), Rule.RANK, k=3).label == "b"


@pytest.mark.parametrize(
    ("labels", "winner"),
    [
        ("ab", "a"),  # both at 1: a was there first
        ("abba", "b"),  # both at 2: b was there first, though a is nearest
        ("abbaab", "a"),  # both at 3: the lead changes hands, the last counts
        ("cabbac", "b"),  # all at 2
    ],
)
def test_on_a_tie_the_class_that_first_reached_the_maximum_wins(labels: str, winner: str) -> None:
    assert vote(hits(labels), Rule.PLURALITY, k=len(labels)).label == winner


def test_a_tie_by_rank_is_a_tie_though_floats_would_round_it_away() -> None:
    """1/2 is 1/4 + 1/6 + 1/12, and as floats it is not."""
    assert 1 / 4 + 1 / 6 + 1 / 12 != 1 / 2
    tied = vote(hits("acbcbcdddeb"), Rule.RANK, k=11)
    assert tied.shares["a"] == tied.shares["b"]


def test_equal_distances_tie_too() -> None:
    for rule in (Rule.DISTANCE, Rule.SOFTMAX):
        assert vote(hits("abba", [0.1, 0.1, 0.7, 0.7]), rule, k=4).label == "b"


def test_only_k_neighbours_vote() -> None:
    found = hits("abbbb")
    assert vote(found, Rule.PLURALITY, k=1).label == "a"
    assert len(vote(found, Rule.PLURALITY, k=2).neighbors) == 2


def test_fewer_neighbours_than_k_vote_alone() -> None:
    assert vote(hits("ab"), Rule.RANK, k=10).shares == {"a": 0.6, "b": 0.4}


@pytest.mark.parametrize("rule", Rule)
def test_nobody_to_vote_gives_no_label(rule: Rule) -> None:
    assert vote([], rule, k=10, excluded={"i0"}) == Vote(None, {}, ())


@pytest.mark.parametrize("label", ["0", ""])
@pytest.mark.parametrize("rule", Rule)
def test_no_class_counts_as_no_answer(rule: Rule, label: str) -> None:
    """The notebooks' `if not best` took class 0 for "no answer yet"."""
    found = [Hit("x", label, 0.1), Hit("y", "1", 0.2), Hit("z", "2", 0.3)]
    assert vote(found, rule, k=3).label == label


def test_neighbours_left_after_an_exclusion_keep_their_own_ids_and_distances() -> None:
    """The notebooks read both from the list before the exclusion."""
    left = vote(hits("abc", [0.1, 0.2, 0.3]), Rule.RANK, k=2, excluded={"i0"}).neighbors
    assert [(n.image_id, n.label, n.distance) for n in left] == [("i1", "b", 0.2), ("i2", "c", 0.3)]


def test_ranks_close_up_over_excluded_neighbours_and_the_next_ones_move_in() -> None:
    left = vote(hits("abcd"), Rule.RANK, k=2, excluded=["i0", "i2"]).neighbors
    assert [(n.image_id, n.rank, n.weight) for n in left] == [("i1", 0, 1 / 2), ("i3", 1, 1 / 3)]


def test_if_all_are_excluded_the_exclusion_is_off() -> None:
    found = hits("abb")
    off = vote(found, Rule.RANK, k=3, excluded={"i0", "i1", "i2"})
    assert off == vote(found, Rule.RANK, k=3)


@pytest.mark.parametrize("rule", Rule)
def test_opposite_vectors_vote(rule: Rule) -> None:
    """The notebooks' softmax refused distances above 1.01; cosine distance reaches 2."""
    farthest = vote(hits("aab", [1.5, 2, 2]), rule, k=3)
    assert farthest.label == "a"
    assert all(n.weight > 0 for n in farthest.neighbors)
    assert vote(hits("abb", [2, 2, 2]), rule, k=3).label == "b"


def test_images_of_one_file_name_are_two_neighbours() -> None:
    """The notebooks kept results by file name, where one overwrote the other."""
    found = [Hit("cats/1.png", "cat", 0.1), Hit("dogs/1.png", "dog", 0.2)]
    both = vote(found, Rule.PLURALITY, k=2)
    assert [n.image_id for n in both.neighbors] == ["cats/1.png", "dogs/1.png"]
    assert both.shares == {"cat": 0.5, "dog": 0.5}


def test_the_hundredth_neighbour_decides_where_it_can() -> None:
    """The notebooks left the count of 100 out of the calibration."""
    found = hits("ba" * 49 + "c" + "a")
    assert vote(found, Rule.PLURALITY, k=99).label == "b"
    assert vote(found, Rule.PLURALITY, k=100).label == "a"
