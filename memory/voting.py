"""Neighbours vote (paper, section 3.2 and appendix)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from memory.model import Hit, Neighbor, Rule, Vote

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
    voters = [hit for hit in hits if hit.image_id not in excluded] or list(hits)
    neighbors = tuple(
        Neighbor(hit.image_id, hit.label, hit.distance, rank, WEIGHTS[rule](rank, hit.distance))
        for rank, hit in enumerate(voters[:k])
    )
    sums: dict[str, float] = {}
    for neighbor in neighbors:
        sums[neighbor.label] = sums.get(neighbor.label, 0.0) + neighbor.weight
    total = sum(sums.values())
    return Vote(
        label=_winner(neighbors, sums),
        shares={label: weight / total for label, weight in sums.items()},
        neighbors=neighbors,
    )


def _winner(neighbors: Sequence[Neighbor], sums: Mapping[str, float]) -> str | None:
    """The class whose sum first reached the greatest sum of all."""
    maximum = max(sums.values(), default=0.0)
    running: dict[str, float] = {}
    for neighbor in neighbors:
        running[neighbor.label] = running.get(neighbor.label, 0.0) + neighbor.weight
        if running[neighbor.label] == maximum:
            return neighbor.label
    return None
