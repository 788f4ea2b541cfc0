"""Which neighbours decided an answer, and how often each did, until that is written down."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from memory.decision.flipping import FLOAT_ERROR
from memory.decision.voting import Tally


def deciding(votes: Tally, winner: str) -> list[int]:
    """Places of the voters each of whom decided: without it alone another label would win.

    The next one behind moves up, so `votes` must hold one more than vote, or all that there are. Exact, also
    for ties: in floats first, for all voters at once, and where those cannot tell in whole numbers.
    """
    sums, _ = votes.result
    lead = sums[winner] - max((sum_ for label, sum_ in sums.items() if label != winner), default=0)
    # What a removal can bring a rival at most: the voter's own weight, and what those behind it gain by
    # moving up a rank, which for no scale is more than the weight of its rank. Ranks weigh ever less.
    most = 2 * max(votes.scales, default=0)
    able = bisect_right(votes.ranks, -lead, hi=votes.voting, key=lambda rank: -most * rank)
    if not able:
        return []
    ahead = _ahead_without_each(votes, winner, able)
    unclear = FLOAT_ERROR * votes.voting
    return [
        place
        for place in np.flatnonzero(ahead >= -unclear).tolist()
        if ahead[place] > unclear or _without(votes, place).result[1] != winner
    ]


def _ahead_without_each(votes: Tally, winner: str, places: int) -> npt.NDArray[np.float64]:
    """How far the best rival is ahead without each of the first voters, shape (places,); the greatest
    weight is 1.
    """
    voting = votes.voting
    columns = {winner: 0}
    codes = np.array(
        [columns.setdefault(label, len(columns)) for label in votes.labels[: voting + 1]]
    )
    most, ranks = max(votes.scales) or 1, _of_the_first(votes.ranks)
    if min(votes.scales) == most:
        scales = np.ones(len(codes))
    else:
        scales = np.array([scale / most for scale in votes.scales[: voting + 1]])
    moved_up = scales[1:] * ranks[: len(codes) - 1]
    classes = max(len(columns), 2)
    # Without the first all others move up; without the next, what is ahead of it stays.
    without = np.zeros((places, classes))
    without[0] = np.bincount(codes[1:], moved_up, classes)
    next_, ahead = np.arange(1, places), slice(0, places - 1)
    without[next_, codes[ahead]] = scales[ahead] * ranks[ahead]
    without[next_, codes[1:places]] -= moved_up[ahead]
    np.cumsum(without, axis=0, out=without)
    rivals: npt.NDArray[np.float64] = without[:, 1:].max(axis=1) - without[:, 0]
    return rivals


@lru_cache(64)
def _of_the_first(ranks: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Weights of ranks, that of the first being 1."""
    return np.array([rank / ranks[0] for rank in ranks])


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
