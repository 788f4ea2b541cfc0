"""Wrong counts of all rows, kept current as rows change."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.model.answers import Effect, LabelEffect, Suspect
from memory.model.questions import Exclusion, Probe
from memory.model.reliability import (
    HARD_FROM,
    HARD_NEIGHBORS,
    SOFT_NEIGHBORS,
    WrongCounts,
)
from memory.replica.rows import NOWHERE, Rows, Shown

NO_NUMBER = -1
AT_ONCE, GONE_AT_ONCE = 4096, 1024
"""Rows whose lists are gone through in one step, after which others of this process may go on."""
RANK_WEIGHTS = 1 / np.arange(2, 2 + SOFT_NEIGHBORS)


class Reliability:
    """Each row's list of its nearest others, by the rows' numbers, and the counts that follow from it.

    A list is asked for anew when its row's vector changed, when one in it went or moved, and when a new
    one may belong into it; so that, when nothing is left to do, lists and counts are what asking for all of
    them would give. It goes in rounds, each of the rows that changed until it began: while others change without
    end, counts follow all the same, and nothing that is gone stays in them. `suspects`, the clearest first, are of
    the last round too. For one thread; it takes `lock` for as long as it looks at the rows.
    """

    def __init__(self, rows: Rows, lock: threading.Lock) -> None:
        self._rows = rows
        self._lock = lock
        self._lists = np.full((0, HARD_NEIGHBORS), NO_NUMBER, np.int32)
        # The least cosine with which another comes into a row's list, rounded down.
        self._reach = np.zeros(0, np.float32)
        self._hashes = np.zeros(0, np.int64)
        self._codes = np.zeros(0, np.int32)
        self._stale = np.zeros(0, np.bool_)
        self._there = np.zeros(0, np.bool_)
        # Those that were asked for, or found, when it was not known yet what became of them.
        self._unsure = np.zeros(0, np.bool_)
        self._shown: dict[int, Shown] = {}
        self._labels: dict[str, int] = {}
        self._counts: WrongCounts | None = None
        self.suspects: Sequence[Suspect] = ()
        self._changed = True
        self._round: list[int] | None = None
        self._round_began = 0.0
        self.as_of = 0.0
        """When the last round began, by the monotonic clock: rows as they were then are counted."""

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self._lists, self._reach, self._hashes, self._codes))

    @property
    def counts(self) -> WrongCounts | None:
        """As of when the last round began; None before the first has ended."""
        if self._counts is None:
            return None
        age = time.monotonic() - self.as_of
        return WrongCounts(self._counts.soft, self._counts.hard, self._counts.pruned, age)

    def work(self, at_most: int, current: float) -> bool:
        """Do a part of what is to do, of about so many searches. True when nothing is left.

        `current` is as of when the rows are, by the monotonic clock.
        """
        if self._round is None:
            with self._lock:
                self._round = list(self._rows.changed)
                self._rows.changed.clear()
            self._round_began = current
        if self._round:
            self._take(self._round, at_most)
            return False
        stale = np.flatnonzero(self._stale)[:at_most]
        if len(stale):
            self._ask(stale)
            return False
        if self._changed:
            self._count()
        self.as_of, self._round = self._round_began, None
        return not self._rows.changed

    def _take(self, changed: list[int], at_most: int) -> None:
        """See what became of some rows."""
        rows, self._changed = self._rows, True
        with self._lock:
            last = np.array(changed[: -GONE_AT_ONCE - 1 : -1], np.intp)
            places = rows.places_of(last)
            # Those that are gone cost no search, and a look through all lists however many they are.
            taken = np.cumsum(places != NOWHERE) <= at_most
            numbers, places = last[taken], places[taken]
            del changed[-len(numbers) :]
            everywhere = rows.numbers[: len(rows)].astype(np.intp)
            self._make_room(rows.highest_number + 1)
            shown, found = places != NOWHERE, places[places != NOWHERE].tolist()
            # With the image: another one's row of the same number may hold the same vector.
            told = [rows.shown[place] for place in found]
            hashes = [hash((rows.shown[place].image, int(rows.hashes[place]))) for place in found]
            codes = [self._code(one.label) for one in told]
            new, moved = ~self._there[numbers], self._unsure[numbers]
            moved[shown] |= self._hashes[numbers[shown]] != np.array(hashes, np.int64)
            fresh = shown & (new | moved)
            near = np.zeros(0, np.intp)
            if fresh.any():
                reach = self._reach[everywhere]
                near = everywhere[rows.may_be_nearer(places[fresh], reach)]
        self._drop(numbers[(~shown | moved) & (~new | self._unsure[numbers])])
        self._unsure[numbers] = False
        self._stale[near] = True
        self._stale[numbers[fresh]] = True
        self._stale[numbers[~shown]] = False
        self._there[numbers] = shown
        self._hashes[numbers[shown]] = hashes
        self._codes[numbers[shown]] = codes
        self._shown.update(zip(numbers[shown].tolist(), told, strict=True))

    def _drop(self, numbers: npt.NDArray[np.intp]) -> None:
        """Let the rows that have these in their lists be asked anew, before their numbers are others'."""
        if not len(numbers):
            return
        gone = np.zeros(len(self._there), np.bool_)
        gone[numbers] = True
        for start in range(0, len(gone), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            among = gone[self._lists[some]] & (self._lists[some] != NO_NUMBER)
            self._stale[some] |= among.any(axis=1)
        self._lists[numbers] = NO_NUMBER
        for number in numbers.tolist():
            self._shown.pop(number, None)

    def _ask(self, numbers: npt.NDArray[np.intp]) -> None:
        """Ask for the lists of some rows anew."""
        rows = self._rows
        with self._lock:
            self._make_room(rows.highest_number + 1)
            places = rows.places_of(numbers)
            # Who went since the round began is looked at in the next.
            self._stale[numbers] = False
            self._unsure[numbers[places == NOWHERE]] = True
            numbers, places = numbers[places != NOWHERE], places[places != NOWHERE].tolist()
            probes = [
                Probe(
                    rows.vectors[place].astype(np.float32),
                    HARD_NEIGHBORS,
                    Exclusion(frozenset([rows.shown[place].image])),
                )
                for place in places
            ]
            lists = [
                (rows.numbers[list(places)], distances[-1] if distances else 0.0)
                for distances, _, places in rows.found(probes)
            ]
            self._note_unsure(np.concatenate([numbers, *(others for others, _ in lists)]))
        for number, (others, farthest) in zip(numbers.tolist(), lists, strict=True):
            self._lists[number] = NO_NUMBER
            self._lists[number, : len(others)] = others
            least = np.float32(1 - farthest if len(others) == HARD_NEIGHBORS else -np.inf)
            self._reach[number] = np.nextafter(least, np.float32(-np.inf))

    def _note_unsure(self, numbers: npt.NDArray[Any]) -> None:
        """Of these, those that changed since the round began are looked at once more in the next."""
        if changed := self._rows.changed:
            unsure = [number for number in np.unique(numbers).tolist() if number in changed]
            self._unsure[unsure] = True

    def _count(self) -> None:
        self._drop_unused_labels()
        soft, hard = self._wrong(SOFT_NEIGHBORS), self._wrong(HARD_NEIGHBORS)
        pruned = [
            self._shown[number].image for number in np.flatnonzero(hard >= HARD_FROM).tolist()
        ]
        # Who sees that there are counts finds the suspects of then.
        self.suspects = self._suspects(soft)
        counts = WrongCounts(self._by_id(soft), self._by_id(hard), frozenset(pruned), 0.0)
        self.as_of, self._counts, self._changed = self._round_began, counts, False

    def _drop_unused_labels(self) -> None:
        used = np.unique(self._codes[self._there])
        if len(used) < len(self._labels):
            names = list(self._labels)
            self._labels = {names[code]: n for n, code in enumerate(used.tolist())}
            self._codes = np.searchsorted(used, self._codes).astype(np.int32)

    def _wrong(self, k: int) -> npt.NDArray[np.int64]:
        """Of each number, in how many lists of rows of another label it is among the first `k`."""
        found = np.zeros(len(self._there), np.int64)
        for start in range(0, len(found), AT_ONCE):
            first = self._lists[start : start + AT_ONCE, :k]
            own = self._codes[start : start + AT_ONCE, None]
            wrong = self._known(first) & (self._codes[first] != own)
            found += np.bincount(first[wrong], minlength=len(found))
        return found

    def _known(self, lists: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Where there is a row; one that came since the round began may be in a list already."""
        return np.asarray((lists != NO_NUMBER) & self._there[lists])

    def _by_id(self, counts: npt.NDArray[np.int64]) -> dict[str, int]:
        numbers = np.flatnonzero(counts)
        return {
            self._shown[n].image_id: v
            for n, v in zip(numbers.tolist(), counts[numbers].tolist(), strict=True)
        }

    def _code(self, label: str) -> int:
        return self._labels.setdefault(label, len(self._labels))

    def effect_of_pruning(self, least: int) -> Effect:
        """What leaving out the rows of a count over a hundred of `least` or more would change."""
        gone = self._there & (self._wrong(HARD_NEIGHBORS) >= least)
        leaving, staying = np.flatnonzero(gone), np.flatnonzero(self._there & ~gone)
        columns = [leaving, staying]
        for out in (np.zeros_like(gone), gone):
            right = []
            for start in range(0, len(staying), AT_ONCE):
                some = staying[start : start + AT_ONCE]
                said, share, _ = _vote(self._first_codes(self._lists[some], out), self._codes[some])
                right.append(some[(said == self._codes[some]) & (share > 0)])
            columns.append(np.concatenate([leaving[:0], *right]))
        counted = [np.bincount(self._codes[c], minlength=len(self._labels)) for c in columns]
        labels = {
            label: LabelEffect(*(int(column[code]) for column in counted))
            for label, code in sorted(self._labels.items())
        }
        ids = tuple(sorted(self._shown[number].image_id for number in leaving.tolist()))
        return Effect(ids, labels)

    def _first_codes(
        self, lists: npt.NDArray[np.int32], out: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int32]:
        """Labels of the first ten of each list that are not `out`."""
        there = self._known(lists) & ~out[lists]
        # Those that are there come first, in their order.
        order = np.argsort(~there, axis=1, kind="stable")[:, :SOFT_NEIGHBORS]
        first = np.take_along_axis(lists, order, axis=1)
        kept = np.take_along_axis(there, order, axis=1)
        found: npt.NDArray[np.int32] = np.where(kept, self._codes[first], NO_NUMBER)
        return found

    def _suspects(self, wrong: npt.NDArray[np.int64]) -> list[Suspect]:
        """Rows whose ten nearest others vote for another label, by rank; the clearest first.

        Not those whose label a person gave: no pipeline corrects a person.
        """
        names = list(self._labels)
        found = []
        for start in range(0, len(self._there), AT_ONCE):
            lists = self._lists[start : start + AT_ONCE, :SOFT_NEIGHBORS]
            own = self._codes[start : start + AT_ONCE]
            codes = np.where(self._known(lists), self._codes[lists], NO_NUMBER)
            said, share, own_share = _vote(codes, own)
            there = self._there[start : start + AT_ONCE]
            for i in np.flatnonzero((share > own_share) & there).tolist():
                shown = self._shown[start + i]
                if not shown.corrected:
                    suggested, count = names[said[i]], int(wrong[start + i])
                    shares = float(share[i]), float(own_share[i])
                    found.append(Suspect(shown.image_id, shown.label, suggested, *shares, count))
        found.sort(key=lambda one: (one.own_share - one.share, one.image_id))
        return found

    def _make_room(self, size: int) -> None:
        if size <= (room := len(self._there)):
            return
        size = max(size, room + room // 2)
        for name, empty in (
            *(("_lists", NO_NUMBER), ("_reach", -np.inf), ("_hashes", 0), ("_codes", 0)),
            *(("_stale", False), ("_there", False), ("_unsure", False)),
        ):
            old: npt.NDArray[Any] = getattr(self, name)
            new = np.full((size, *old.shape[1:]), empty, old.dtype)
            new[:room] = old
            setattr(self, name, new)


def _vote(
    codes: npt.NDArray[np.int32], own: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of lists of labels, shape (n, k), nearest first: who wins by rank, its share, and the share of `own`."""
    weights = np.where(codes != NO_NUMBER, RANK_WEIGHTS, 0.0)
    total = weights.sum(axis=1) + np.finfo(float).tiny
    sums = np.stack(
        [(weights * (codes == codes[:, [i]])).sum(axis=1) for i in range(codes.shape[1])], axis=1
    )
    best = np.where(codes != NO_NUMBER, sums, 0.0).argmax(axis=1)
    each = np.arange(len(codes))
    of_own = (weights * (codes == own[:, None])).sum(axis=1)
    return codes[each, best], sums[each, best] / total, of_own / total
