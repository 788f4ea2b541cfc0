"""Which neighbours decided an answer, and how often each did, until that is written down."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from memory.decision.flipping import FLOAT_ERROR
from memory.decision.voting import Tally, count


def deciding(votes: Tally, winner: str) -> list[int]:
    """Places of the voters each of whom decided: without it alone another label would win.

    The next one behind moves up, so `votes` must hold one more than vote, or all that there are. Exact, also
    for ties: in floats first, for all voters at once, and where those cannot tell in whole numbers.
    """
    sums, _ = count(votes)
    lead = sums[winner] - max((sum_ for label, sum_ in sums.items() if label != winner), default=0)
    # What a removal can bring a rival at most: the voter's own weight, and what those behind it gain by
    # moving up a rank, which for no scale is more than the weight of its rank.
    if lead > 2 * max(votes.scales, default=0) * votes.ranks[0]:
        return []
    ahead = _ahead_without_each(votes, winner)
    unclear = FLOAT_ERROR * votes.voting
    return [
        place
        for place in np.flatnonzero(ahead >= -unclear).tolist()
        if ahead[place] > unclear or count(_without(votes, place))[1] != winner
    ]


def _ahead_without_each(votes: Tally, winner: str) -> npt.NDArray[np.float64]:
    """How far the best rival is ahead without each voter, shape (voting,); the greatest weight is 1."""
    voting = votes.voting
    columns = {winner: 0}
    codes = [columns.setdefault(label, len(columns)) for label in votes.labels[: voting + 1]]
    most, first = max(votes.scales) or 1, votes.ranks[0]
    adds = np.zeros((len(codes), max(len(columns), 2)))
    adds[np.arange(len(codes)), codes] = [scale / most for scale in votes.scales[: voting + 1]]
    ranks = np.array([rank / first for rank in votes.ranks[:voting]])[:, None]
    without = np.zeros((voting, adds.shape[1]))
    np.cumsum((adds[:voting] * ranks)[:-1], axis=0, out=without[1:])
    moved_up = adds[1:] * ranks[: len(codes) - 1]
    without[: len(moved_up)] += np.cumsum(moved_up[::-1], axis=0)[::-1]
    rivals: npt.NDArray[np.float64] = without[:, 1:].max(axis=1) - without[:, 0]
    return rivals


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
