"""How far a memory in one process has come in the log, and by what that is known again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory.model.events import LogPartition
from memory.model.logs import NO_WITNESSES, OF_NONE, ByPartition, Cut, Witness, Witnesses
from memory.model.times import NEVER


class ExactPositions:
    """`memory.ports.Positions` and `memory.ports.LogMarks` in dicts; there is no other generation."""

    def __init__(self) -> None:
        self._positions: dict[LogPartition, int] = {}
        self._times: dict[LogPartition, int] = {}
        self._witnesses: dict[LogPartition, dict[int, int]] = {}
        self._cuts: dict[LogPartition, list[Cut]] = {}

    def follow(self) -> None:
        """There is no other."""

    def positions(self) -> Mapping[LogPartition, int]:
        return dict(self._positions)

    def advance(
        self, positions: ByPartition, youngest: ByPartition = OF_NONE, noted: ByPartition = OF_NONE
    ) -> bool:
        if any(self._positions.get(place, 0) < offset for place, offset in noted.items()):
            return False
        for place, time in youngest.items():
            self._times[place] = max(self._times.get(place, NEVER), time)
        for place, offset in positions.items():
            self._positions[place] = max(self._positions.get(place, -1), offset)
        return True

    def witnesses(self) -> Witnesses:
        found: dict[LogPartition, list[Witness]] = {}
        for place in self._positions.keys() & self._times.keys():
            found[place] = [Witness(self._positions[place], self._times[place])]
        for place, noted in self._witnesses.items():
            others = [Witness(offset, time) for offset, time in sorted(noted.items(), reverse=True)]
            found[place] = [*found.get(place, []), *others]
        return {place: held for place, held in found.items() if held}

    def note_witnesses(self, witnesses: Witnesses, instead_of: Witnesses = NO_WITNESSES) -> None:
        for place, gone in instead_of.items():
            for witness in gone:
                self._witnesses.get(place, {}).pop(witness.offset, None)
        for place, new in witnesses.items():
            noted = self._witnesses.setdefault(place, {})
            for witness in new:
                noted[witness.offset] = max(witness.time, noted.get(witness.offset, NEVER))

    def rewind(self, partition: LogPartition, cut: Cut) -> None:
        self._positions[partition] = min(self._positions.get(partition, 0), cut.offset)
        self._witnesses.pop(partition, None)
        self.advance({}, {partition: cut.time + 1})
        self._cuts.setdefault(partition, []).append(cut)

    def cuts(self) -> Mapping[LogPartition, Sequence[Cut]]:
        return self._cuts
