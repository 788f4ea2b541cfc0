"""Which neighbours decided an answer, and how often each did, until that is written down."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from memory.decision.voting import Tally, count


def deciding(votes: Tally, winner: str) -> list[int]:
    """Places of the voters each of whom decided: without it alone another label would win.

    The next one behind moves up, so `votes` must hold one more than vote, or all that there are. Exact, also
    for ties.
    """
    sums, _ = count(votes)
    lead = sums[winner] - max((sum_ for label, sum_ in sums.items() if label != winner), default=0)
    # What a removal can bring a rival at most: the voter's own weight, and what those behind it gain by
    # moving up a rank, which for no scale is more than the weight of its rank.
    most = 2 * max(votes.scales, default=0)
    return [
        place
        for place in range(votes.voting)
        if lead <= most * votes.ranks[place] and count(_without(votes, place))[1] != winner
    ]


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
        self._counts: dict[str, list[int]] = {}

    def add(self, voters: Sequence[str], decided: Sequence[int]) -> None:
        """One answer: ids of its voters, and the places of those that decided it."""
        with self._lock:
            counts = self._counts
            for image_id in voters:
                counts.setdefault(image_id, [0, 0])[0] += 1
            for place in decided:
                counts[voters[place]][1] += 1

    def take(self) -> Mapping[str, tuple[int, int]]:
        """The counts, which begin anew."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return {image_id: (neighbor, decided) for image_id, (neighbor, decided) in taken.items()}
