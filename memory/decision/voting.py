"""Neighbours vote: each has a weight, weights are summed by class (paper, section 3).

The rules are the paper's four: plurality, distance, softmax (DINO's temperature) and its own,
rank, which is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from memory.model.answers import Hit, Neighbor, Vote
from memory.model.questions import Rule

TEMPERATURE = 0.07
RANK_OFFSET = 2
POINT = 64
"""Binary places of a weight in a sum; what is less than the last of them counts as nothing."""

WEIGHTS: Mapping[Rule, Callable[[int, float], float]] = {
    Rule.PLURALITY: lambda _rank, _distance: 1.0,
    Rule.DISTANCE: lambda _rank, distance: math.exp(-distance),
    Rule.SOFTMAX: lambda _rank, distance: math.exp((1 - distance) / TEMPERATURE),
    Rule.RANK: lambda rank, _distance: 1 / (RANK_OFFSET + rank),
}
"""Weight of the neighbour at a rank (0 for the nearest) with a distance (0 to 2)."""
_BY_DISTANCE = (Rule.DISTANCE, Rule.SOFTMAX)
"""Rules whose weights are the same at each rank; those of the others are so at each distance."""


FactorOf = Callable[[str, str], float]
"""What the weight of a neighbour is multiplied by, of its image id and its label."""


@dataclass(frozen=True)
class Tally:
    """What each of some hits, nearest first, adds to its class at each rank, in whole numbers.

    Hit `i` adds ``scales[i] * ranks[r]`` when it votes at rank `r`; as many vote as there are ranks.
    Whole, since sums of floats depend on their order and round ties away: 1/2 against
    1/4 + 1/6 + 1/12 is one.
    """

    labels: Sequence[str]
    scales: Sequence[int]
    ranks: tuple[int, ...]

    @property
    def voting(self) -> int:
        """How many vote."""
        return min(len(self.labels), len(self.ranks))

    @cached_property
    def result(self) -> tuple[Mapping[str, int], str | None]:
        """The sum of each class, and the class that wins."""
        sums: dict[str, int] = {}
        winner, maximum = None, 0
        for label, scale, rank in zip(self.labels, self.scales, self.ranks, strict=False):
            reached = sums[label] = sums.get(label, 0) + scale * rank
            if reached > maximum:
                winner, maximum = label, reached
        return sums, winner


def tally(hits: Sequence[Hit], rule: Rule, *, k: int, factor_of: FactorOf | None = None) -> Tally:
    """How `hits` vote by `rule`, of whom the first `k` do."""
    if rule in _BY_DISTANCE:
        scales = [_whole(WEIGHTS[rule](0, hit.distance)) for hit in hits]
    else:
        scales = [1] * len(hits)
    if factor_of is not None:
        scales = [
            scale * _whole(factor_of(hit.image_id, hit.label))
            for scale, hit in zip(scales, hits, strict=True)
        ]
    ranks = _rank_summands(k) if rule is Rule.RANK else (1,) * k
    return Tally([hit.label for hit in hits], scales, ranks)


def vote(
    hits: Sequence[Hit],
    rule: Rule,
    *,
    k: int,
    excluded: Collection[str] = (),
    factor_of: FactorOf | None = None,
) -> Vote:
    """Let the first `k` of `hits`, nearest first, vote by `rule`, each with its factor.

    Excluded image ids take no rank: ranks close up over them. If all are excluded the
    exclusion is off. On a tie the class that first reached the maximum, reading from the
    nearest, wins. Nobody to vote, or nobody with a weight, gives a vote without a label.
    """
    left = [hit for hit in hits if hit.image_id not in excluded] if excluded else hits
    voters = (left or hits)[:k]
    says = tally(voters, rule, k=k, factor_of=factor_of)
    return vote_of(says, voters, rule, factor_of=factor_of)


def vote_of(
    says: Tally, hits: Sequence[Hit], rule: Rule, *, factor_of: FactorOf | None = None
) -> Vote:
    """The vote of a tally that `rule` made of `hits`, or of these and more behind them."""
    voters = hits[: says.voting]
    weights = _weights(rule, voters)
    if factor_of is not None:
        factors = (factor_of(hit.image_id, hit.label) for hit in voters)
        weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
    neighbors = tuple(
        map(
            Neighbor,
            [hit.image_id for hit in voters],
            [hit.label for hit in voters],
            [hit.distance for hit in voters],
            range(len(voters)),
            weights,
        )
    )
    sums, label = says.result
    total = sum(sums.values())
    return Vote(
        label=label,
        shares={label: reached / total for label, reached in sums.items()} if total else {},
        neighbors=neighbors,
    )


def _weights(rule: Rule, hits: Sequence[Hit]) -> Sequence[float]:
    """Of each hit, nearest first."""
    if rule in _BY_DISTANCE:
        return [WEIGHTS[rule](rank, hit.distance) for rank, hit in enumerate(hits)]
    return _weights_by_rank(rule, len(hits))


@cache
def _weights_by_rank(rule: Rule, count: int) -> tuple[float, ...]:
    return tuple(WEIGHTS[rule](rank, 0) for rank in range(count))


def _whole(weight: float) -> int:
    return int(math.ldexp(weight, POINT))


@cache
def _rank_summands(count: int) -> tuple[int, ...]:
    """1/2, 1/3, ... as whole multiples of one unit."""
    ranks = range(RANK_OFFSET, RANK_OFFSET + count)
    unit = math.lcm(*ranks)
    return tuple(unit // rank for rank in ranks)
