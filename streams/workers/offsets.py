"""Which offsets are done when records finish in any order."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Offsets:
    """Which offsets of each partition are finished when they finish in any order."""

    _open: dict[int, set[int]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)
    _noted: dict[int, int] = field(default_factory=dict)

    def start(self, partition: int, offset: int) -> None:
        self._open.setdefault(partition, set()).add(offset)
        self._next[partition] = max(self._next.get(partition, 0), offset + 1)

    def finish(self, partition: int, offset: int) -> None:
        self._open[partition].discard(offset)

    def take_advances(self) -> dict[int, int]:
        """By partition, the offset below which all is finished, where it grew since last asked."""
        moved = {}
        for partition, following in self._next.items():
            below = min(self._open[partition], default=following)
            if below > self._noted.get(partition, 0):
                moved[partition] = self._noted[partition] = below
        return moved
