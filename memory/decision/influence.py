"""Which neighbours decided an answer, and how often each did, until that is written down."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import mul

from memory.decision.voting import Tally


def deciding(votes: Tally, winner: str) -> list[int]:
    """Places of the voters each of whom decided: without it alone another label would win.

    The next one behind moves up, so `votes` must hold one more than vote, or all that there are.
    """
    sums, _ = votes.result
    lead = sums[winner] - max((sum_ for label, sum_ in sums.items() if label != winner), default=0)
    # What a removal can bring a rival at most: the voter's own weight, and what those behind it gain by
    # moving up a rank, which for no scale is more than the weight of its rank. Ranks weigh ever less.
    most = 2 * max(votes.scales, default=0)
    able = bisect_right(votes.ranks, -lead, hi=votes.voting, key=lambda rank: -most * rank)
    if not able:
        return []
    labels, scales, ranks = votes.labels, votes.scales, votes.ranks
    # The sum of each class without the first voter, the second, and so on.
    left = dict.fromkeys(labels, 0)
    for label, adds in zip(labels[1:], map(mul, scales[1:], ranks), strict=False):
        left[label] += adds
    decided = []
    # No rival has more than this; it is found anew only where that could matter.
    bound = max(left.values())
    for place in range(able):
        if place:
            back, rank = place - 1, ranks[place - 1]
            left[labels[back]] += scales[back] * rank
            left[labels[place]] -= scales[place] * rank
            if labels[back] != winner:
                bound = max(bound, left[labels[back]])
        if left[winner] > bound:
            continue
        bound = max((sum_ for label, sum_ in left.items() if label != winner), default=0)
        if left[winner] < bound or (
            left[winner] == bound and _without(votes, place).result[1] != winner
        ):
            decided.append(place)
    return decided


def _without(votes: Tally, place: int) -> Tally:
    return Tally(
        [*votes.labels[:place], *votes.labels[place + 1 :]],
        [*votes.scales[:place], *votes.scales[place + 1 :]],
        votes.ranks,
    )


class UseCounts:
    """How often images voted and decided since this was last taken, by image id. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._voted: Counter[str] = Counter()
        self._decided: Counter[str] = Counter()

    def add(self, voters: Sequence[str], decided: Sequence[int]) -> None:
        """One answer: ids of its voters, and the places of those that decided it."""
        with self._lock:
            self._voted.update(voters)
            self._decided.update(voters[place] for place in decided)

    def take(self) -> Mapping[str, tuple[int, int]]:
        """The counts, which begin anew."""
        with self._lock:
            voted, decided = self._voted, self._decided
            self._voted, self._decided = Counter(), Counter()
        return {image_id: (count_, decided[image_id]) for image_id, count_ in voted.items()}
