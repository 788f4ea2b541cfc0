"""What each neighbour is worth to an answer: its Shapley value for the winner's weight.

The game is Jia et al., "Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms",
VLDB 2019: of any set of items the nearest `k` vote, and the set is worth what they give the winner.
Their recursion (theorem 1) is the case in which all weigh the same; this one takes any weight that
is a product of the item's own and of its rank's, as those of all four rules are.
"""

from __future__ import annotations

from itertools import accumulate

from memory.decision.voting import Tally


def shapley_values(votes: Tally, label: str) -> list[float]:
    """The value of each hit for the weight of `label`, in whole units of the tally; they sum to it.

    In a random order of all, `b` of the `j` nearer ones come before hit `j` with probability
    1 / (j + 1) for each `b`: that gives what it adds itself. It moves each hit `i` of the label behind
    it down a rank if it comes first: with `b` others of the `i - 1` before `i` at probability
    (b + 1) / (i (i + 1)).
    """
    ranks = votes.ranks
    count = len(votes.labels)
    weights = [*ranks, *[0] * (count + 1 - len(ranks))]
    added = list(accumulate(weights))
    lost = list(accumulate((b + 1) * (weights[b + 1] - weights[b]) for b in range(count)))
    values = [0.0] * count
    behind = 0.0
    for i in reversed(range(count)):
        values[i] = behind
        if votes.labels[i] == label:
            values[i] += votes.scales[i] * added[i] / (i + 1)
            if i:
                behind += votes.scales[i] * lost[i - 1] / (i * (i + 1))
    return values
