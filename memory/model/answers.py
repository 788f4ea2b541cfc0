"""Questions and what an answer rests on. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct, field, to_builtins

from memory.errors import Reason, Rejected
from memory.model.events import MAX_ID, LogPartition, Payload
from memory.model.text import canonical_name
from memory.vectors import Vector

MAX_K = 100


Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Message(Struct, frozen=True, omit_defaults=True):
    """What travels as JSON, its field names apart as it stands here."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object as Python's values."""
        found: dict[str, Any] = to_builtins(self)
        return found


class Position(Message, frozen=True, eq=False):
    """A place in the log: a record's offset, or the offset below which all is merged.

    `time`, where it is known, is when the log took that record, µs. It tells a record that a log
    lost from the one that has its offset now; places are equal without it.
    """

    topic: str
    topic_id: str
    partition: Count
    offset: Count
    time: Count | None = None

    @property
    def log_partition(self) -> LogPartition:
        return LogPartition(self.topic_id, self.partition)

    def _place(self) -> tuple[str, str, int, int]:
        return (self.topic, self.topic_id, self.partition, self.offset)

    def __eq__(self, other: object) -> bool:
        return self._place() == other._place() if isinstance(other, Position) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._place())

    def __lt__(self, other: Position) -> bool:
        return self._place() < other._place()


class Rule(StrEnum):
    """How neighbours vote (paper, section 3 and appendix)."""

    PLURALITY = "plurality"
    DISTANCE = "distance"
    SOFTMAX = "softmax"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class ItemRef:
    """Ask with the vector of a remembered image; it is no neighbour of itself."""

    image_id: str

    def __post_init__(self) -> None:
        spelt = canonical_name(
            self.image_id, what="the item id", reason=Reason.INVALID_ID, limit=MAX_ID
        )
        object.__setattr__(self, "image_id", spelt)


@dataclass(frozen=True, slots=True)
class Query:
    """A question: what is this?"""

    payload: Payload | ItemRef
    k: int = 10
    rule: Rule = Rule.RANK

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise Rejected(Reason.INVALID_K, f"k must be 1 to {MAX_K}, not {self.k}")


@dataclass(frozen=True, slots=True)
class Probe:
    """One search: the `k` nearest items of `vector`, without the image whose id is `excluded`."""

    vector: Vector
    k: int
    excluded: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found by a search; `distance` is 1 - cosine, 0 to 2."""

    image_id: str
    label: str
    distance: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The nearest items, sorted by (distance, image id); `exact` is False for an estimate."""

    hits: tuple[Hit, ...]
    exact: bool


class Neighbor(Message, frozen=True):
    """A neighbour and what it contributed; `rank` counts from 0."""

    image_id: str = field(name="id")
    label: str
    distance: float
    rank: int
    weight: float


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote. `label` is None when nobody voted; shares sum to 1."""

    label: str | None
    shares: Mapping[str, float]
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer and all it rests on. `timings` are seconds by stage."""

    vote: Vote
    rule: Rule
    k: int
    exact: bool
    embedder: str
    as_of: tuple[Position, ...]
    timings: Mapping[str, float]

    @property
    def empty(self) -> bool:
        return not self.vote.neighbors
