"""How often items were neighbours with another label, and what is made of it (paper, "pruning").

Counted leave-one-out over the memory: each item asks for its nearest others, and those of them that have
another label than it has are counted, also where the vote would come out right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from memory.model.keys import ImageKey

if TYPE_CHECKING:
    from memory.model.answers import Effect, Suspect

SOFT_NEIGHBORS = 10
HARD_NEIGHBORS = 100
HARD_FROM = 128
"""An item that was so often a wrong neighbour among a hundred is pruned."""
SOFT_FACTOR = 1.75


class Pruning(StrEnum):
    """What is done with unreliable items: nothing, weigh them less, or leave them out."""

    NONE = "none"
    SOFT = "soft"
    HARD = "hard"


@dataclass(frozen=True, slots=True)
class WrongCounts:
    """Wrong counts by image id, over 10 and over 100 neighbours; who is not there has none.

    `pruned` are the images whose count over a hundred is `HARD_FROM` or more. `age` is how long ago,
    seconds, the counts were last those of the whole memory.
    """

    soft: Mapping[str, int]
    hard: Mapping[str, int]
    pruned: frozenset[ImageKey]
    age: float

    def factor(self, image_id: str) -> float:
        """What soft pruning multiplies an item's weight by: 1.75 / (1 + v), 1 if v is 0."""
        count = self.soft.get(image_id, 0)
        return SOFT_FACTOR / (1 + count) if count else 1.0


class Uncounted:
    """An index that counts no wrong neighbours (see `memory.ports.Search`)."""

    def wrong_counts(self) -> WrongCounts | None:
        return None

    def suspects(self) -> Sequence[Suspect]:
        return ()

    def effect_of_pruning(self, _least: int) -> Effect | None:
        return None
