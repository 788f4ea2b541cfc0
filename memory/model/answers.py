"""Questions and what an answer rests on. Immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memory.errors import Reason, Rejected
from memory.model.events import MAX_ID, LogPartition, Payload
from memory.model.text import canonical_name
from memory.vectors import Vector

MAX_K = 100


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log: a record's offset, or the offset below which all is merged.

    `time`, where it is known, is when the log took that record, µs. It tells a record that a log
    lost from the one that has its offset now.
    """

    topic: str
    topic_id: str
    partition: int
    offset: int
    time: int | None = field(default=None, compare=False)

    @property
    def log_partition(self) -> LogPartition:
        return LogPartition(self.topic_id, self.partition)

    def to_json(self) -> dict[str, str | int]:
        place: dict[str, str | int] = {
            "topic": self.topic,
            "topic_id": self.topic_id,
            "partition": self.partition,
            "offset": self.offset,
        }
        return place if self.time is None else {**place, "time": self.time}


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


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A neighbour and what it contributed; `rank` counts from 0."""

    image_id: str
    label: str
    distance: float
    rank: int
    weight: float

    def to_json(self) -> dict[str, str | float | int]:
        return {
            "id": self.image_id,
            "label": self.label,
            "distance": self.distance,
            "rank": self.rank,
            "weight": self.weight,
        }


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
