"""Neighbours vote: each has a weight, weights are summed by class (paper, section 3).

The rules are the paper's four: plurality, distance, softmax (DINO's temperature) and its own,
rank, which is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

from memory.model.answers import Hit, Neighbor, Rule, Vote

TEMPERATURE = 0.07
RANK_OFFSET = 2

WEIGHTS: Mapping[Rule, Callable[[int, float], float]] = {
    Rule.PLURALITY: lambda _rank, _distance: 1.0,
    Rule.DISTANCE: lambda _rank, distance: math.exp(-distance),
    Rule.SOFTMAX: lambda _rank, distance: math.exp((1 - distance) / TEMPERATURE),
    Rule.RANK: lambda rank, _distance: 1 / (RANK_OFFSET + rank),
}
"""Weight of the neighbour at a rank (0 for the nearest) with a distance (0 to 2)."""


def vote(hits: Sequence[Hit], rule: Rule, *, k: int, excluded: Collection[str] = ()) -> Vote:
    """Let the first `k` of `hits`, nearest first, vote by `rule`.

    Excluded image ids take no rank: ranks close up over them. If all are excluded the
    exclusion is off. On a tie the class that first reached the maximum, reading from the
    nearest, wins. Nobody to vote gives a vote without a label.
    """
    voters = [hit for hit in hits if hit.image_id not in excluded] or hits
    neighbors = tuple(
        Neighbor(hit.image_id, hit.label, hit.distance, rank, WEIGHTS[rule](rank, hit.distance))
        for rank, hit in enumerate(voters[:k])
    )
    summands = _summands(neighbors, rule)
    sums: dict[str, float] = {}
    label, maximum = None, 0.0
    for neighbor, summand in zip(neighbors, summands, strict=True):
        reached = sums.get(neighbor.label, 0) + summand
        sums[neighbor.label] = reached
        if reached > maximum:
            label, maximum = neighbor.label, reached
    total = sum(sums.values())
    return Vote(
        label=label,
        shares={label: reached / total for label, reached in sums.items()},
        neighbors=neighbors,
    )


def _summands(neighbors: Sequence[Neighbor], rule: Rule) -> Sequence[float]:
    """The weights, or whole multiples of them where floats would round ties away.

    1/2 against 1/4 + 1/6 + 1/12 is a tie; summed as floats it is none.
    """
    if rule is not Rule.RANK:
        return [neighbor.weight for neighbor in neighbors]
    return _rank_summands(len(neighbors))


@cache
def _rank_summands(count: int) -> Sequence[int]:
    ranks = range(RANK_OFFSET, RANK_OFFSET + count)
    unit = math.lcm(*ranks)
    return [unit // rank for rank in ranks]
