"""The fewest neighbours that decide an answer: whose removal, or whose labels, would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from memory.decision.voting import Tally

NEITHER, WINNER, RIVAL = range(3)
"""Which of two classes had a voter last: of two equal sums the one that was reached first wins."""
FLOAT_ERROR = 1e-9
"""More than floats are off by in the sums of a hundred weights, as a share of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """Places of the hits, in order, and the label that wins then."""

    places: tuple[int, ...]
    label: str


def smallest_flip(votes: Tally, winner: str, limit: int) -> Change | None:
    """The fewest hits without which another label wins; None if that takes more than `limit`.

    Ranks close up and those behind move in, so of each rival it is asked, hit by hit, how far it can
    come ahead of the winner with so many hits taken away: exact for all four rules, and for ties.
    Of `votes` there must be as many as vote and `limit` more, or all that the memory holds.
    """
    rivals = [label for label in dict.fromkeys(votes.labels) if label != winner]
    fewest: tuple[int, ...] | None = None
    for least, rival in sorted(_possible(votes, winner, rivals, limit), key=itemgetter(0)):
        most = limit if fewest is None else len(fewest) - 1
        if least > most:
            break
        fewest = (
            _removal(votes, winner, rival, least) or _removal(votes, winner, rival, most) or fewest
        )
    if fewest is None:
        return None
    left = [i for i in range(len(votes.labels)) if i not in set(fewest)]
    rest = Tally([votes.labels[i] for i in left], [votes.scales[i] for i in left], votes.ranks)
    return Change(fewest, str(rest.result[1]))


def tolerance_of_wrong_labels(votes: Tally, winner: str) -> int:
    """With how many wrong labels in the memory, whichever they are, the answer is the same.

    Nothing else moves: distances do not depend on labels. The rival takes the voters that bring it
    most, of the winner twice their weight; it may be a label that nobody has yet.
    """
    voters = [(votes.labels[i], votes.scales[i] * votes.ranks[i]) for i in range(votes.voting)]
    sums, _ = votes.result
    gains = sorted(
        ((adds * (1 + (label == winner)), label) for label, adds in voters), reverse=True
    )
    fewest = len(voters)
    for rival in [*(label for label in sums if label != winner), None]:
        behind = sums[winner] - (0 if rival is None else sums[rival])
        taken = 0
        for gain, label in gains:
            if behind < 0 or taken >= fewest:
                break
            if behind == 0 and _levels(voters, winner, rival, taken):
                break
            if label != rival:
                behind -= gain
                taken += 1
        fewest = min(fewest, taken)
    return fewest - 1


def _levels(voters: Sequence[tuple[str, int]], winner: str, rival: str | None, most: int) -> bool:
    """Whether the rival can be level with the winner, and there before it, by so many wrong labels."""
    # By (changed, who had a voter last): how far the rival is ahead at best.
    states = {(0, NEITHER): 0}
    for label, adds in voters:
        side = WINNER if label == winner else RIVAL if label == rival else NEITHER
        following: dict[tuple[int, int], int] = {}
        for (changed, last), ahead in states.items():
            options = [(changed, side, (0, -adds, adds)[side])]
            if side != RIVAL and changed < most:
                options.append((changed + 1, RIVAL, adds))
            for number, moved, gain in options:
                key = (number, moved if gain else last)
                following[key] = max(following.get(key, ahead + gain), ahead + gain)
        states = following
    return any(_wins(ahead, last) for (_, last), ahead in states.items())


def _wins(ahead: int, last: int) -> bool:
    return ahead > 0 or (ahead == 0 and last == WINNER)


def _possible(
    votes: Tally, winner: str, rivals: Sequence[str], limit: int
) -> list[tuple[int, str]]:
    """The rivals that may win, and the fewest removals by which: in floats, so it may take more."""
    number = {label: i for i, label in enumerate(rivals)}
    unit = max(votes.scales, default=0) * max(votes.ranks) or 1
    scales = [scale * max(votes.ranks) / unit for scale in votes.scales]
    ranks = np.array([*(rank / max(votes.ranks) for rank in votes.ranks), 0.0])
    k, size = len(votes.ranks), len(votes.labels)
    removed = np.arange(limit + 1)
    # How far each rival is ahead at best, after some hits of which so many are removed.
    ahead = np.full((len(rivals), limit + 1), -np.inf)
    ahead[:, 0] = 0
    fewest = np.full(len(rivals), limit + 1)
    for i, label in enumerate(votes.labels):
        # Ranks of those that are kept; who has k of them already is at its end.
        places = i - removed
        going_on = (places >= 0) & (places < k)
        kept = np.where(going_on, ahead, -np.inf)
        taken = np.full_like(ahead, -np.inf)
        taken[:, 1:] = kept[:, :-1]
        gain = scales[i] * ranks[np.clip(places, 0, k)]
        if label == winner:
            kept -= gain
        else:
            kept[number[label]] += gain
        ahead = np.maximum(kept, taken)
        if i == size - 1:
            ended = ahead >= -FLOAT_ERROR * k
        else:
            ended = (ahead >= -FLOAT_ERROR * k) & (i + 1 - removed == k)
        fewest = np.minimum(fewest, np.where(ended, removed, limit + 1).min(axis=1))
    return [(int(few), rival) for few, rival in zip(fewest, rivals, strict=True) if few <= limit]


def _removal(votes: Tally, winner: str, rival: str, limit: int) -> tuple[int, ...] | None:
    """The fewest hits without which `rival` has more than `winner`, or as much and had it before."""
    k = len(votes.ranks)
    # By (removed, who had a voter last): how far the rival is ahead at best, and what was removed.
    states: dict[tuple[int, int], tuple[int, _Chain]] = {(0, NEITHER): (0, None)}
    ends: dict[int, _Chain] = {}
    for i, (label, scale) in enumerate(zip(votes.labels, votes.scales, strict=True)):
        following: dict[tuple[int, int], tuple[int, _Chain]] = {}
        side = WINNER if label == winner else RIVAL if label == rival else NEITHER
        for (removed, last), (ahead, chain) in states.items():
            adds = scale * votes.ranks[i - removed]
            gain = (0, -adds, adds)[side]
            _keep(following, (removed, side if gain else last), ahead + gain, chain)
            if removed < limit:
                _keep(following, (removed + 1, last), ahead, (chain, i))
        states = {}
        for (removed, last), (ahead, chain) in following.items():
            if i + 1 - removed < k:
                states[removed, last] = (ahead, chain)
            elif _wins(ahead, last):
                ends.setdefault(removed, chain)
    for (removed, last), (ahead, chain) in states.items():
        if _wins(ahead, last):
            ends.setdefault(removed, chain)
    return _places(ends[min(ends)]) if ends else None


_Chain = tuple["_Chain", int] | None


def _keep(
    states: dict[tuple[int, int], tuple[int, _Chain]],
    key: tuple[int, int],
    ahead: int,
    chain: _Chain,
) -> None:
    held = states.get(key)
    if held is None or ahead > held[0]:
        states[key] = (ahead, chain)


def _places(chain: _Chain) -> tuple[int, ...]:
    places = []
    while chain is not None:
        chain, place = chain
        places.append(place)
    return tuple(reversed(places))
